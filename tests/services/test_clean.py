"""`callforge clean` on real servers: what a run holds goes, what an alias points to stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import InputError
from components.services.storage import objects_below, write_object
from components.services.tracking import open_tracker
from components.settings import RunSettings
from components.stages.local_run import sole_run
from pipelines import clean, seaweedfs
from pipelines.supervisor import known_ports


@pytest.fixture
def client(services: dict[str, str]) -> Any:
    return MlflowClient(services["MLFLOW_TRACKING_URI"])


@pytest.fixture
def make_run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`make_run("a", alias)`: the id of a run that left a folder, objects, an MLflow run with a file, and a version."""
    monkeypatch.chdir(tmp_path)
    client.create_registered_model(tmp_path.name)

    def make(name: str, alias: str = "") -> str:
        run_id = f"{tmp_path.name}-{name}"
        folder = tmp_path / ".callforge" / "runs" / run_id
        for path in ("run.json", "egpo_rl/checkpoints/step", "egpo_rl/model/weights", "egpo_rl/manifest.json"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"x" * 100)
        root = f"{seaweedfs.ARTIFACT_ROOT}/{run_id}"
        for key in ("egpo_rl/checkpoints/odd", "models/12/weights", "evaluations/34/scores.json", "egpo_rl/5/model"):
            write_object(f"{root}/{key}", b"x")
        with open_tracker(RunSettings(run_id=run_id, experiment=tmp_path.name), "egpo_rl") as tracker:
            tracker.log_artifact(folder / "run.json")
        tags = {"callforge.run_id": run_id, "callforge.evaluation": f"{root}/evaluations/34"}
        source = f"{root}/models/12"
        version = client.create_model_version(tmp_path.name, source, tags=tags, await_creation_for=0).version
        if alias:
            client.set_registered_model_alias(tmp_path.name, alias, version)
        return run_id

    return make


def test_all_of_a_run_goes_but_what_an_alias_points_to(
    make_run: Callable[..., str], client: Any, tmp_path: Path, servers_folder: Path
) -> None:
    champion, other, busy = make_run("a", "champion"), make_run("b"), make_run("c")
    runs = tmp_path / ".callforge" / "runs"
    with sole_run(runs / busy):
        found = clean.look([champion, other, busy], False, True)
        assert [held.at_work for held in found] == [False, False, True]
        for held in found[:2]:
            clean.remove(held)
    assert [path.name for path in runs.iterdir()] == [busy]
    kept = objects_below(f"{seaweedfs.ARTIFACT_ROOT}/{champion}")
    assert set(kept) == {"models/12/weights", "evaluations/34/scores.json"}
    assert objects_below(f"{seaweedfs.ARTIFACT_ROOT}/{other}") == {}
    versions = client.search_model_versions(f"name = '{tmp_path.name}'")
    assert {version.tags["callforge.run_id"] for version in versions} == {champion, busy}
    experiment = client.get_experiment_by_name(tmp_path.name).experiment_id
    left = {run.data.tags["callforge.run_id"]: run.info.run_id for run in client.search_runs([experiment])}
    assert set(left) == {champion, busy}
    files = objects_below(f"{clean.MLFLOW_FILES}/{experiment}")
    assert {name.split("/")[0] for name in files} == set(left.values())
    [again] = clean.look([champion], False, True)
    assert not again.bytes and "(champion)" in "".join(again.describe())
    seaweedfs.give_back_space(servers_folder, known_ports(servers_folder))


@pytest.mark.parametrize("kept_by", ["a copy", "a former champion"])
def test_weights_that_are_still_wanted_stay(
    make_run: Callable[..., str], client: Any, tmp_path: Path, kept_by: str
) -> None:
    """A copy in another registered model has the same weights; a former champion may be returned to."""
    run_id = make_run("a")
    if kept_by == "a copy":
        copy = client.copy_model_version(f"models:/{tmp_path.name}/1", f"{tmp_path.name}-production")
        client.set_registered_model_alias(copy.name, "champion", copy.version)
    else:
        client.set_registered_model_tag(tmp_path.name, "callforge.champions", '["1"]')
    [held] = clean.look([run_id], False, True)
    clean.remove(held)
    kept = objects_below(f"{seaweedfs.ARTIFACT_ROOT}/{run_id}")
    assert set(kept) == {"models/12/weights", "evaluations/34/scores.json"}
    versions = client.search_model_versions(f"name = '{tmp_path.name}'")
    assert len(versions) == (0 if kept_by == "a copy" else 1)


def test_a_run_that_changed_since_the_list_is_left_alone(make_run: Callable[..., str], tmp_path: Path) -> None:
    run_id = make_run("a")
    [held] = clean.look([run_id], False, True)
    weights = tmp_path / ".callforge" / "runs" / run_id / "egpo_rl" / "model" / "weights"
    weights.write_bytes(b"trained for hours, while the question waited for its answer")
    with pytest.raises(InputError, match="it changed since it was looked at; nothing of it was removed"):
        clean.remove(held)
    assert weights.exists() and len(objects_below(f"{seaweedfs.ARTIFACT_ROOT}/{run_id}")) == 4


def test_the_checkpoints_of_an_unfinished_stage_are_its_work(make_run: Callable[..., str], tmp_path: Path) -> None:
    run_id = make_run("a")
    (tmp_path / ".callforge" / "runs" / run_id / "egpo_rl" / "manifest.json").unlink()
    [held] = clean.look([run_id], True, True)
    assert not held.bytes


def test_checkpoints_alone_leave_the_run_and_its_model(make_run: Callable[..., str], tmp_path: Path) -> None:
    run_id = make_run("a")
    [held] = clean.look([run_id], True, True)
    clean.remove(held)
    folder = tmp_path / ".callforge" / "runs" / run_id
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"run.json", "egpo_rl/model/weights"} <= left and not any("checkpoints/" in name for name in left)
    assert len(objects_below(f"{seaweedfs.ARTIFACT_ROOT}/{run_id}")) == 3
    with pytest.raises(InputError, match="run nosuch: there is no such run here"):
        clean.look(["nosuch"], False, True)

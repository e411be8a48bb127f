"""A pod that goes on elsewhere: the newest checkpoint comes back from a real S3 server."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import torch
from mlflow import MlflowClient

from components.egpo_rl import train
from components.egpo_rl.checkpoint import Checkpoints, State, collect_tensors, restore
from components.language_models.model_card import read_card
from components.services import storage
from components.services.mlflow_server import find_run
from components.settings import RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.folder import verified_manifest
from components.stages.publishing import resolve_published
from tests.unit.egpo_rl.egpo_support import SMALL, outputs_of, stage_inputs


def made(step: int, settings_hash: str = "same") -> tuple[State, torch.nn.Parameter]:
    """The state after some steps of AdamW on one matrix, and the matrix."""
    matrix = torch.nn.Parameter(torch.zeros(300, 200))
    optimizer = torch.optim.AdamW([matrix])
    for number in range(step):
        matrix.grad = torch.full_like(matrix, float(number + 1))
        optimizer.step()
    state = State(
        step=step,
        settings_hash=settings_hash,
        cursor=8 * step,
        pass_rates={"3": {"visits": 1, "last": 1.0, "solved_in_a_row": 1, "retired_until": 0}},
        too_long=[5],
        bad_steps=0,
        held_out_before=[[0, True, 0.25]],
        python_random=random.getstate(),
        tensors=dict(collect_tensors({"matrix": matrix}, optimizer)),
    )
    return state, matrix


def test_an_empty_folder_goes_on_from_s3(root: str, tmp_path: Path) -> None:
    remote = f"{root}/checkpoints"
    with Checkpoints(tmp_path / "here", remote, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(made(step)[0])
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "step-0000002.safetensors",
        "step-0000003.safetensors",
    ]
    with Checkpoints(tmp_path / "elsewhere", remote, keep=2) as checkpoints:
        state = checkpoints.newest("same", 9)
        assert state is not None
        expected, matrix = made(3)
        for field in dataclasses.fields(State):
            if field.name not in ("tensors", "python_random"):
                assert getattr(state, field.name) == getattr(expected, field.name)
        parameter = torch.nn.Parameter(torch.zeros(300, 200))
        optimizer = torch.optim.AdamW([parameter])
        restore(state, state.tensors.items(), {"matrix": parameter}, optimizer)
        assert torch.equal(parameter, matrix)
        assert checkpoints.newest("others", 9) is None


def test_a_run_in_an_empty_folder_goes_on_with_its_curves_and_samples(
    root: str, tmp_path: Path, tiny_model: Path, make_records
) -> None:
    inputs = stage_inputs(tmp_path, tiny_model, make_records(20))
    told = []
    for pod in ("here", "elsewhere"):
        train.run(SMALL, inputs, outputs_of(inputs, tmp_path / pod, RunSettings(artifact_root=root)))
        told.append([(tmp_path / pod / name).read_text() for name in ("metrics.jsonl", "samples.jsonl")])
    assert told[0] == told[1], "to the second: no step was made twice"


def test_a_second_stage_of_one_kind_keeps_apart_from_the_first(
    root: str, tmp_path: Path, tiny_model: Path, make_records, services
) -> None:
    first = find_stage("egpo_rl")
    second = dataclasses.replace(first, name="egpo_rl-2")
    run = RunSettings(run_id=tmp_path.name, experiment=tmp_path.name, artifact_root=root)
    inputs = stage_inputs(tmp_path, tiny_model, make_records(20))
    manifests = []
    for stage in (first, second):
        folder = tmp_path / stage.name
        execute_stage(stage, SMALL, inputs, folder, run)
        manifests.append(verified_manifest(folder))
        inputs = inputs | {"model": folder}
        card = read_card(folder / "model")
        assert card.stage == stage.name
        there = f"{root}/{run.run_id}/{stage.name}"
        assert storage.names_below(f"{there}/checkpoints"), "its checkpoints are in a folder of their own"
        storage.download_folder(resolve_published(there), tmp_path / "from S3" / stage.name)
        assert verified_manifest(tmp_path / "from S3" / stage.name) == manifests[-1]
    one, two = manifests
    assert two.stage == second.name and one.work != two.work and card.parents["model"] == one.content
    client, (_, mlflow_run) = MlflowClient(services["MLFLOW_TRACKING_URI"]), find_run(run)
    tracked = client.get_run(mlflow_run).data
    for name in (first.name, second.name):
        assert f"{name}/reward" in tracked.metrics and not [key for key in tracked.metrics if "/final/" in key]
        assert [item.step for item in client.get_metric_history(mlflow_run, f"{name}/reward")] == [1, 2, 3]
        assert tracked.tags[f"callforge.{name}"] == "finished" and tracked.params[f"{name}/seed"] == "0"
        files = {item.path for item in client.list_artifacts(mlflow_run, name)}
        assert files == {f"{name}/samples.json", f"{name}/final.json", f"{name}/report.html"}


def test_the_newer_of_here_and_s3_is_taken(root: str, tmp_path: Path, capsys) -> None:
    remote = f"{root}/checkpoints"

    def save(folder: str, step: int, remote: str = remote, settings_hash: str = "same") -> None:
        with Checkpoints(tmp_path / folder, remote, keep=2) as checkpoints:
            checkpoints.save(made(step, settings_hash)[0])

    def newest(folder: str) -> int | None:
        with Checkpoints(tmp_path / folder, remote, keep=2) as checkpoints:
            state = checkpoints.newest("same", 9)
            return state and state.step

    save("here", 1)
    save("elsewhere", 5)  # the run went on there, and comes back
    assert newest("here") == 5
    save("here", 6, remote="")  # S3 was away
    assert newest("here") == 6
    save("others", 9, settings_hash="others")
    assert newest("here") == 6
    assert newest("empty") is None
    assert capsys.readouterr().out.count("safetensors is of other settings") == 2  # of "here" and of "empty"


def test_only_the_head_of_one_that_is_not_newer_is_fetched(services, root, tmp_path, port_forward, monkeypatch) -> None:
    state = made(3)[0]
    state.tensors["large"] = torch.zeros(16_000_000)
    with Checkpoints(tmp_path, f"{root}/checkpoints", keep=2) as checkpoints:
        checkpoints.save(state)
    forward = port_forward(services["AWS_ENDPOINT_URL_S3"], cut_after=32_000_000)  # of 64 MB
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", forward.url)
    with Checkpoints(tmp_path, f"{root}/checkpoints", keep=2) as checkpoints:
        found = checkpoints.newest("same", 9)
    assert found is not None and found.step == 3
    assert forward.cuts == 0


def test_nothing_there_is_a_fresh_start(root: str, tmp_path: Path) -> None:
    with Checkpoints(tmp_path, f"{root}/checkpoints", keep=2) as checkpoints:
        assert checkpoints.newest("same", 9) is None


def test_a_store_that_goes_away_is_said_and_does_not_stop_the_run(
    services: dict[str, str], root: str, tmp_path: Path, port_forward, monkeypatch, capsys
) -> None:
    forward = port_forward(services["AWS_ENDPOINT_URL_S3"])
    for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, forward.url)
    with Checkpoints(tmp_path, f"{root}/checkpoints", keep=2) as checkpoints:
        checkpoints.save(made(1)[0])
        checkpoints.save(made(2)[0])  # waits for the first to arrive
        forward.stop()
        checkpoints.save(made(3)[0])
    assert "was not copied to S3" in capsys.readouterr().out
    assert (tmp_path / "step-0000003.safetensors").exists()
    for name in ("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, services["AWS_ENDPOINT_URL_S3"])
    assert "even.safetensors" in storage.names_below(f"{root}/checkpoints")


def test_damaged_objects_are_passed_over_for_the_one_before(root: str, tmp_path: Path, capsys) -> None:
    remote = f"{root}/checkpoints"
    with Checkpoints(tmp_path / "here", remote, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(made(step)[0])
    content = bytearray((tmp_path / "here" / "step-0000003.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").write_bytes(content)

    def newest() -> int | None:
        with Checkpoints(tmp_path / "elsewhere", remote, keep=2) as checkpoints:
            state = checkpoints.newest("same", 9)
            return state and state.step

    assert newest() == 3
    storage.upload_file(tmp_path / "damaged", f"{remote}/even.safetensors")
    assert newest() == 2
    assert capsys.readouterr().out.count("is damaged") == 1
    for number, content in enumerate((b"", b"no safetensors")):
        (tmp_path / "damaged").write_bytes(content)
        storage.upload_file(tmp_path / "damaged", f"{remote}/{('odd', 'even')[number]}.safetensors")
    assert newest() is None
    assert capsys.readouterr().out.count("cannot be read") == 2
    with Checkpoints(tmp_path / "elsewhere", remote, keep=2) as checkpoints:
        checkpoints.newest("same", 9)
        checkpoints.save(made(1)[0])
    shutil.rmtree(tmp_path / "elsewhere")
    assert newest() == 1

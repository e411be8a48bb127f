"""One stage by itself, with real S3 and MLflow: its outputs arrive where the environment says, over nobody else's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.services.mlflow_server import RUN_TAG
from components.services.storage import names_below
from components.stages.publishing import resolve_published
from pipelines import cli


def test_a_lone_stage_has_a_run_of_its_own(
    services: dict[str, str], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("CALLFORGE_ARTIFACT_ROOT", root)
    experiment = f"lone {tmp_path.name}"

    def refine(out: str, seed: int, *arguments: str) -> str:
        """The run that it was told to be."""
        settings = [f"run.experiment={experiment}", "data_refine.sample_size=20", f"data_refine.seed={seed}"]
        changes = [part for setting in settings for part in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["callforge", "refine", "--out", str(tmp_path / out), *arguments, *changes])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")).split()[1]

    runs = [refine("one", 0), refine("two", 1), refine("three", 2, "--run-id", "mine")]
    assert runs == [*dict.fromkeys(runs[:2]), "mine"], "others are not overwritten"
    assert refine("one", 0) == runs[0], "the same command goes on where it stopped"
    for run in runs:
        assert "manifest.json" in names_below(resolve_published(f"{root}/{run}/data_refine"))
    assert not names_below(f"{root}/local/data_refine")
    client = MlflowClient(services["MLFLOW_TRACKING_URI"])
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert {item.data.tags[RUN_TAG] for item in found} == set(runs)

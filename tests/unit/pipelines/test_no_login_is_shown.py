"""With a login in every address that the environment or the user names, no error path shows it: not printed, not in an
error, not in a file of the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import CallforgeError
from components.language_models.base_models import resolve_base_model
from components.preflight.checks import problems, run
from components.services import events, mlflow_server, storage, tracking
from components.settings import RunSettings, Settings, resolve_settings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.local_run import RUN_FOLDER
from pipelines import cluster, doctor
from pipelines.console import console
from tests.unit.small_servers import http_server

ADDRESSES = (
    "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "HF_ENDPOINT",
    "KFP_ENDPOINT",
)  # fmt: skip


def everything(folder: Path) -> list[Callable[[], Any]]:
    """Whatever asks a server, or is given an address."""
    uri, run_settings = "s3://bucket/x/y", RunSettings(run_id="one", artifact_root="s3://bucket/runs")
    file = folder / "file"
    file.write_text("x")
    kfp, mlflow = os.environ["KFP_ENDPOINT"], os.environ["MLFLOW_TRACKING_URI"]
    records = find_stage("data_refine")
    settings = resolve_settings({"data_refine.data": uri, "sft_warmup.base_model": "org/name"})
    return [
        lambda: storage.check_bucket(uri),
        lambda: storage.upload_file(file, uri),
        lambda: storage.read_object(uri),
        lambda: storage.content_tag(uri),
        lambda: storage.names_below(uri),
        lambda: storage.download_folder(uri, folder / "copy"),
        lambda: storage.open_uri(mlflow).__enter__(),
        lambda: mlflow_server.check_access(run_settings),
        lambda: mlflow_server.find_run(run_settings),
        lambda: tracking.open_tracker(run_settings, "stage", folder / "stage").__enter__(),
        lambda: list(tracking.send_runs(folder)),
        lambda: print(*problems(settings, here=True)),
        lambda: print(*problems(Settings(run=run_settings), here=False)),
        lambda: run("{}", {"data": mlflow, "base_model": mlflow, "artifact_root": uri}, "{}"),
        lambda: run("{}", {}, json.dumps({"egpo_rl.rollout.sampler_urls": [mlflow]})),
        lambda: execute_stage(records, settings.data_refine, {}, folder / "refine", run_settings),
        lambda: resolve_base_model(mlflow),
        lambda: resolve_base_model("s3://bucket/model"),
        lambda: print(*doctor.examine()),
        lambda: list(cluster.upload_pipelines(kfp)),
        lambda: cluster.follow_run(kfp, "r1", console.print),
        lambda: console.print(f"{kfp} and {mlflow}"),
        lambda: events.warn(f"{kfp} and {mlflow}"),
        lambda: events.trace(ValueError(f"{kfp} and {mlflow}")),
    ]


@pytest.mark.parametrize(("login", "answers"), [("user:s3cret", True), ("user:s3cret@/x", False)])
def test_no_login_is_shown(
    login: str, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv(events.PROGRESS_FILE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    monkeypatch.setattr("components.preflight.checks.join_run", lambda: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    shown: list[str] = []
    with http_server(403, b"<html>no") as server:
        host = f"127.0.0.1:{server.port}" if answers else "127.0.0.1:9"
        for name in ADDRESSES:
            monkeypatch.setenv(name, f"http://{login}@{host}")
        for call in everything(tmp_path):
            try:
                call()
            except (CallforgeError, SystemExit) as error:
                shown.append(str(error))
    shown += capfd.readouterr()
    shown += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) > 20
    assert not [text for text in shown if "s3cret" in text]
    assert any(host in text for text in shown), "the address itself is shown"

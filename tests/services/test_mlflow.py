"""Tracking against a real MLflow server: one run for all stages, nothing lost, nothing that stops the work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import InputError
from components.services import tracking
from components.settings import RunSettings


@pytest.fixture
def run(services: dict[str, str], tmp_path: Path) -> RunSettings:
    return RunSettings(run_id=tmp_path.name, experiment=f"experiment {tmp_path.name}")


@pytest.fixture
def client(services: dict[str, str]) -> Any:
    return MlflowClient(services["MLFLOW_TRACKING_URI"])


def test_stages_of_one_run_share_an_mlflow_run(run: RunSettings, client: Any) -> None:
    seen = []
    for stage in ("data_refine", "sft_warmup"):
        with tracking.open_tracker(run, stage) as tracker:
            tracker.log_metrics({f"{stage}/loss": 1.0}, 1)
            seen.append(tracker.run_id)
    assert seen[0] == seen[1]
    found = client.get_run(seen[0])
    assert found.info.run_name == run.run_id
    assert tracker.url.startswith(f"{tracking.tracking_uri()}/#/experiments/{found.info.experiment_id}/runs/{seen[0]}/")
    assert found.info.status == "FINISHED"
    assert set(found.data.metrics) == {"data_refine/loss", "sft_warmup/loss"}
    assert found.data.tags["callforge.sft_warmup"] == "finished"


def test_another_run_id_is_another_mlflow_run(run: RunSettings) -> None:
    with tracking.open_tracker(run, "stage") as one:
        pass
    with tracking.open_tracker(run.model_copy(update={"run_id": "other"}), "stage") as two:
        pass
    assert one.run_id != two.run_id


def test_a_failed_stage_shows_and_a_resumed_one_clears_it(run: RunSettings, client: Any) -> None:
    with pytest.raises(KeyError), tracking.open_tracker(run, "stage") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        raise KeyError
    assert client.get_run(tracker.run_id).info.status == "FAILED"
    with tracking.open_tracker(run, "stage") as again:
        assert client.get_run(again.run_id).info.status == "RUNNING"
    assert again.run_id == tracker.run_id
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.0}


def test_thousands_of_metrics_arrive_in_order(run: RunSettings, client: Any) -> None:
    with tracking.open_tracker(run, "stage") as tracker:
        for step in range(2500):
            tracker.log_metrics({"loss": step / 2}, step)
        tracker.log_metrics({"broken": math.nan, "huge": math.inf}, 0)
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, step / 2) for step in range(2500)]
    assert math.isnan(client.get_run(tracker.run_id).data.metrics["broken"])


def test_parameters_may_come_again_and_may_be_long(run: RunSettings, client: Any, capsys: Any) -> None:
    params = {"adapter": {"rank": 16}, "categories": ["x" * 100] * 20, "text": "ä" * 9000}
    for _ in range(2):
        with tracking.open_tracker(run, "stage") as tracker:
            tracker.log_params(params)
    found = client.get_run(tracker.run_id).data
    assert found.params["adapter.rank"] == "16"
    assert found.params["text"] == "ä" * 500
    assert "tracking:" not in capsys.readouterr().out
    with tracking.open_tracker(run, "stage") as tracker:
        tracker.log_params({"adapter": {"rank": 8}, "new": 1})
    found = client.get_run(tracker.run_id).data
    assert found.params["adapter.rank"] == "16"
    assert found.tags["changed.adapter.rank"] == "8"
    assert found.params["new"] == "1"
    assert "adapter.rank" in capsys.readouterr().out


def test_pages_and_tables_lie_with_the_run(run: RunSettings, client: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>page</p>")
    for rows in ([{"a": 1}], [{"a": 1, "b": "x"}, {"b": None}]):
        with tracking.open_tracker(run, "stage") as tracker:
            tracker.log_artifact(tmp_path / "report.html", "stage")
            tracker.log_table(rows, "samples")
    path = client.download_artifacts(tracker.run_id, "stage/report.html", str(tmp_path))
    assert Path(path).read_text() == "<p>page</p>"
    experiment = client.get_run(tracker.run_id).info.experiment_id
    assert client.load_table(experiment, "samples.json", [tracker.run_id])["a"].tolist()[0] == 1
    found = client.get_run(tracker.run_id).data.tags[tracking.TABLES_TAG]
    assert found == '[{"path": "samples.json", "type": "table"}]'


def test_the_run_that_kfp_opened_is_joined_and_left_open(
    run: RunSettings, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = client.create_run(client.create_experiment(f"kfp {run.run_id}"))
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    with tracking.open_tracker(run, "stage") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
    found = client.get_run(theirs.info.run_id)
    assert tracker.run_id == theirs.info.run_id
    assert found.data.metrics == {"loss": 1.0}
    assert found.info.status == "RUNNING"


def test_a_deleted_experiment_is_named_with_the_way_back(run: RunSettings, client: Any) -> None:
    client.delete_experiment(client.create_experiment(run.experiment))
    with pytest.raises(InputError, match=r"is deleted .*mlflow experiments restore"), tracking.open_tracker(run, "s"):
        pass


def test_what_the_server_refuses_does_not_block_the_rest(run: RunSettings, client: Any, capsys: Any) -> None:
    with tracking.open_tracker(run, "stage") as tracker:
        tracker.log_params({"not?allowed": 1})
        tracker.log_metrics({"loss": 1.0}, 1)
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    assert "refused an entry" in capsys.readouterr().out


def test_a_server_that_goes_away_costs_one_line_and_no_data(
    run: RunSettings,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    port_forward: Callable[[str], Any],
) -> None:
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "LONGEST_PAUSE", 0.1)
    forward = port_forward(tracking.tracking_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", forward.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.open_tracker(run, "stage") as tracker:
        tracker.log_metrics({"loss": 0.0}, 0)
        tracker.flush()
        forward.stop()
        time.sleep(0.02)
        for step in range(1, 20):
            tracker.log_metrics({"loss": float(step)}, step)
        tracker.log_tags({"late": "yes"})
        forward.start()
    out = capsys.readouterr().out
    assert out.count("the work goes on") == 1
    assert "is back" in out
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 20
    assert client.get_run(tracker.run_id).data.tags["late"] == "yes"


def test_a_server_that_stays_away_does_not_fail_the_stage(
    run: RunSettings, monkeypatch: pytest.MonkeyPatch, capsys: Any, port_forward: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(tracking, "LAST_TRIES", 1)
    forward = port_forward(tracking.tracking_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", forward.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.open_tracker(run, "stage") as tracker:
        forward.stop()
        tracker.log_metrics({"a": 1.0, "b": 2.0}, 1)
    assert "2 metrics and 2 other entries are in the stage folder" in capsys.readouterr().out

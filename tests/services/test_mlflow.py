"""Tracking against a real MLflow server: one run for all stages, nothing lost, nothing that stops the work."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import InputError
from components.services import mlflow_server, tracking
from components.services.outbox import METRICS, STATE, TABLES_TAG
from components.settings import RunSettings
from tests.unit.small_servers import http_server


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
    assert tracker.url.startswith(
        f"{mlflow_server.tracking_uri()}/#/experiments/{found.info.experiment_id}/runs/{seen[0]}/"
    )
    assert found.info.status == "FINISHED"
    assert set(found.data.metrics) == {"data_refine/loss", "sft_warmup/loss"}
    assert found.data.tags["callforge.sft_warmup"] == "finished"


def test_a_stage_is_tracked_where_its_folders_neighbours_may_not_be_listed(
    run: RunSettings, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def refuse(path: Path) -> Any:
        if path == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with tracking.open_tracker(run, "stage", tmp_path / "stage") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
    assert client.get_run(tracker.run_id).data.metrics == {"loss": 1.0}


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
    found = client.get_run(tracker.run_id).data.tags[TABLES_TAG]
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


def test_what_the_server_refuses_is_given_up_one_by_one(run: RunSettings, client: Any, capsys: Any) -> None:
    """A bad name takes nothing else of its batch with it."""
    with tracking.open_tracker(run, "stage") as tracker:
        tracker.log_params({"not?allowed": 1, "allowed": 2})
        for step in range(300):
            tracker.log_metrics({"loss": float(step), "..": 0.0, "fine": 1.0}, step)
        tracker.log_tags({"": "x", "late": "yes"})
    found = client.get_run(tracker.run_id)
    assert found.data.metrics == {"loss": 299.0, "fine": 1.0}
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 300
    assert found.data.params == {"allowed": "2"} and found.data.tags["late"] == "yes"
    assert found.info.status == "FINISHED"
    out = capsys.readouterr().out
    assert [out.count(f"does not take {kind}") for kind in ("metrics", "params", "tags")] == [1, 1, 1]
    assert len(out.splitlines()) == 3


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other in tenths of seconds."""
    monkeypatch.setattr(tracking, "SEND_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "LONGEST_PAUSE", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch, port_forward: Callable[[str], Any], soon: None) -> Any:
    """The server behind a port that can be closed."""
    forward = port_forward(mlflow_server.tracking_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", forward.url)
    return forward


def write(folder: Path, steps: range) -> None:
    """What a stage does: it writes lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS).open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in steps)


def history(client: Any, run_id: str, name: str = "stage/loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, name)]


def test_a_server_that_goes_away_costs_one_line_and_no_data(
    run: RunSettings, client: Any, capsys: Any, behind: Any, tmp_path: Path
) -> None:
    with tracking.open_tracker(run, "stage", tmp_path) as tracker:
        write(tmp_path, range(3))
        tracker.flush()
        assert history(client, tracker.run_id) == [0, 1, 2]
        behind.stop()
        write(tmp_path, range(3, 20))
        tracker.log_tags({"late": "yes"})
        tracker.flush()
        tracker.flush()
        behind.start()
    out = capsys.readouterr().out
    assert out.count("the work goes on") == 1
    assert "is back" in out
    assert history(client, tracker.run_id) == list(range(20))
    assert client.get_run(tracker.run_id).data.tags["late"] == "yes"


def test_what_is_unsent_at_the_end_is_sent_by_the_next_stage(
    run: RunSettings, client: Any, capsys: Any, behind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.3)
    with tracking.open_tracker(run, "stage", tmp_path / "one") as tracker:
        tracker.flush()
        behind.stop()
        write(tmp_path / "one", range(2648))
        tracker.log_metrics({"stage/final/loss": 1.0}, None)
    assert "2649 metrics and 2 other entries of stage are not in MLflow" in capsys.readouterr().out
    behind.start()
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 60.0)
    with tracking.open_tracker(run, "next", tmp_path / "two") as tracker:
        tracker.flush()
        assert client.get_run(tracker.run_id).info.status == "RUNNING", "the run goes on"
    assert history(client, tracker.run_id) == list(range(2648))
    found = client.get_run(tracker.run_id)
    assert found.data.metrics["stage/final/loss"] == 1.0 and found.data.tags["callforge.stage"] == "finished"
    assert not list(tracking.send_runs(tmp_path)), "nothing is left to send"


def test_sync_sends_what_is_unsent_once(
    run: RunSettings, client: Any, behind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.3)
    folder = tmp_path / "runs" / run.run_id / "stage"
    with tracking.open_tracker(run, "stage", folder) as tracker:
        tracker.flush()
        behind.stop()
        write(folder, range(7))
    behind.start()
    assert list(tracking.send_runs(tmp_path / "runs")) == [f"stage of run {run.run_id}: 7 metrics sent"]
    assert history(client, tracker.run_id) == list(range(7))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    for place in (tmp_path / "runs", folder.parent, folder):
        assert not list(tracking.send_runs(place))
    assert len(history(client, tracker.run_id)) == 7


def test_lines_that_may_have_arrived_before_a_kill_are_not_there_twice(
    run: RunSettings, client: Any, tmp_path: Path, soon: None
) -> None:
    with tracking.open_tracker(run, "stage", tmp_path) as tracker:
        write(tmp_path, range(5))
    state = json.loads((tmp_path / STATE).read_text())
    assert state["sent"] == state["sending"] == 5
    (tmp_path / STATE).write_text(json.dumps(state | {"sent": 0}))  # killed before the answer came
    with tracking.open_tracker(run, "stage", tmp_path):
        write(tmp_path, range(5, 8))
    assert history(client, tracker.run_id) == list(range(8))


def test_lines_that_a_resumed_stage_writes_again_are_not_sent_again(
    run: RunSettings, client: Any, tmp_path: Path, soon: None
) -> None:
    with tracking.open_tracker(run, "stage", tmp_path) as tracker:
        write(tmp_path, range(6))
        tracker.flush()
    with tracking.open_tracker(run, "stage", tmp_path) as tracker:
        lines = (tmp_path / METRICS).read_text().splitlines(keepends=True)
        (tmp_path / "kept").write_text("".join(lines[:4]) + '{"step": 9')  # and the kill cut one
        (tmp_path / "kept").replace(tmp_path / METRICS)
        tracker.flush()
        with (tmp_path / METRICS).open("a") as file:
            file.write("\n")
        write(tmp_path, range(4, 9))
        tracker.flush()
    assert history(client, tracker.run_id) == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8]


def test_a_login_that_ends_in_the_middle_loses_nothing(
    run: RunSettings, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, soon: None
) -> None:
    """The answer of a gateway in front of the server; the server itself has no login here."""
    with tracking.open_tracker(run, "stage", tmp_path) as tracker:
        tracker.flush()
        with http_server(401) as gateway:
            theirs = tracker.client
            tracker.client = MlflowClient(gateway.url)
            write(tmp_path, range(5))
            tracker.flush()
            monkeypatch.setattr(tracking, "CLOSING_SECONDS", 60.0)
            tracker.client = theirs
    assert "401" in capsys.readouterr().out
    assert history(client, tracker.run_id) == list(range(5))


def test_a_server_that_does_not_answer_holds_nobody_up(
    run: RunSettings, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, soon: None
) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        tracking.open_tracker(run, "stage", tmp_path) as tracker,
    ):
        tracker.flush()
        tracker.client = MlflowClient(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        write(tmp_path, range(5))
        for step in range(1000):
            tracker.log_metrics({"loss": 1.0}, step)
        took = time.monotonic() - began
    assert took < mlflow_server.MLFLOW_TIMEOUT, "nothing waited for an answer"
    assert time.monotonic() - began < mlflow_server.MLFLOW_TIMEOUT, "and the end not for long"
    assert "1005 metrics and 2 other entries of stage are not in MLflow" in capsys.readouterr().out


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """`own_server()`: start, or start again, an MLflow server whose files nobody can store."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--no-serve-artifacts",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'own.db'}", "--default-artifact-root", "file:///proc/nowhere",
    ]  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start() -> subprocess.Popen[bytes]:
        log = (tmp_path / "own.log").open("ab")
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
        while started[-1].poll() is None:
            try:
                mlflow_server.check_server(mlflow_server.tracking_uri())
                return started[-1]
            except InputError:
                time.sleep(0.2)
        raise AssertionError((tmp_path / "own.log").read_text())

    yield start
    for process in started:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_server_that_is_stopped_and_started_and_takes_no_files(
    own_server: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, soon: None
) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 1.0)
    server = own_server()
    run, folder = RunSettings(run_id="blocked", experiment="exp"), tmp_path / "run" / "egpo_rl"
    page = tmp_path / "page.html"
    page.write_text("<p>hi</p>")
    mlflow_server.check_access(run)
    assert capsys.readouterr().out.count("takes no files") == 1, "no obstacle, and said before the work begins"
    with tracking.open_tracker(run, "egpo_rl", folder) as tracker:
        tracker.log_table([{"step": 1, "text": "x"}], "egpo_rl/samples")
        tracker.flush()
        write(folder, range(1, 20))
        tracker.log_artifact(page, "egpo_rl")
        tracker.flush()
        stop(server)
        write(folder, range(20, 40))
        tracker.log_metrics({"egpo_rl/final/reward": 0.9}, None)
    out = capsys.readouterr().out
    assert out.count("does not take files") == 1 and "21 metrics and 2 other entries of egpo_rl are not in" in out
    own_server()
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 60.0)
    assert list(tracking.send_runs(tmp_path / "run")) == ["egpo_rl of run blocked: 21 metrics sent"]
    client = mlflow_server.mlflow_client()
    assert history(client, tracker.run_id, "egpo_rl/loss") == list(range(1, 40))
    found = client.get_run(tracker.run_id)
    assert found.info.status == "FINISHED" and found.data.metrics["egpo_rl/final/reward"] == 0.9

"""Tracking without a server, and with an address behind which there is none."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path

import pytest

from components.services import tracking
from components.services.errors import InputError
from components.settings import RunSettings


def test_without_a_server_everything_is_accepted_and_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.open_tracker(RunSettings(), "stage") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.log_params({"a": {"b": 1}})
        tracker.log_tags({"a": "b"})
        tracker.log_artifact(Path("missing"))
        tracker.log_table([{"a": 1}], "samples")
        tracker.flush()
    assert tracker.run_id == ""


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9 .*unset the variable"),
        ("http://user:private@127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9 "),
        ("127.0.0.1:5000", "is no http"),
        ("sqlite:///mlflow.db", "is no http"),
        ("ftp://user:private@host", "'ftp://host' is no http"),
    ],
)
def test_a_server_that_cannot_be_is_named_at_once(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(InputError, match=said) as error, tracking.open_tracker(RunSettings(), "stage"):
        pass
    assert "private" not in str(error.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("status", "lives"), [(200, True), (401, True), (404, True), (502, False)])
def test_any_answer_but_a_failure_is_a_sign_of_life(status: int, lives: bool) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        if lives:
            tracking.check_server(uri)
        else:
            with pytest.raises(InputError, match="HTTP 502"):
                tracking.check_server(uri)
        server.shutdown()

"""Tracking without a server, and with an address behind which there is none."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def _server(status: int) -> Iterator[str]:
    """The address of a server that gives every request the same answer."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    with _server(status) as uri:
        tracking.check_server(uri)


def test_a_server_that_fails_is_named() -> None:
    with _server(502) as uri, pytest.raises(InputError, match=r"is ill \(HTTP 502\)"):
        tracking.check_server(uri)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_login_is_named_at_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(status) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        started = time.monotonic()
        with (
            pytest.raises(InputError, match=f"{uri} refused.*{status}.*check MLFLOW_TRACKING_TOKEN"),
            tracking.open_tracker(RunSettings(), "stage"),
        ):
            pass
        assert time.monotonic() - started < 15

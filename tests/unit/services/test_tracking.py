"""Tracking without a server, and with an address behind which there is none."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from components.errors import InputError
from components.services import mlflow_server, tracking
from components.settings import RunSettings
from tests.unit.small_servers import http_server, self_signed_certificate, ssh_server

BASIC = f"Basic {base64.b64encode(b'user:private').decode()}"


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
        ("https://user:private@mlflow.example.invalid", "no MLflow server answers at https://mlflow.example.invalid "),
        ("https://user:private/x@mlflow.example", r"no MLflow server answers at https://mlflow.example \(.*%2F"),
        ("http://[private@mlflow.example", "no MLflow server answers at http://mlflow.example "),
        ("127.0.0.1:5000", "is not an http"),
        ("user:private@127.0.0.1:5000", "'127.0.0.1:5000' is not an http"),
        ("sqlite:///mlflow.db", "is not an http"),
        ("ftp://user:private@host", "'ftp://host' is not an http"),
    ],
)
@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_cannot_be_is_named_at_once(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=said) as error, tracking.open_tracker(RunSettings(), "stage"):
        pass
    assert "private" not in str(error.value)


def test_what_is_no_mlflow_server_is_named_at_once() -> None:
    with ssh_server() as uri, pytest.raises(InputError, match=f"no MLflow server answers at {uri} .*HTTP"):
        mlflow_server.check_server(uri)


def test_a_login_in_the_address_is_used_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As mlflow does with it; that one's errors quote the address."""
    with http_server(lambda path, login: 200 if login == BASIC and path == "/health" else 401) as server:
        address = f"http://user:private@127.0.0.1:{server.port}"
        mlflow_server.check_server(address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(InputError, match=f"{server.url} refused") as refused:
            mlflow_server.check_access(RunSettings())
    failure = MlflowException(f"API request to {address}/api failed with exception x")
    for text in (
        str(refused.value),
        str(mlflow_server.refusal(failure)),
        mlflow_server.server_name(),
        mlflow_server.page("models"),
    ):
        assert "private" not in text and "user" not in text.replace("MLFLOW_TRACKING_USERNAME", "")
    assert {login for _, login in server.asked} == {BASIC}


def test_a_token_with_a_line_break_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "private\n")
    with http_server() as server, pytest.raises(InputError, match=r"line break.*MLFLOW_TRACKING_TOKEN") as error:
        mlflow_server.check_server(server.url)
    assert "private" not in str(error.value)


def test_https_is_trusted_as_mlflow_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed_certificate(tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with http_server(certificate=certificate) as server:
        address = f"https://localhost:{server.port}"
        with pytest.raises(InputError, match="certificate"):
            mlflow_server.check_server(address)
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        mlflow_server.check_server(address)
        monkeypatch.delenv("MLFLOW_TRACKING_INSECURE_TLS")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        mlflow_server.check_server(address)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(tmp_path / "absent.pem"))
        with pytest.raises(InputError, match=r"CLIENT_CERT_PATH=.*absent\.pem: not all of it can be used"):
            mlflow_server.check_server(address)


def test_no_certificate_is_read_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    with http_server(certificate=certificate) as server:
        mlflow_server.check_server(f"https://localhost:{server.port}")
    monkeypatch.delenv("MLFLOW_TRACKING_INSECURE_TLS")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "absent.pem"))
    with http_server() as server:
        mlflow_server.check_server(server.url)


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_answer_is_a_sign_of_life(status: int) -> None:
    with http_server(status) as server:
        mlflow_server.check_server(server.url)


def test_a_server_that_fails_is_named() -> None:
    with http_server(502) as server, pytest.raises(InputError, match=r"is failing \(HTTP 502\)"):
        mlflow_server.check_server(server.url)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_wants_a_login_is_named_at_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(status) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with (
            pytest.raises(InputError, match=f"{server.url} refused.*{status}.*check MLFLOW_TRACKING_TOKEN"),
            tracking.open_tracker(RunSettings(), "stage"),
        ):
            pass

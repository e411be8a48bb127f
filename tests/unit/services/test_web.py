"""One question to a server: what is sent, what comes back, and that no error shows a secret."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from components.errors import without_login
from components.services.web import NoAnswerError, ask
from tests.unit.small_servers import http_server, self_signed_certificate, ssh_server


@pytest.mark.parametrize("status", [200, 302, 401, 503])
def test_every_answer_comes_back_as_it_is(status: int) -> None:
    with http_server(status, b"body", Location="/elsewhere") as server:
        assert ask(f"{server.url}/health")[::2] == (status, b"body")
        assert ask(f"{server.url}/file", method="HEAD").body == b""
    assert [path for path, _ in server.asked] == ["GET /health", "HEAD /file"], "a redirect is not followed"


def test_a_login_goes_into_the_header() -> None:
    with http_server() as server:
        ask(f"http://user:p%40ss%2F@127.0.0.1:{server.port}/", token="unused")
        ask(server.url, token="secret")
        ask(server.url)
    basic = f"Basic {base64.b64encode(b'user:p@ss/').decode()}"
    assert [login for _, login in server.asked] == [basic, "Bearer secret", None]


def test_a_private_authority_is_trusted_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed_certificate(tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with http_server(certificate=certificate) as server:
        with pytest.raises(NoAnswerError, match="certificate"):
            ask(f"https://localhost:{server.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert ask(f"https://localhost:{server.port}").status == 200


def test_what_does_not_speak_http_is_told() -> None:
    with ssh_server() as url, pytest.raises(NoAnswerError, match="does not speak HTTP"):
        ask(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cret@mlflow.example.invalid",
        "https://user:s3cret/x@mlflow.example",
        "https://user:s3cret#x@mlflow.example",
        "https://user:[s3cret@mlflow.example",
        "https://user:s3cret@[mlflow",
        "https://user:s3cret\u2100@mlflow.example",
        "https://user:s3cret@mlflow.example:port",
        "ftp://user:s3cret@mlflow.example",
        "user:s3cret@mlflow.example",
    ],
)
def test_no_error_tells_the_password(url: str) -> None:
    with pytest.raises(NoAnswerError) as caught:
        ask(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret\u2026"])
def test_a_token_that_no_header_carries_is_refused_and_not_told(token: str) -> None:
    with pytest.raises(NoAnswerError, match="line break") as caught:
        ask("http://127.0.0.1:9", token=token)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://user:p@ss/w@host:5000/path", "https://host:5000/path"),
        ("request to http://u:p@host/api failed, see http://host/docs", "request to http://host/api failed, "
         "see http://host/docs"),
        ("http://host:5000", "http://host:5000"),
        ("user:pass@host:5000", "host:5000"),
        ("s3://key:sec/ret@bucket/x is not", "s3://bucket/x is not"),
        ("s3://bucket/a@b.jsonl", "s3://bucket/a@b.jsonl"),
        ("https://media.example/@user/page", "https://media.example/@user/page"),
        ("org/name@revision", "org/name@revision"),
        ("step 3: mail a:b@c", "step 3: mail a:b@c"),
    ],
)  # fmt: skip
def test_addresses_are_told_without_their_login(text: str, said: str) -> None:
    assert without_login(text) == said

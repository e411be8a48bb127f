"""The embedded services' life: they end with their last user however it dies, and their data stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.errors import WorkError
from pipelines import embedded

REPOSITORY = Path(__file__).resolve().parents[2]
USER = """
import json, sys
from pathlib import Path
from pipelines.embedded import embedded_services
with embedded_services(Path(sys.argv[1])) as environment:
    print(json.dumps(environment), flush=True)
    sys.stdin.read()
"""
S3_ALONE = {"MLFLOW_TRACKING_URI": "http://named.example"}  # it starts faster without an MLflow server


class User:
    """A process that uses the services until it is told to leave, or killed."""

    def __init__(self, folder: Path, **named: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            cwd=REPOSITORY,
            env=environment | named,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError("the services did not start")

    def leave(self) -> None:
        self.process.communicate("", timeout=100)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    _wait_until(lambda: not _servers(tmp_path))


def _servers(folder: Path) -> list[int]:
    """Processes that run, and whose command line names `folder`, other than its users."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder) in command and USER not in command and state != "Z":
            found.append(int(process.name))
    return found


def _wait_until(condition: Any, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def _s3(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def test_killed_users_leave_no_servers_and_lose_no_data(tmp_path: Path) -> None:
    user = User(tmp_path, **S3_ALONE)
    environment = user.environment()
    assert "MLFLOW_TRACKING_URI" not in environment
    _s3(environment).put_object(Bucket=embedded.BUCKET, Key="kept", Body=b"x" * 3_000_000)
    user.process.kill()
    _wait_until(lambda: not _servers(tmp_path))

    started = time.monotonic()
    second = User(tmp_path, **S3_ALONE)
    environment = second.environment()
    assert time.monotonic() - started < 15, "SeaweedFS waits for an election again"
    assert _s3(environment).get_object(Bucket=embedded.BUCKET, Key="kept")["Body"].read() == b"x" * 3_000_000

    # Killed in the worst order: the supervisor, then the user. The next start ends the orphans.
    os.kill(json.loads((tmp_path / embedded.STATE).read_text())["supervisor"], signal.SIGKILL)
    second.process.kill()
    assert _servers(tmp_path)
    third = User(tmp_path, **S3_ALONE)
    environment = third.environment()
    assert _s3(environment).head_object(Bucket=embedded.BUCKET, Key="kept")["ContentLength"] == 3_000_000
    third.leave()
    assert not _servers(tmp_path)


def test_users_share_the_services_and_the_last_one_ends_them(tmp_path: Path) -> None:
    first = User(tmp_path, **S3_ALONE)
    environment = first.environment()
    second = User(tmp_path, **S3_ALONE)
    assert second.environment() == environment
    first.leave()
    _s3(environment).put_object(Bucket=embedded.BUCKET, Key="still", Body=b"there")
    second.leave()
    assert not _servers(tmp_path)


def test_secrets_are_for_the_owner_alone(services: dict[str, str], _servers_folder: Path) -> None:
    secret = json.loads((_servers_folder / embedded.STATE).read_text())["environment"]["AWS_SECRET_ACCESS_KEY"]
    assert _servers_folder.stat().st_mode & 0o077 == 0
    for path in _servers_folder.glob("*.*"):
        if path.is_file() and secret in path.read_text(errors="replace"):
            assert path.stat().st_mode & 0o077 == 0, path
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert secret not in (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue


def test_named_services_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    with embedded.embedded_services(tmp_path / "services") as environment:
        assert environment == {}
    assert not (tmp_path / "services").exists()


def test_a_service_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be looked at" * 50)
    with (
        pytest.raises(WorkError, match=r"(?s)ended while starting .*mlflow.log.*file is not a database"),
        embedded.embedded_services(tmp_path),
    ):
        pass

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
from pipelines import embedded, seaweedfs, supervisor

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
    _s3(environment).put_object(Bucket=seaweedfs.BUCKET, Key="kept", Body=b"x" * 3_000_000)
    user.process.kill()
    _wait_until(lambda: not _servers(tmp_path))

    second = User(tmp_path, **S3_ALONE)
    environment = second.environment()
    assert _s3(environment).get_object(Bucket=seaweedfs.BUCKET, Key="kept")["Body"].read() == b"x" * 3_000_000

    # Killed in the worst order: the supervisor, then the user. The next start ends the orphans.
    os.kill(json.loads((tmp_path / embedded.STATE).read_text())["supervisor"], signal.SIGKILL)
    second.process.kill()
    assert _servers(tmp_path)
    third = User(tmp_path, **S3_ALONE)
    environment = third.environment()
    assert _s3(environment).head_object(Bucket=seaweedfs.BUCKET, Key="kept")["ContentLength"] == 3_000_000
    assert _sockets(tmp_path)
    third.leave()
    assert not _servers(tmp_path) and not _sockets(tmp_path)


def test_junk_that_an_earlier_start_seems_to_have_left_is_passed_over(tmp_path: Path) -> None:
    for name in (embedded.STATE, supervisor.PORTS, seaweedfs.IDENTITIES):
        (tmp_path / name).write_text('[{"supervisor": 1}]')
    user = User(tmp_path, **S3_ALONE)
    _s3(user.environment()).put_object(Bucket=seaweedfs.BUCKET, Key="still", Body=b"there")
    user.leave()


def _sockets(folder: Path) -> list[Path]:
    """Those of the folder's SeaweedFS in /tmp."""
    numbers = {str(port + seaweedfs.GRPC) for port in supervisor.known_ports(folder).values()}
    return [path for path in Path("/tmp").glob("seaweedfs-*.sock") if path.stem.split("-")[-1] in numbers]


# Run as another user of the machine, so imports stand before the change. Prints what every request was answered with.
STRANGER = """
import encodings.idna, http.client, json, os, socket, ssl, sys
ports = json.loads(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
REQUESTS = {
    "filer": ["GET /buckets/callforge/", "GET /buckets/callforge/kept", "PUT /buckets/callforge/new",
              "POST /buckets/callforge/new", "DELETE /buckets/callforge/kept",
              "DELETE /buckets/callforge?recursive=true"],
    "master": ["GET /dir/status", "GET /dir/assign", "GET /dir/lookup?volumeId=1", "GET /vol/grow?count=1",
               "POST /submit", "GET /col/delete?collection=callforge"],
    "volume": ["GET /1,01637037d6", "PUT /1,01637037d6", "DELETE /1,01637037d6", "GET /stats/disk"],
    "mlflow": ["GET /", "GET /api/2.0/mlflow/experiments/search?max_results=5", "POST /api/2.0/mlflow/runs/create",
               "GET /api/2.0/mlflow-artifacts/artifacts?path=", "PUT /api/2.0/mlflow-artifacts/artifacts/new",
               "DELETE /api/2.0/mlflow-artifacts/artifacts/kept"],
    "s3": ["GET /", "GET /callforge", "GET /callforge/kept", "PUT /callforge/new", "DELETE /callforge/kept"],
}
answers = {}
for part, requests in REQUESTS.items():
    for request in requests:
        connection = http.client.HTTPConnection("127.0.0.1", ports[part], timeout=20)
        connection.request(*request.split(), body=b"x" if request[0] == "P" else None)
        answers[part + " " + request] = connection.getresponse().status
PREFACE = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
for part in REQUESTS.keys() - {"mlflow"}:
    for name, wrap in (("plain", lambda raw: raw), ("TLS", context.wrap_socket)):
        try:
            raw = socket.create_connection(("127.0.0.1", ports[part] + 10_000), timeout=20)
            with raw, wrap(raw) as connection:
                connection.sendall(PREFACE)
                answer = connection.recv(9)
        except OSError:
            answer = b""
        answers[part + " gRPC " + name] = "spoken" if answer[3:4] == bytes([4]) else "refused"
print(json.dumps(answers))
"""


def test_another_user_of_the_machine_reads_and_changes_nothing(services: dict[str, str], servers_folder: Path) -> None:
    """List, read, write and delete, on every port that is opened: SeaweedFS's parts, their gRPC, and MLflow."""
    store = _s3(services)
    store.put_object(Bucket=seaweedfs.BUCKET, Key="kept", Body=b"mine")
    ports = supervisor.known_ports(servers_folder)
    command = [sys.executable, "-c", STRANGER, json.dumps(ports)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 35
    open_doors = {request: answer for request, answer in answers.items() if answer not in (401, 403, 404, "refused")}
    assert open_doors == {}
    assert store.get_object(Bucket=seaweedfs.BUCKET, Key="kept")["Body"].read() == b"mine"
    assert store.list_objects_v2(Bucket=seaweedfs.BUCKET, Prefix="new")["KeyCount"] == 0
    for path in _sockets(servers_folder):
        assert path.stat().st_mode & 0o022 == 0, "who may write to a socket may connect"


def test_users_share_the_services_and_the_last_one_ends_them(tmp_path: Path) -> None:
    first = User(tmp_path, **S3_ALONE)
    environment = first.environment()
    second = User(tmp_path, **S3_ALONE)
    assert second.environment() == environment
    first.leave()
    _s3(environment).put_object(Bucket=seaweedfs.BUCKET, Key="still", Body=b"there")
    second.leave()
    assert not _servers(tmp_path)


def test_secrets_are_for_the_owner_alone(services: dict[str, str], servers_folder: Path) -> None:
    secret = json.loads((servers_folder / embedded.STATE).read_text())["environment"]["AWS_SECRET_ACCESS_KEY"]
    assert servers_folder.stat().st_mode & 0o077 == 0
    key = (servers_folder / seaweedfs.KEY).read_text()
    for path in servers_folder.glob("*.*"):
        if path.is_file() and any(text in path.read_text(errors="replace") for text in (secret, key)):
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

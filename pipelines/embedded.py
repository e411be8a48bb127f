"""A real S3 store (SeaweedFS) and a real MLflow server on this machine, for runs without a cluster.

Each is started only where the environment does not name one (AWS_ENDPOINT_URL_S3, MLFLOW_TRACKING_URI). Their data
stays in the folder, so a later run, or `callforge ui`, shows the earlier ones. They listen on 127.0.0.1 only. Not a
production deployment: one volume server, no replicas, SQLite.

How they end: a supervisor (pipelines/supervisor.py) runs the servers and waits for an exclusive lock on
`FOLDER/users.lock`, of which every user of the services holds a share. The kernel takes a share back however its holder
dies, so the servers stop when the last user is gone, also after SIGKILL, and several runs at a time share them.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from components.errors import InputError, WorkError
from components.files import read_json
from pipelines import mlflow_server, seaweedfs
from pipelines.console import console
from pipelines.supervisor import PORTS, STOP_SECONDS, USERS, known_ports

ROOT = Path(__file__).parents[1]
S3, MLFLOW = "s3", "mlflow"
S3_ADDRESSES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")  # as s3.endpoint
START_SECONDS = 120.0  # 4 s for S3 and 7 s for MLflow on an idle machine
STATE = "services.json"
DEATH_SECONDS = 2.0  # until the ports of a killed server are free, on a busy machine
LOOK_SECONDS = 0.05
LOG_LINES = 15


@contextmanager
def embedded_services(folder: Path) -> Iterator[dict[str, str]]:
    """Run the services that the environment does not name, with their data in `folder`, until the block ends.

    Yields:
        The environment that leads to them: AWS_ENDPOINT_URL_S3, MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
        AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (empty) and AWS_DEFAULT_REGION with an embedded S3, in which the bucket
        `callforge` exists; MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD with an embedded
        MLflow; nothing when both are named already.

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
    folder = Path(os.path.realpath(folder))  # Path.resolve raises for links that go in circles
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "start.lock").open("a") as starting, (folder / USERS).open("a") as users:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a supervisor that is just stopping
        state = _running(folder, wanted) or _start(folder, wanted)
        fcntl.flock(starting, fcntl.LOCK_UN)
        try:
            yield state["environment"]
        finally:
            _leave(users, state["supervisor"])


def _pass_proxies_by() -> None:
    """Keep this process and those it starts from reaching 127.0.0.1 through a proxy."""
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
    state = _known_state(folder)
    if state and _alive(state["supervisor"]):
        if state["services"] != wanted:
            raise InputError(
                f"{folder}: another run uses {' and '.join(state['services'])} here and this one wants "
                f"{' and '.join(wanted)}; wait for it, or name the same services in both environments"
            )
        if not any(map(_obstacle, _looks(state["environment"]))):
            return dict(state)
    return None


def _known_state(folder: Path) -> dict[str, Any] | None:
    """What the last start left; None where it is nothing that a start leaves."""
    try:
        state = read_json(folder / STATE)
    except (OSError, InputError):
        return None
    wanted = {"supervisor": int, "services": list, "environment": dict}
    return state if all(isinstance(state.get(name), kind) for name, kind in wanted.items()) else None


def _start(folder: Path, wanted: list[str]) -> dict[str, Any]:
    _end_orphans(folder)
    seaweedfs.remove_sockets(known_ports(folder).values())
    console.print(f"starting {' and '.join(wanted)} for this machine, data in {folder}")
    for attempt in (1, 2, 3):
        environment, commands = _prepare(folder, wanted)
        with (folder / "supervisor.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.supervisor", str(folder)],
                cwd=ROOT,
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
        seaweedfs.write_privately(folder / STATE, json.dumps(state))
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
        environment = seaweedfs.client_environment(folder, ports)
        commands[S3] = seaweedfs.server(folder, ports)
    if MLFLOW in wanted:
        artifacts = f"s3://{seaweedfs.BUCKET}/mlflow" if S3 in wanted else str(folder / "mlflow-artifacts")
        login = {mlflow_server.USER: seaweedfs.BUCKET, mlflow_server.PASSWORD: secrets.token_urlsafe(24)}
        database = f"sqlite:///{folder / 'mlflow.db'}"
        commands[MLFLOW] = {
            "command": [sys.executable, "-m", "pipelines.mlflow_server", str(ports[MLFLOW]), database, artifacts],
            "environment": environment
            | login
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, 2 GB
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
        }
        environment = environment | login | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports[MLFLOW]}"}
    return environment, commands


def _ports(folder: Path) -> dict[str, int]:
    """The ports of the last time when they are free (links to pages stay right), else others."""
    names = (*seaweedfs.PORTS, MLFLOW)
    known = known_ports(folder)
    if known.keys() == set(names) and all(map(_free, known.values())):
        return known
    # SeaweedFS takes port + 10000 for gRPC; both stay below 32768, where outgoing connections get theirs.
    candidates = random.sample(range(10_000, 22_000), 2_000)
    free = (port for port in candidates if _free(port))
    ports = {name: next(free) for name in names}
    seaweedfs.write_privately(folder / PORTS, json.dumps(ports))
    return ports


def _free(port: int) -> bool:
    for number in (port, port + seaweedfs.GRPC):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True


def _wait_until_ready(folder: Path, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    for look in _looks(environment):
        while (obstacle := _obstacle(look)) is not None:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                why = "ended while starting" if ended else f"did not answer within {START_SECONDS:.0f} s"
                raise WorkError(f"the embedded services in {folder} {why} ({obstacle}).\n{_last_lines(folder)}")
            time.sleep(LOOK_SECONDS)


def _looks(environment: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """What has to succeed for the services to be used; it creates the bucket."""
    if "AWS_ENDPOINT_URL_S3" in environment:
        yield partial(_get, f"{environment['AWS_ENDPOINT_URL_S3']}/healthz")
        yield partial(seaweedfs.make_bucket, environment)
    if "MLFLOW_TRACKING_URI" in environment:
        yield partial(_get, f"{environment['MLFLOW_TRACKING_URI']}/health")


def _obstacle(look: Callable[[], None]) -> str | None:
    """Why it does not succeed, or None."""
    try:
        look()
    except Exception as error:  # refused, reset, not ready: all mean "not yet"
        return f"{type(error).__name__}: {error}"
    return None


def _get(url: str) -> None:
    urllib.request.urlopen(url, timeout=2).close()  # noqa: S310  # an address of our own


def _last_lines(folder: Path) -> str:
    parts = []
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
        parts += [f"--- {path}", *lines] if lines else []
    return "\n".join(parts)


def _stop(supervisor: int) -> None:
    """End a supervisor and everything in its group; returns when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS + DEATH_SECONDS
    while _alive(supervisor) and time.monotonic() < deadline:
        time.sleep(0.02)
    with suppress(ProcessLookupError):  # it was killed before, or hangs: its servers are left
        os.killpg(supervisor, signal.SIGKILL)


def _end_orphans(folder: Path) -> None:
    """End servers whose supervisor was killed: they would hold the data's locks."""
    state = _known_state(folder)
    if state is None or not any(
        _belongs(process, folder, state["supervisor"]) for process in Path("/proc").glob("[0-9]*")
    ):
        return
    with suppress(ProcessLookupError):
        os.killpg(state["supervisor"], signal.SIGKILL)
    ports = known_ports(folder).values()
    deadline = time.monotonic() + DEATH_SECONDS
    while not all(map(_free, ports)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _belongs(process: Path, folder: Path, group: int) -> bool:
    """Whether a process of that group works on the folder: the group's number may be somebody else's by now."""
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace")
        return str(folder) in command and os.getpgid(int(process.name)) == group
    except OSError:
        return False  # it ended meanwhile


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

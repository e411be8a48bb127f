"""`python -m pipelines.supervisor FOLDER`: runs the embedded servers until their last user is gone.

Started by pipelines/embedded.py, which writes the commands to standard input: their environment holds secrets. Imports
little, so that the servers start at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from components.errors import InputError
from components.files import read_json
from pipelines import seaweedfs

USERS, PORTS = "users.lock", "ports.json"
STOP_SECONDS = 0.5  # SeaweedFS does not end on SIGTERM; what it has confirmed is written, and outlives SIGKILL
LOOK_SECONDS = 0.3


def supervise(folder: Path) -> None:
    """Run the commands until one ends, the last user is gone, or SIGTERM comes; then end the whole process group."""
    commands = json.load(sys.stdin)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    servers = []
    for name, service in commands.items():
        with (folder / f"{name}.log").open("w") as log:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
            servers.append(
                subprocess.Popen(
                    service["command"], cwd=folder, env=environment | service["environment"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip
    with (folder / USERS).open("a") as users:
        while not asked and all(server.poll() is None for server in servers):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
        # The servers are in this process's group, and so are the workers they started.
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(server.poll() is None for server in servers):
            time.sleep(0.05)
        for server in servers:
            server.kill()
            server.wait()
        seaweedfs.remove_sockets(known_ports(folder).values())
        os.killpg(0, signal.SIGKILL)


def known_ports(folder: Path) -> dict[str, int]:
    """The ports that the servers of `folder` were started on the last time."""
    try:
        ports = read_json(folder / PORTS)
    except (OSError, InputError):
        return {}
    return ports if all(isinstance(port, int) and 0 < port < 2**16 for port in ports.values()) else {}


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))

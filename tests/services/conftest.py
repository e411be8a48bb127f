"""A real SeaweedFS and a real MLflow server; `services` points the environment at them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture
def services(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the servers, set."""
    for name, value in servers.items():
        monkeypatch.setenv(name, value)
    return servers


@pytest.fixture
def forget_services(
    services: dict[str, str], servers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """From the call on, as while `callforge ui` runs: the environment names nothing, and the servers are those of the
    directory that commands are given in."""

    def forget() -> None:
        (tmp_path / ".callforge").mkdir()
        (tmp_path / ".callforge" / "services").symlink_to(servers_folder)
        monkeypatch.chdir(tmp_path)
        for name in list(os.environ):
            if name.startswith(("AWS_", "MLFLOW_")):
                monkeypatch.delenv(name)

    return forget


@pytest.fixture
def root(services: dict[str, str], tmp_path: Path) -> str:
    """An s3:// prefix of this test's own."""
    return f"s3://callforge/{tmp_path.name}"


@pytest.fixture
def port_forward() -> Iterator[Callable[..., PortForward]]:
    """`port_forward(url, cut_after=bytes)`: the same server behind another port, which can fail on demand."""
    made: list[PortForward] = []

    def make(url: str, cut_after: int = 0) -> PortForward:
        made.append(PortForward(url, cut_after))
        return made[-1]

    yield make
    for forward in made:
        forward.stop()


class PortForward:
    """Passes TCP on; breaks each connection after `cut_after` bytes of the answer (0: never), all of them on `stop`."""

    def __init__(self, target: str, cut_after: int) -> None:
        host, port = target.removeprefix("http://").split(":")
        self.target, self.cut_after, self.cuts, self.port = (host, int(port)), cut_after, 0, 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.open: list[socket.socket] = []
        self.server = socket.create_server(("127.0.0.1", self.port))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.server,), daemon=True).start()

    def stop(self) -> None:
        for connection in [self.server, *self.open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self.target)
                self.open += [client, server]
                threading.Thread(target=self._pass, args=(client, server, 0), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, self.cut_after), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, cut_after: int) -> None:
        left = cut_after or 2**60
        with suppress(OSError):
            while data := source.recv(min(65536, left)):
                target.sendall(data)
                left -= len(data)
                if left == 0:
                    self.cuts += 1
                    break
            target.shutdown(socket.SHUT_RDWR)

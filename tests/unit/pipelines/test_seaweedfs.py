"""The embedded store's leftovers."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from pipelines import seaweedfs


def test_sockets_of_its_ports_are_removed_and_what_may_not_be_is_left() -> None:
    ours, others = os.getpid() * 2, os.getpid() * 2 + 1  # no server has such a port
    left = Path(f"/tmp/seaweedfs-master-grpc-{ours + seaweedfs.GRPC}.sock")
    kept = Path(f"/tmp/seaweedfs-filer-grpc-{others + seaweedfs.GRPC}.sock")
    with contextlib.ExitStack() as stack:
        stack.callback(left.unlink, missing_ok=True)
        stack.callback(kept.rmdir)
        stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(left))
        kept.mkdir()  # cannot be unlinked, as another user's socket in /tmp cannot
        seaweedfs.remove_sockets([others, ours])
        assert kept.exists() and not left.exists()

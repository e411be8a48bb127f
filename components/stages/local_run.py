"""What a step does differently when `callforge run` started it: it works in the run directory and
dies with the process that started it, however that one dies. On a cluster: nothing.

Two locks in the run directory: `.lock` is held by `callforge run`, so whoever gets it knows that it is gone; `.steps`
is shared by KFP's local runner and the steps, so whoever holds it exclusively knows that nobody works there any more.
The kernel gives both back when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from components.errors import InputError
from components.files import lock_within

RUN_FOLDER = "CALLFORGE_RUN_FOLDER"
LOCK, STEPS, STOP = ".lock", ".steps", ".stop"
LOCK_SECONDS = 1.0  # a process that is just being killed still holds its locks, and its steps look at them
DEATH_SECONDS = 15.0  # a killed run's steps are gone in milliseconds; a loaded machine takes longer
_held: list[IO[str]] = []  # kept open as long as the process lives


def run_folder() -> Path | None:
    """The run directory when `callforge run` started this process."""
    named = os.environ.get(RUN_FOLDER)
    return Path(named) if named else None


def join_run() -> None:
    """Take part in the run, if there is one: hold `.steps`, and die when `.lock` comes free.

    Raises:
        SystemExit: the run was told to stop between two steps.
    """
    folder = run_folder()
    if folder is None or _held:
        return
    if (folder / STOP).exists():
        raise SystemExit(1)
    steps = (folder / STEPS).open("w")
    fcntl.flock(steps, fcntl.LOCK_SH)
    _held.append(steps)
    lock = (folder / LOCK).open("r")

    def watch() -> None:
        fcntl.flock(lock, fcntl.LOCK_SH)  # blocks until `callforge run` is gone
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="die with the run", daemon=True).start()


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Hold the run directory exclusively: no other `callforge run`, and no step that a killed one left behind.

    Raises:
        InputError: another process is working on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock, (folder / STEPS).open("w") as steps:
        other = f"run {folder.name}: another process is working on it in {folder}; wait for it, or end it"
        _take(lock, LOCK_SECONDS, other)
        fcntl.flock(lock, fcntl.LOCK_UN)  # lets orphans see that their run is gone
        _take(steps, DEATH_SECONDS, f"run {folder.name}: a step of a killed run still works in {folder}; end it first")
        _take(lock, LOCK_SECONDS, other)
        fcntl.flock(steps, fcntl.LOCK_UN)
        (folder / STOP).unlink(missing_ok=True)
        yield


def _take(lock: IO[str], patience: float, refusal: str) -> None:
    if not lock_within(lock, patience):
        raise InputError(refusal)

"""SIGTERM as an exception that strikes at once, except while a step is being committed: then it waits.

Several processes stop together, at the next `release`: one that left alone would leave the others in a collective.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from components.egpo_rl.distributed import World


class StoppedError(BaseException):
    """The process was told to stop. Not an Exception, so that no library takes it for a failure of its own."""


class Interruption:
    """Turns SIGTERM into StoppedError while it is open (in the main thread; elsewhere signals are not ours)."""

    def __init__(self) -> None:
        self._held = self._pending = False
        self._previous: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def hold(self) -> None:
        """From now on a signal waits for `release`."""
        self._held = True

    def release(self, world: World) -> None:
        """A signal that waited in any process strikes now, in all of them; where there are several, others wait on."""
        self._held = world.size > 1
        if any(world.gather([self._pending])):
            raise StoppedError

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A signal within strikes at the end, or where it would have waited anyway, at the next `release`."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        if self._pending and not self._held:
            raise StoppedError

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            raise StoppedError

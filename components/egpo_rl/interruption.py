"""SIGTERM as an exception that strikes at once, except while a step is being committed: then it waits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StoppedError(BaseException):
    """The process was told to stop. No Exception, so that no library on the way takes it for a failure of its own."""


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

    def release(self) -> None:
        """A signal that waited strikes now."""
        self._held = False
        if self._pending:
            self._pending = False
            raise StoppedError

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal within is forgotten: we are on the way out already."""
        self._held = True
        yield
        self._held = self._pending = False

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            raise StoppedError

"""Progress with a rate and a remaining time for everything that lasts longer than two seconds.

Where it is shown depends on who looks:

- CALLFORGE_PROGRESS_FILE is set (a parent process draws): at most five events a second (components/services/events.py)
  are written there; the last one has `finished` unless the process was killed.
- standard error is a terminal: a bar, drawn by rich.
- otherwise: a line after five seconds and, while the count moves, whenever a twentieth of the time so far has passed.

Of several processes that do one thing together only the first shows it (RANK, as torchrun sets it).

`advance` only counts; a thread does the showing, so it may be called a million times a second.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, overload

from components.services.events import PROGRESS_FILE, STAGE, BarEvent, one_line, rank, write

SILENT_SECONDS = 2.0
Item = TypeVar("Item")


@overload
def track(
    items_or_total: Iterable[Item], label: str, unit: str, *, total: float | None = None, done: float = 0
) -> Track[Item]: ...
@overload
def track(items_or_total: float | None, label: str, unit: str, *, done: float = 0) -> Track[Any]: ...
def track(
    items_or_total: Iterable[Any] | float | None, label: str, unit: str, *, total: float | None = None, done: float = 0
) -> Track[Any]:
    """Follow a loop (`for item in track(items, ...)`) or count by hand (`with track(100, ...) as bar: bar.advance()`).

    Args:
        items_or_total: what to iterate over, or how many units there will be (None: unknown).
        unit: what is counted, in the plural ("records"); "bytes" are shown as MB.
        total: number of items where `items_or_total` has no length.
        done: units that a resumed run finds done; they count for the bar and not for the rate.
    """
    if items_or_total is None or isinstance(items_or_total, int | float):
        return Track(None, label, unit, items_or_total, done)
    if total is None and isinstance(items_or_total, Sized):
        total = len(items_or_total)
    return Track(items_or_total, label, unit, total, done)


class Track(Generic[Item]):
    """A bar. Use it as an iterable or as a context manager; `done` may also be set directly."""

    def __init__(self, items: Iterable[Item] | None, label: str, unit: str, total: float | None, done: float) -> None:
        self.label, self.unit, self.total, self.done = label, unit, total, done
        self._items = items
        self._first = done
        self._ended = threading.Event()

    def __iter__(self) -> Iterator[Item]:
        assert self._items is not None, "track() was given a number: use it in a `with` block"
        with self:
            for item in self._items:
                yield item
                self.done += 1

    def __enter__(self) -> Track[Item]:
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._show, name=f"progress {self.label}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, units: float = 1) -> None:
        """Count `units` more as done."""
        self.done += units

    def state(self) -> BarEvent:
        """The current state of the bar."""
        elapsed = time.monotonic() - self._started
        rate = (self.done - self._first) / elapsed if elapsed > 0 else 0.0
        remaining = max(self.total - self.done, 0) / rate if self.total is not None and rate > 0 else None
        return BarEvent(
            stage=os.environ.get(STAGE, ""),
            label=self.label,
            done=self.done,
            total=self.total,
            unit=self.unit,
            rate=rate,
            remaining_s=remaining,
            elapsed_s=elapsed,
            finished=self._ended.is_set(),
        )

    def _show(self) -> None:
        if rank() != 0 or self._ended.wait(SILENT_SECONDS):
            return
        view = _view()
        view.show(self.state())
        while not self._ended.wait(view.interval):
            view.show(self.state())
        view.show(self.state())


class _View(Protocol):
    interval: float

    def show(self, state: BarEvent) -> None: ...


def _view() -> _View:
    if os.environ.get(PROGRESS_FILE):
        return _FileView()
    return _BarView() if sys.stderr.isatty() else _LineView()


class _FileView:
    interval = 0.2

    def __init__(self) -> None:
        self.shown: tuple[float, bool] | None = None

    def show(self, state: BarEvent) -> None:
        if (state.done, state.finished) == self.shown:
            return
        self.shown = (state.done, state.finished)
        write(state)


class _LineView:
    """For logs: about a hundred lines in half a day."""

    interval = 5.0

    def __init__(self) -> None:
        self.done, self.next = -1.0, 0.0

    def show(self, state: BarEvent) -> None:
        if state.finished or (state.done != self.done and state.elapsed_s >= self.next):
            self.done, self.next = state.done, state.elapsed_s * 1.05
            print(one_line(line_of(state)), file=sys.stderr, flush=True)


class _BarView:
    """All bars of the process share one rich display: a terminal has only one last line."""

    interval = 0.1
    lock = threading.Lock()
    display: Any = None
    open_bars = 0

    def __init__(self) -> None:
        self.task: Any = None

    def show(self, state: BarEvent) -> None:
        shared = _BarView
        with shared.lock:
            if self.task is None:
                self._open(state)
            shared.display.update(self.task, completed=state.done, note=numbers_of(state))
            if state.finished:
                shared.open_bars -= 1
                if shared.open_bars == 0:
                    shared.display.stop()
                    shared.display = None

    def _open(self, state: BarEvent) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        shared = _BarView
        if shared.display is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[note]}"))
            shared.display = Progress(*columns, console=Console(stderr=True))
            shared.display.start()
        self.task = shared.display.add_task(one_line(state.label), total=state.total, note="")
        shared.open_bars += 1


def line_of(state: BarEvent) -> str:
    """`label 120/400 records (30 %), 12.3 records/s, 0:23 left`."""
    return f"{state.label} {numbers_of(state)}".rstrip()


def numbers_of(state: BarEvent) -> str:
    """`120/400 records (30 %), 12.3 records/s, 0:23 left`; what is not known yet is left out."""
    scale, unit = (1e6, "MB") if state.unit == "bytes" else (1, state.unit)
    done = _number(state.done / scale)
    if state.total:
        done += f"/{_number(state.total / scale)} {unit} ({min(100 * state.done / state.total, 100):.0f} %)"
    else:
        done += f" {unit}"
    parts = [] if state.total == 1 else [done]  # of one thing there is nothing to count
    if state.rate and parts:
        parts.append(f"{_number(state.rate / scale)} {unit}/s")
    if state.finished:
        parts.append(f"took {_clock(state.elapsed_s)}")
    elif state.remaining_s is not None:
        parts.append(f"{_clock(state.remaining_s)} left")
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

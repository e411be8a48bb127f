"""What a person sees of a local run: the stages as they begin and end, their lines and warnings, and a bar for what is
slow.

Draws the events that the run's processes write (components/services/events.py) and decides nothing. On a terminal the
bars move; elsewhere there is a line now and then.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from components.services.events import (
    BarEvent,
    Event,
    MetricEvent,
    StageEvent,
    TextEvent,
    one_line,
    read_event,
    warning_line,
)
from components.services.progress import line_of, numbers_of
from components.stages.catalogue import NAMES
from pipelines.console import Console

STAGE_WIDTH = max(map(len, NAMES)) + 1
LINE_SECONDS = 10.0
SHOWN_METRICS = ("reward", "loss")  # beside the bar of the steps
LOOKS_A_SECOND = 2  # a terminal may be far away


class Terminal:
    """Draws one run while its `with` block lasts."""

    def __init__(self, console: Console, progress: Path) -> None:
        self.console = console
        self.stage = ""  # the one at work, or the one that failed
        self.failure = ""  # why it did
        self._progress = _Tail(progress)
        self._started = 0.0
        self._bars: dict[tuple[str, int], Any] = {}
        self._states: dict[tuple[str, int], BarEvent] = {}  # the last of each bar that is open
        self._metrics = ""
        self._shown: dict[tuple[str, int], float] = {}  # when each bar last had a line
        self._warned: set[tuple[str, str]] = set()
        self._ended = threading.Event()
        self._view = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), _Bar(),
            TextColumn("{task.fields[numbers]}", markup=False), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal, refresh_per_second=LOOKS_A_SECOND,
        )  # fmt: skip
        self._stage_bar: Any = None
        self._thread = threading.Thread(target=self._follow, name="terminal", daemon=True)

    def __enter__(self) -> Terminal:
        self._view.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._view.stop()

    def _follow(self) -> None:
        while not self._ended.wait(0.2):
            self._look()
        self._look()

    def _look(self) -> None:
        for line in self._progress.lines():
            if (event := read_event(line)) is not None:
                self._draw(event)
        for key, task in self._bars.items():
            self._view.update(task, numbers=self._numbers(self._states[key]))

    def _draw(self, event: Event) -> None:
        if isinstance(event, StageEvent):
            self._draw_stage(event)
        elif isinstance(event, TextEvent):
            self._draw_text(event)
        elif isinstance(event, BarEvent):
            self._draw_bar(event)
        else:
            self._draw_metrics(event)

    def _draw_stage(self, event: StageEvent) -> None:
        if event.event == "started":
            self.stage, self._started = event.stage, event.time
            self._remove_bars()
            if self.console.is_terminal:
                self._stage_bar = self._view.add_task(one_line(event.stage), total=None, numbers="")
            else:
                self._print(event.stage, "...")
            return
        self._remove_bars()
        if event.event == "failed":
            self.stage, self.failure = event.stage, event.text
            self._print(event.stage, "failed", "bold red")
            return
        self.stage = ""
        took = f"done in {_clock(event.time - self._started)}"
        self._print(event.stage, "done already" if event.event == "skipped" else took, "bold")

    def _draw_text(self, event: TextEvent) -> None:
        if event.event == "line":
            self._print(event.stage, event.text)
            return
        if event.rank and (event.stage, event.text) in self._warned:  # every process has it
            return
        self._warned.add((event.stage, event.text))
        self._print(event.stage, warning_line(event.text, event.rank), "yellow")

    def _draw_bar(self, bar: BarEvent) -> None:
        key = (bar.label, bar.pid)
        if self.console.is_terminal:
            if bar.finished:
                if key in self._bars:
                    self._view.remove_task(self._bars.pop(key))
                return
            if key not in self._bars:
                self._bars[key] = self._view.add_task(f"  {one_line(bar.label)}", total=bar.total, numbers="")
            self._states[key] = bar
            self._view.update(self._bars[key], completed=bar.done, total=bar.total)
        elif bar.finished or time.monotonic() - self._shown.get(key, 0.0) > LINE_SECONDS:
            self._shown[key] = time.monotonic()
            self._print(bar.stage, line_of(bar))

    def _draw_metrics(self, event: MetricEvent) -> None:
        numbers = [f"{name} {event.values[name]:.3g}" for name in SHOWN_METRICS if name in event.values]
        self._metrics = ", ".join(numbers) or self._metrics

    def _numbers(self, bar: BarEvent) -> str:
        """The bar's numbers by now: its event may be old, since there is one for each change only."""
        left = None if bar.remaining_s is None else bar.remaining_s - (time.time() - bar.time)
        text = numbers_of(bar.model_copy(update={"remaining_s": left if left and left > 0 else None}))
        return one_line(", ".join(filter(None, (text, self._metrics if bar.unit == "steps" else ""))))

    def _remove_bars(self) -> None:
        for task in [*self._bars.values(), *([] if self._stage_bar is None else [self._stage_bar])]:
            self._view.remove_task(task)
        self._bars.clear()
        self._stage_bar, self._metrics = None, ""

    def _print(self, stage: str, text: str, style: str = "") -> None:
        self.console.print(Text(f"{one_line(stage):<{STAGE_WIDTH}}", "dim").append(one_line(text), style or "not dim"))


class _Bar(BarColumn):
    """A bar where it is known how much there is; one that only moves would be most of what a terminal is sent."""

    def render(self, task: Any) -> Any:
        return Text() if task.total is None else super().render(task)


class _Tail:
    """The whole lines that were appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def lines(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self.position += len(data)
        return data.split(b"\n")[:-1]


def _clock(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"

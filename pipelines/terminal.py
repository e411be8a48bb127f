"""What a person sees of a local run: the stages as they begin and end, their own lines, and a bar for what is slow.

Reads what the run's processes write (kfp.log, progress.jsonl) and draws; it decides nothing. On a terminal the bars
move; elsewhere there is a line now and then.
"""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from components.services.progress import State, line_of, numbers_of

STAGES = ("preflight", "data_refine", "sft_warmup", "egpo_rl", "bfcl_eval", "model_registration")
KFP_INDENT = 4  # of what a step prints
LINE_SECONDS = 10.0
# What a stage says to people begins with its name; lines that follow, indented by two, belong to it. KFP shows outputs
# of preflight in the same way, as quoted JSON.
_OWN = re.compile(rf"(?:{'|'.join(STAGES)}|tracking)(?!: '{{)[: ]")
_KFP_NOISE = re.compile(r"\[KFP Executor|^\d\d:\d\d:\d\d\.\d+ - |^-+$|^Pipeline |^Task ")


class Terminal:
    """Follows one run while its `with` block lasts."""

    def __init__(self, console: Console, log: Path, begin: int, progress: Path) -> None:
        """`begin`: where this run's part of the log starts."""
        self.console = console
        self.stage, self.last_line = "", ""
        self._log, self._progress = _Tail(log, begin), _Tail(progress, 0)
        self._own = False
        self._started = 0.0
        self._bars: dict[tuple[str, int], Any] = {}
        self._told: dict[tuple[str, int], float] = {}
        self._ended = threading.Event()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"))
        self._view = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
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
            try:
                entry = json.loads(line)
            except ValueError:  # half a line, of a process that was killed
                continue
            if "event" in entry:
                self._show_event(entry["stage"], entry["event"], entry["time"])
            else:
                self._show_state(State(**entry))
        for line in self._log.lines():
            self._show_line(line)

    def _show_event(self, stage: str, event: str, at: float) -> None:
        if event == "started":
            self.stage, self._started = stage, at
            if self.console.is_terminal:
                self._stage_bar = self._view.add_task(stage, total=None, numbers="")
            else:
                self._print(f"{stage} ...")
            return
        for line in self._log.lines():  # what the stage said stands above its end
            self._show_line(line)
        for task in [*self._bars.values(), *([] if self._stage_bar is None else [self._stage_bar])]:
            self._view.remove_task(task)
        self._bars.clear()
        self._stage_bar = None
        ends = {"done": f"done in {_clock(at - self._started)}", "skipped": "done already", "failed": "failed"}
        self._print(f"{stage}: {ends[event]}", style="bold red" if event == "failed" else "bold")
        if event != "failed":
            self.stage = ""

    def _show_state(self, state: State) -> None:
        key = (state.label, state.pid)
        if self.console.is_terminal:
            if state.finished:
                if key in self._bars:
                    self._view.remove_task(self._bars.pop(key))
                return
            if key not in self._bars:
                self._bars[key] = self._view.add_task(f"  {state.label}", total=state.total, numbers="")
            self._view.update(self._bars[key], completed=state.done, total=state.total, numbers=numbers_of(state))
        elif state.finished or time.monotonic() - self._told.get(key, 0.0) > LINE_SECONDS:
            self._told[key] = time.monotonic()
            self._print(f"  {line_of(state)}")

    def _show_line(self, line: str) -> None:
        text = line[KFP_INDENT:] if line.startswith(" " * KFP_INDENT) else line
        self._own = bool(_OWN.match(text)) or (self._own and text.startswith("  ") and bool(text.strip()))
        if self._own:
            self._print(f"  {text}")
        elif text.strip() and not _KFP_NOISE.search(text):
            self.last_line = text.strip()

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Tail:
    """The whole lines that were appended to a file since the last look."""

    def __init__(self, path: Path, position: int) -> None:
        self.path, self.position = path, position

    def lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self.position += len(data)
        return data.decode("utf-8", "replace").splitlines()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"

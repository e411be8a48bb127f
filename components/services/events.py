"""What a stage reports while it works: its start and end, a line, a warning, a metric, the state of a bar.

Every event is one line of JSON in the file that CALLFORGE_PROGRESS_FILE names, for whoever draws the run (`read_event`
is their reader), and, except metrics and bars, a plain line on standard output, which is what KFP keeps as a step's
log. Of several processes (RANK, as torchrun sets it) only the first has lines; a warning of another one names it.

Texts may hold anything a record, a file name or a model holds. `visible` and `one_line` make them safe to print.
"""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter

from components.errors import without_login

PROGRESS_FILE = "CALLFORGE_PROGRESS_FILE"
STAGE = "CALLFORGE_STAGE"  # the stage at work; a variable, so that the processes that help it know it as well
LONGEST_TEXT = 4_000  # characters
CODE_WARNINGS = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)  # a run can do nothing about them
LIBRARY_WARNINGS = 20  # kinds in one process
_JOINERS = "\u200c\u200d"  # format characters that Persian, Indic scripts and emoji are written with


def shortened(text: str) -> str:
    """`text` without the logins of addresses, and without what is beyond LONGEST_TEXT characters."""
    text = without_login(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... ({len(text):,} characters)"


def _writable(text: Any) -> Any:
    """Of characters that UTF-8 has."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_writable)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    stage: Text = ""
    rank: int = 0
    pid: int = Field(default_factory=os.getpid)
    time: FiniteFloat = Field(default_factory=time.time)


class StageEvent(_Line):
    """A stage began or ended; `text` is why it failed."""

    event: Literal["started", "skipped", "done", "failed"]
    text: Text = ""


class TextEvent(_Line):
    """Something for people to read."""

    event: Literal["line", "warning"]
    text: Text


class MetricEvent(_Line):
    """The numbers of one step; NaN and infinity are possible."""

    event: Literal["metric"] = "metric"
    step: int
    values: dict[Text, float]


class BarEvent(_Line):
    """The state of a bar; `label` and `pid` together name it. `total` and `remaining_s` are None where unknown; `rate`
    is units a second."""

    event: Literal["bar"] = "bar"
    label: Text
    done: FiniteFloat
    total: FiniteFloat | None
    unit: Text
    rate: FiniteFloat
    remaining_s: FiniteFloat | None
    elapsed_s: FiniteFloat
    finished: bool


Event = StageEvent | TextEvent | MetricEvent | BarEvent
_READER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def read_event(line: bytes | str) -> Event | None:
    """The event of one line of a progress file; None for anything else, e.g. half a line of a killed process."""
    try:
        return _READER.validate_json(line)
    except ValueError:
        return None


def announce(stage: str, event: Literal["started", "skipped", "done", "failed"], text: str = "") -> None:
    """A stage began or ended; `text`: why it failed."""
    text = shortened(text)
    if event == "started":
        os.environ[STAGE] = stage
    else:
        os.environ.pop(STAGE, None)
    if rank() == 0:
        write(StageEvent(event=event, stage=stage, text=text))
        words = {"skipped": "done already"}.get(event, event)
        for line in (f"{words}: {text}" if text else words).split("\n"):
            _print(stage, line)


def say(*lines: str) -> None:
    """Lines for people."""
    if rank() == 0:
        for text in map(shortened, lines):
            write(TextEvent(event="line", stage=_stage(), text=text))
            _print(_stage(), text)


def warn(text: str) -> None:
    """Something that a person should look at, though the work continues. Any process may warn."""
    text = shortened(text)
    write(TextEvent(event="warning", stage=_stage(), rank=rank(), text=text))
    _print(_stage(), warning_line(text, rank()))


def trace(error: BaseException) -> None:
    """The traceback of an error that nobody foresaw: for the log, not an event."""
    with suppress(OSError, ValueError):
        print(visible("".join(traceback.format_exception(error))), end="", flush=True)


def metric(step: int, values: Mapping[str, float]) -> None:
    """The numbers of one step, for whoever draws the run; metrics.jsonl and MLflow keep them."""
    if rank() == 0:
        write(MetricEvent(stage=_stage(), step=step, values=dict(values)))


def write(event: Event) -> None:
    """Append an event to the progress file, if there is one. A full disk does not stop the work."""
    if path := os.environ.get(PROGRESS_FILE):
        data = event.model_dump_json().encode() + b"\n"
        with suppress(OSError):
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, data)  # one call: lines of several writers stay whole
            finally:
                os.close(file)


def rank() -> int:
    """This process's place among those that do one thing together."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdigit() else 0


def _stage() -> str:
    return os.environ.get(STAGE, "")


def _print(stage: str, text: str) -> None:
    line = f"{stage}: {text}" if stage else text
    with suppress(OSError, ValueError):  # nobody reads any more, or a full disk
        print(one_line(line), flush=True)


def warning_line(text: str, of_rank: int) -> str:
    """A warning as it is shown."""
    return f"warning (rank {of_rank}): {text}" if of_rank else f"warning: {text}"


def visible(text: str) -> str:
    """`text` with everything that would steer a terminal, or hide there, as an escape that can be read: control and
    format characters, lone surrogates, line separators. Newlines stay. The login of an address does not."""
    if "://" in text:
        text = without_login(text)
    if text.isprintable():
        return text
    return "".join(char if char == "\n" or _harmless(char) else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """As `visible`, newlines escaped as well: a text cannot pretend to be a line of its own."""
    return visible(text).replace("\n", "\\n")


def _harmless(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in _JOINERS


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


@contextmanager
def library_warnings() -> Iterator[None]:
    """While the block lasts, warnings of libraries (modules `warnings` and `logging`) are events: each kind once,
    with its source, and no more than LIBRARY_WARNINGS kinds. Further kinds, and those about the code of the libraries,
    are only printed."""
    collector = _Collector(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(collector)
    with warnings.catch_warnings():

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None,
            line: str | None = None,
        ) -> None:  # fmt: skip
            source = re.split(r"(?:site|dist)-packages/", filename)[-1]
            text = f"{message} ({category.__name__}, {source}:{lineno})"
            collector.take(f"{filename}:{lineno}:{category}", text, drawn=not issubclass(category, CODE_WARNINGS))

        warnings.showwarning = show
        try:
            yield
        finally:
            root.removeHandler(collector)


class _Collector(logging.Handler):
    """Passes the first message of each kind on."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.seen: set[str] = set()
        self.drawn = 0

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # a message that its arguments do not fit
            self.take(f"{record.name}:{record.msg}", f"{record.getMessage()} ({record.name})")

    def take(self, kind: str, text: str, *, drawn: bool = True) -> None:
        if kind in self.seen:
            return
        self.seen.add(kind)
        text = " ".join(text.split())
        self.drawn += drawn
        if drawn and self.drawn <= LIBRARY_WARNINGS:
            warn(text)
        else:
            _print(_stage(), warning_line(text, rank()))

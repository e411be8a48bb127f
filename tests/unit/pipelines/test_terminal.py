"""What a person sees of a run: drawn only from events, on a terminal and into a file; nothing foreign steers it."""

from __future__ import annotations

import io
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from components.services import events
from components.services.events import BarEvent, MetricEvent, StageEvent, TextEvent, announce, say, warn, write
from pipelines.console import Console
from pipelines.terminal import Terminal
from tests.unit.services.test_events import ANY_TEXT, JUNK

OWN_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what rich draws with


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(events.PROGRESS_FILE, str(path))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(events.STAGE, "")
    yield path


def drawn(file: Path, *, terminal: bool = False) -> str:
    """Everything that is drawn of the events that are there."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    with Terminal(console, file):
        pass
    return console.file.getvalue()


def foreign_codes(text: str) -> list[str]:
    own = OWN_CODES.sub("", text).replace("\r", "")  # a moving bar goes back to the start of its line
    return [char for char in own if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char != "\n"]


def test_a_run_is_told_stage_by_stage(file: Path) -> None:
    announce("data_refine", "skipped")
    announce("egpo_rl", "started")
    say("step 1/2  reward 0.500", "  [bold]not markup[/x]")
    warn("the gradients are not finite")
    announce("egpo_rl", "done")
    announce("bfcl_eval", "started")
    announce("bfcl_eval", "failed", "no such model")
    lines = drawn(file).splitlines()
    assert lines[:5] == [
        "data_refine        done already",
        "egpo_rl            ...",
        "egpo_rl            step 1/2  reward 0.500",
        "egpo_rl              [bold]not markup[/x]",
        "egpo_rl            warning: the gradients are not finite",
    ]
    assert re.fullmatch(r"egpo_rl            done in \d\.\d s", lines[5])
    assert lines[6:] == ["bfcl_eval          ...", "bfcl_eval          failed"]


def test_a_stage_of_a_minute_is_not_said_to_last_sixty_seconds(file: Path) -> None:
    for event, when in (("started", 0.0), ("done", 119.96)):
        write(StageEvent(event=event, stage="egpo_rl", time=when))
    assert drawn(file).splitlines()[-1] == "egpo_rl            done in 2 min 0 s"


@pytest.mark.parametrize(("age", "left"), [(0, "0:5"), (30, "0:2"), (90, None)])
def test_the_bar_of_a_long_step_counts_down_and_names_the_loss(file: Path, age: float, left: str | None) -> None:
    announce("sft_warmup", "started")
    bar = {"label": "warm-up", "unit": "steps", "total": 60, "rate": 0.1, "remaining_s": 59.0, "elapsed_s": 9.0}
    write(BarEvent(stage="sft_warmup", done=1, finished=False, time=time.time() - age, **bar))
    write(MetricEvent(step=1, values={"loss": 0.625}))
    shown = OWN_CODES.sub("", drawn(file, terminal=True))
    assert "1/60 steps (2 %), 0.1 steps/s" in shown and "loss 0.625" in shown
    assert left in shown if left else " left" not in shown


def test_why_a_stage_failed_is_known_afterwards(file: Path) -> None:
    announce("egpo_rl", "started")
    announce("egpo_rl", "failed", "no\nmemory")
    with Terminal(Console(file=io.StringIO()), file) as terminal:
        pass
    assert (terminal.stage, terminal.failure) == ("egpo_rl", "no\nmemory")


def test_a_warning_that_every_process_has_is_shown_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("RANK", rank)
        warn("old driver")
        say(f"line of {rank}")
    monkeypatch.setenv("RANK", "1")
    warn("out of memory")
    monkeypatch.setenv("RANK", "2")
    warn("out of memory")
    assert [line.strip() for line in drawn(file).splitlines()] == [
        "warning: old driver", "line of 0", "warning (rank 1): out of memory"
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_junk_in_the_progress_file_is_passed_over(file: Path, terminal: bool) -> None:
    announce("egpo_rl", "started")
    with file.open("ab") as out:
        out.writelines(line + b"\n" for line in JUNK)
    say("goes on")
    with file.open("ab") as out:
        out.write(b'{"event": "line", "text": "half')
    assert "goes on" in drawn(file, terminal=terminal) and "half" not in drawn(file, terminal=terminal)


@given(text=ANY_TEXT, terminal=st.booleans())
@example(text="\ud800", terminal=True)
def test_no_text_steers_the_terminal(tmp_path_factory: pytest.TempPathFactory, text: str, terminal: bool) -> None:
    file = tmp_path_factory.mktemp("events") / "progress.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(events.PROGRESS_FILE, str(file))
        patch.delenv("RANK", raising=False)
        bar = {"stage": text, "label": text, "unit": text, "total": 2, "rate": 1, "remaining_s": 1, "elapsed_s": 1}
        for event in (
            StageEvent(event="started", stage=text),
            TextEvent(event="line", stage=text, text=text),
            TextEvent(event="warning", stage=text, text=text),
            MetricEvent(step=1, values={"loss": 0.5, text: 1.0}),
            BarEvent(done=1, finished=False, **bar),
            BarEvent(done=2, finished=True, **bar),
            StageEvent(event="failed", stage=text, text=text),
        ):
            write(event)
    assert foreign_codes(drawn(file, terminal=terminal)) == []


@given(ANY_TEXT)
def test_the_console_prints_any_string_as_it_can_be_read(text: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(f"<{text}>", style="red")
    table = Table(title=f"<{text}>")
    table.add_column(f"<{text}>")
    table.add_row(f"<{text}>")
    console.print(table, soft_wrap=False)
    assert foreign_codes(console.file.getvalue()) == []


@pytest.mark.parametrize("text", ["[/]", "q[/x]/o", "[red]x[/red]", ":smile:", "[link=http://x]y[/link]"])
def test_square_brackets_and_colons_are_no_markup(text: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    console.print(f"wrote {text}")
    assert console.file.getvalue() == f"wrote {text}\n"

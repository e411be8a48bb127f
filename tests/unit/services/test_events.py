"""Events: whole lines whatever the text, plain lines for a log, and no library's warning lost or repeated."""

from __future__ import annotations

import json
import logging
import math
import os
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.services import events
from components.services.events import (
    BarEvent,
    MetricEvent,
    StageEvent,
    TextEvent,
    announce,
    library_warnings,
    metric,
    one_line,
    read_event,
    say,
    visible,
    warn,
    write,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates as well


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The progress file; the stage at work is egpo_rl."""
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(events.PROGRESS_FILE, str(path))
    monkeypatch.setenv(events.STAGE, "egpo_rl")
    monkeypatch.delenv("RANK", raising=False)
    return path


def read(path: Path) -> list[Any]:
    found = [read_event(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert None not in found
    return found


def test_what_happens_is_in_the_file_and_in_the_log(file: Path, capsys: Any) -> None:
    announce("sft_warmup", "started")
    say("one", "two")
    warn("slow")
    metric(3, {"loss": 0.5, "grad": math.nan})
    announce("sft_warmup", "failed", "no disk\nnor memory")
    assert [(event.event, event.stage) for event in read(file)] == [
        (kind, "sft_warmup") for kind in ("started", "line", "line", "warning", "metric", "failed")
    ]
    values = read(file)[4].values
    assert values["loss"] == 0.5 and math.isnan(values["grad"])
    assert capsys.readouterr().out.splitlines() == [
        "sft_warmup: started", "sft_warmup: one", "sft_warmup: two", "sft_warmup: warning: slow",
        "sft_warmup: failed: no disk", "sft_warmup: nor memory",
    ]  # fmt: skip


@given(ANY_TEXT)
def test_any_text_is_one_line_and_steers_no_terminal(text: str) -> None:
    shown = one_line(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert not any(char in shown for char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    shown.encode()
    assert visible(text).replace("\n", "\\n") == shown
    assert visible(shown) == shown, "escaped once"


@given(ANY_TEXT)
def test_any_text_comes_back_from_the_file(text: str) -> None:
    event = TextEvent(event="line", stage=text, text=text)
    line = event.model_dump_json().encode()
    assert b"\n" not in line and read_event(line) == event


@pytest.mark.parametrize("text", ["naïve — 東京 🧑‍🚀 می‌خواهم", "a b\u3000c", "[red]x[/]", "C:\\n"])
def test_honest_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_a_long_text_is_cut_and_its_length_given(file: Path, capsys: Any) -> None:
    say("x" * 1_000_000)
    assert read(file)[0].text.endswith("x ... (1,000,000 characters)")
    assert len(capsys.readouterr().out) < 5_000


def test_a_traceback_is_for_the_log_only(file: Path, capsys: Any) -> None:
    try:
        raise ValueError("cursed\x1b[2J")
    except ValueError as error:
        events.trace(error)
    printed = capsys.readouterr().out
    assert printed.endswith("ValueError: cursed\\x1b[2J\n") and "\n  File " in printed
    assert not file.exists()


JUNK = [
    b"", b"{", b"null", b"[]", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"event": []}', b'{"event": "line"}',
    b'{"event": "line", "text": 3}', b'{"event": "started", "stage": {"a": 1}}',
    b'{"event": "bar", "label": "x", "done": "many"}', b'{"event": "done", "stage": "x", "time": 1e999}',
    b'{"event": "metric", "step": 1' + b"0" * 5_000 + b', "values": {}}', b'{"event": "explode", "stage": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("line", JUNK, ids=range(len(JUNK)))
def test_what_is_no_event_is_none(line: bytes) -> None:
    assert read_event(line) is None


@given(st.binary())
def test_no_bytes_break_the_reader(line: bytes) -> None:
    read_event(line)


def test_of_several_processes_the_first_has_lines_and_all_have_warnings(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RANK", "3")
    say("line")
    metric(1, {"loss": 1.0})
    warn("hot")
    announce("egpo_rl", "done")
    assert [(event.event, event.rank) for event in read(file)] == [("warning", 3)]
    assert capsys.readouterr().out == "egpo_rl: warning (rank 3): hot\n"


def test_a_full_disk_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(events.PROGRESS_FILE, "/dev/full")
    say("still here")
    monkeypatch.setenv(events.PROGRESS_FILE, "/no/such/folder/file")
    write(StageEvent(event="done", stage="x"))
    assert "still here" in capsys.readouterr().out


def test_warnings_of_libraries_are_shown_once_each_with_their_source(file: Path, capsys: Any) -> None:
    with library_warnings():
        for number in range(3):
            warnings.warn("old driver", UserWarning, stacklevel=1)
            warnings.warn("this will be dropped", FutureWarning, stacklevel=1)
            logging.getLogger("peft.tuners").warning("adapter %d is\nempty", number)
            logging.getLogger("peft.tuners").info("chatter")
    texts = [event.text for event in read(file)]
    assert texts == [
        f"old driver (UserWarning, {__file__}:{_line_of('old driver')})",
        "adapter 0 is empty (peft.tuners)",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and "this will be dropped (FutureWarning" in printed[1], "about code: for the log only"
    logging.getLogger("peft").warning("after the block")
    assert len(read(file)) == 2


def test_a_flood_of_different_warnings_is_printed_and_not_drawn(file: Path, capsys: Any) -> None:
    with library_warnings():
        for number in range(events.LIBRARY_WARNINGS + 30):
            logging.getLogger("flood").warning(f"drop {number}")
    assert len(read(file)) == events.LIBRARY_WARNINGS
    assert len(capsys.readouterr().out.splitlines()) == events.LIBRARY_WARNINGS + 30


def test_the_warnings_of_transformers_come_with_those_of_others(file: Path, capfd: Any) -> None:
    pytest.importorskip("transformers")
    from components.language_models.base_models import without_bars

    with library_warnings():
        with without_bars():
            pass
        logging.getLogger("transformers.modeling_utils").warning("Some weights were not used")
    assert [event.text for event in read(file)] == ["Some weights were not used (transformers.modeling_utils)"]
    assert capfd.readouterr().err == "", "nor twice, past the one who draws"


def test_a_bar_names_its_process(file: Path) -> None:
    write(BarEvent(label="x", done=1, total=None, unit="u", rate=0, remaining_s=None, elapsed_s=0, finished=False))
    write(MetricEvent(step=1, values={"x": math.inf}))
    bar, numbers = (json.loads(line) for line in file.read_text().splitlines())
    assert bar["pid"] == os.getpid() and numbers["values"] == {"x": math.inf}


def _line_of(text: str) -> int:
    return next(number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if text in line)

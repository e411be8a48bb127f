"""Progress: silent when short, right numbers when long, and a file that a parent can draw from."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from components.services import progress
from components.services.events import PROGRESS_FILE, BarEvent
from components.services.progress import line_of, track


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.05)
    monkeypatch.delenv(PROGRESS_FILE, raising=False)


def _wait_until(condition: Callable[[], bool]) -> None:
    """The bar is shown by a thread, which a busy machine may let wait."""
    while not condition():
        time.sleep(0.005)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _state(**changes: Any) -> BarEvent:
    values: dict[str, Any] = {
        "label": "refine", "done": 50, "total": 200, "unit": "records", "rate": 10.0, "remaining_s": 15.0,
        "elapsed_s": 5.0, "finished": False,
    }  # fmt: skip
    return BarEvent(**values | changes)


def test_what_is_over_soon_is_not_shown(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 2.0)
    assert list(track([1, 2, 3], "short", "items")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_lines_carry_share_rate_and_remaining_time() -> None:
    assert line_of(_state()) == "refine 50/200 records (25 %), 10 records/s, 0:15 left"
    assert line_of(_state(total=None, remaining_s=None)) == "refine 50 records, 10 records/s"
    assert line_of(_state(done=0, rate=0.0, remaining_s=None)) == "refine 0/200 records (0 %)"
    assert line_of(_state(done=0, total=1, unit="models", rate=0.0, remaining_s=None)) == "refine"
    assert line_of(_state(remaining_s=3725.0)).endswith("1:02:05 left")
    assert line_of(_state(finished=True, elapsed_s=61.0)).endswith("took 1:01")
    done = _state(done=15_000_000, total=30_000_000, unit="bytes", rate=2.5e6)
    assert line_of(done) == "refine 15/30 MB (50 %), 2.5 MB/s, 0:15 left"


def test_a_loop_counts_what_was_done_and_not_what_is_being_done() -> None:
    bar = track(range(3), "loop", "items")
    seen = [(item, bar.done) for item in bar]
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert bar.done == bar.total == 3


def test_units_of_an_earlier_run_count_for_the_share_and_not_for_the_rate() -> None:
    with track(100, "steps", "steps", done=90) as bar:
        time.sleep(0.1)
        bar.advance(1)
        state = bar.state()
    assert state.done == 91
    assert 0 < state.rate <= 10
    assert state.remaining_s == pytest.approx(9 / state.rate)


def test_the_file_holds_one_state_a_line_and_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_FILE, str(path))
    for number in track(iter(range(100)), "loop", "items", total=100):
        _wait_until(lambda least=number // 40: len(_lines(path)) >= least)
    states = [json.loads(line) for line in _lines(path)]
    times = [state["elapsed_s"] for state in states]
    assert all(after - before > 0.19 for before, after in pairwise(times[:-1])), "five a second"
    assert set(states[0]) == {
        "event", "stage", "rank", "label", "done", "total", "unit", "rate", "remaining_s", "elapsed_s", "finished",
        "pid", "time",
    }  # fmt: skip
    assert [state["done"] for state in states] == sorted(state["done"] for state in states)
    assert [state["finished"] for state in states] == [False] * (len(states) - 1) + [True]
    assert (states[-1]["done"], states[-1]["total"], states[-1]["remaining_s"]) == (100, 100, 0)
    assert capsys.readouterr() == ("", "")


def test_a_loop_that_fails_ends_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.jsonl"))
    with pytest.raises(KeyError), track(10, "work", "steps") as bar:
        bar.advance(4)
        _wait_until((tmp_path / "progress.jsonl").exists)
        raise KeyError
    last = json.loads(_lines(tmp_path / "progress.jsonl")[-1])
    assert (last["done"], last["finished"]) == (4, True)


def test_without_a_terminal_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress._LineView, "interval", 0.05)
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    with track(4, "outer", "steps") as outer:
        for _ in track(range(3), "inner", "items"):
            _wait_until(lambda: "inner" in screen.getvalue())
        _wait_until(lambda: "outer" in screen.getvalue())
        outer.advance()
    lines = screen.getvalue().splitlines()
    assert any(line.startswith("inner 3/3 items (100 %)") and "took" in line for line in lines)
    assert lines[-1].startswith("outer 1/4 steps (25 %)")


def test_a_log_of_half_a_day_is_short_and_says_nothing_twice(capsys: Any) -> None:
    view = progress._LineView()
    for second in range(0, 12 * 3600, 5):
        view.show(_state(done=second // 20, elapsed_s=float(second)))
    lines = capsys.readouterr().err.splitlines()
    assert 50 < len(lines) < 150
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_of_several_processes_the_first_shows(
    rank: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    file = tmp_path / "progress.jsonl"
    for name, place in (("", lambda: "loop" in screen.getvalue()), (str(file), file.exists)):
        monkeypatch.setenv(PROGRESS_FILE, name)
        bar = track(range(3), "loop", "items")
        for _ in bar:
            if shown:
                _wait_until(place)
            else:
                time.sleep(0.04)
        assert bar.done == 3
    assert ("loop" in screen.getvalue()) == file.exists() == shown


def test_counting_shows_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be done a million times a second."""
    shown: list[BarEvent] = []
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(progress._LineView, "interval", 0.01)
    monkeypatch.setattr(progress._LineView, "show", lambda view, state: shown.append(state))
    with track(None, "count", "records") as bar:
        _wait_until(lambda: bool(shown))
        for _ in range(100_000):
            bar.advance()
    assert len(shown) < 10_000 and shown[-1].done == 100_000

"""Held-out records as questions: which are asked, and that they are graded by the rule of the reward."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from components.bfcl_eval.own_records import grade_own, load_own_questions
from components.errors import InputError
from components.function_calls.prompt import ToolNames, render_turn
from components.function_calls.record import record_to_json


@pytest.fixture
def folder(tmp_path: Path, make_records) -> Path:
    with gzip.open(tmp_path / "held_out.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in make_records(40))
    return tmp_path


def test_every_record_is_asked_once_under_its_kind(folder: Path) -> None:
    questions, sizes, evaluator = load_own_questions(folder, 1000, 0)
    assert sum(sizes.values()) == len(questions) == 40 and set(sizes) <= {"own_calls", "own_no_call"}
    assert all((question.category == "own_calls") == bool(question.record.answers) for question in questions)
    assert evaluator.name == "callforge strict rule" and len(evaluator.data) == 16


def test_a_larger_sample_contains_the_smaller_one(folder: Path) -> None:
    small, large = ({question.id for question in load_own_questions(folder, n, 3)[0]} for n in (5, 20))
    assert len(small) == 5 and len(large) == 20 and small < large


def test_the_gold_turn_is_right_and_another_is_wrong(folder: Path) -> None:
    for question in load_own_questions(folder, 40, 0)[0]:
        record = question.record
        gold = render_turn("It asks.", record.answers, record.response, ToolNames(record.tools)).text
        assert grade_own(question, gold, True).right
        assert grade_own(question, gold, False).reason == "truncated"
        wrong = "<think>a</think>\n" + ("I cannot." if record.answers else f"[{record.tools[0].name}()]")
        assert not grade_own(question, wrong, True).right


def test_other_data_are_another_evaluator(folder: Path) -> None:
    before = load_own_questions(folder, 1, 0)[2]
    with gzip.open(folder / "held_out.jsonl.gz", "at") as file:
        file.write("\n")
    assert load_own_questions(folder, 1, 0)[2] != before


def test_a_folder_without_held_out_records_asks_nothing(tmp_path: Path) -> None:
    assert load_own_questions(tmp_path, 10, 0)[:2] == ([], {})


def test_a_broken_line_is_named(folder: Path) -> None:
    with gzip.open(folder / "held_out.jsonl.gz", "at") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match=r"held_out\.jsonl\.gz, line 41"):
        load_own_questions(folder, 10, 0)

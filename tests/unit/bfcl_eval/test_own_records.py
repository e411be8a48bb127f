"""Held-out records as questions: which are asked, and that they are graded by the rule of the reward."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.bfcl_eval.benchmarks import benchmarks
from components.bfcl_eval.own_records import grade_own, load_own_questions
from components.errors import InputError
from components.function_calls.prompt import ToolNames, render_turn
from components.function_calls.record import record_to_json
from components.settings import BfclEvalSettings
from components.stages import catalogue
from components.stages.refined_records import HELD_OUT, own_records_file


@pytest.fixture
def file(tmp_path: Path, make_records) -> str:
    with gzip.open(tmp_path / HELD_OUT, "wt") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in make_records(40))
    return str(tmp_path / HELD_OUT)


def lines_of(file: str) -> list[bytes]:
    return gzip.decompress(Path(file).read_bytes()).splitlines(keepends=True)


def test_every_record_is_asked_once_under_its_kind(file: str) -> None:
    questions, sizes, evaluator = load_own_questions(file, 1000, 0)
    assert sum(sizes.values()) == len(questions) == 40 and set(sizes) <= {"own_calls", "own_no_call"}
    assert all((question.category == "own_calls") == bool(question.record.answers) for question in questions)
    assert evaluator.name == "callforge strict rule" and len(evaluator.data) == 16


def test_a_larger_sample_contains_the_smaller_one(file: str) -> None:
    small, large = ({question.id for question in load_own_questions(file, n, 3)[0]} for n in (5, 20))
    assert len(small) == 5 and len(large) == 20 and small < large


def test_the_gold_turn_is_right_and_another_is_wrong(file: str) -> None:
    for question in load_own_questions(file, 40, 0)[0]:
        record = question.record
        gold = render_turn("It asks.", record.answers, record.response, ToolNames(record.tools)).text
        assert grade_own(question, gold, True).right
        assert grade_own(question, gold, False).reason == "truncated"
        wrong = "<think>a</think>\n" + ("I cannot." if record.answers else f"[{record.tools[0].name}()]")
        assert not grade_own(question, wrong, True).right


def test_other_records_are_another_evaluator_and_the_same_in_another_file_are_not(file: str, tmp_path: Path) -> None:
    evaluator = load_own_questions(file, 1, 0)[2]
    lines = lines_of(file)
    again, fewer = tmp_path / "again.jsonl", tmp_path / "fewer.jsonl"
    again.write_bytes(b"".join(lines))
    fewer.write_bytes(b"".join(lines[:-1]))
    assert load_own_questions(str(again), 1, 0)[2] == evaluator != load_own_questions(str(fewer), 1, 0)[2]


def test_verdicts_of_another_rule_are_not_comparable(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed rule raises the version of the stage (tests/unit/stages/test_versions.py), not that of the release."""
    evaluator = load_own_questions(file, 1, 0)[2]
    later = [replace(stage, version=stage.version + 1) for stage in catalogue.STAGES]
    monkeypatch.setattr(catalogue, "STAGES", later)
    assert load_own_questions(file, 1, 0)[2] != evaluator


def test_records_of_the_settings_take_the_place_of_those_held_out(file: str, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"".join(lines_of(file)[:3]))
    config = BfclEvalSettings(categories=("irrelevance",), sample_per_category=1)
    for settings, refined, sizes in (
        ({}, None, [1]),
        ({}, tmp_path, [40, 1]),
        ({"records": str(few)}, tmp_path, [3, 1]),
        ({"records": str(tmp_path)}, None, [40, 1]),
        ({"records": str(few), "own_records": 2}, None, [2, 1]),
        ({"own_records": 0}, tmp_path, [1]),
    ):
        asked = benchmarks(config.model_copy(update=settings), refined)
        assert [len(benchmark.questions) for benchmark in asked] == sizes


def test_openai_messages_are_asked_as_well(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    call = {"type": "function", "function": {"name": "rain", "arguments": '{"city": "Bonn"}'}}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    line = {
        "messages": [
            {"role": "user", "content": "Does it rain in Bonn?"},
            {"role": "assistant", "content": None, "tool_calls": [call | {"id": "1"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "rain", "description": "Rain.", "parameters": parameters}}],
    }
    path.write_text(json.dumps(line) + "\n")
    (question,), sizes, _ = load_own_questions(str(path), 10, 0)
    assert question.gold == [{"rain": {"city": "Bonn"}}] and sizes == {"own_calls": 1}
    assert grade_own(question, '<think>a</think>\n[rain(city="Bonn")]', True).right


def test_a_folder_without_held_out_records_has_no_own_ones(tmp_path: Path) -> None:
    config = BfclEvalSettings(categories=("irrelevance",), sample_per_category=1)
    assert len(benchmarks(config, tmp_path)) == 1
    with pytest.raises(InputError, match=rf"{tmp_path}/{HELD_OUT}: cannot be read"):
        benchmarks(config.model_copy(update={"records": str(tmp_path)}))
    assert own_records_file("") == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines, "{}"], "line 41"),
        (lambda lines: [*lines, "no json"], "line 41: not_json"),
        (lambda lines: [*lines, lines[0]], "the id .* is there twice"),
        (lambda lines: [no_call_that_calls(json.loads(lines[0]))], "its own gold answer is not right"),
    ],
)
def test_what_cannot_be_asked_or_graded_is_named(file: str, tmp_path: Path, change, words) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(change([line.decode() for line in lines_of(file)])))
    with pytest.raises(InputError, match=rf"own\.jsonl.*{words}.*run data_refine on it first"):
        load_own_questions(str(path), 10, 0)


def no_call_that_calls(line: dict) -> str:
    return json.dumps(line | {"answers": [], "response": f"[{line['tools'][0]['name']}()]"})

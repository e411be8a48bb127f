"""Real records through the whole language: read, prompted, written as a turn, parsed back, matched with themselves."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from components.function_calls.arguments import check_arguments
from components.function_calls.formats.reader import read_records
from components.function_calls.match import match
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import ToolNames, build_prompt, render_turn
from components.function_calls.record import Record, record_from_json, record_to_json

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real records of ../shared/data are not there")


@cache
def records_of(file: str) -> list[Record]:
    with (DATA / file).open("rb") as stream:
        records = list(read_records(stream, file))
    assert all(isinstance(record, Record) for record in records)
    return [record for record in records if isinstance(record, Record)]


@pytest.mark.parametrize(("file", "number"), [("fc_train.jsonl.gz", 2028), ("xlam_layout.jsonl.gz", 333)])
def test_every_record_goes_the_whole_way(file: str, number: int) -> None:
    records = records_of(file)
    assert len(records) == number
    for record in records:
        prompt = build_prompt(record.messages, record.tools)
        roles = [message["role"] for message in prompt.messages]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)][: len(roles)], record.id
        assert roles[-1] == "user", record.id
        turn = parse_turn(render_turn(record.cot, record.answers, record.response, prompt.names).text, prompt.names)
        assert turn.format_ok
        if record.answers:
            assert turn.calls == record.answers, record.id
            assert match(turn.calls, record.answers, record.tools).ok, record.id
        else:
            assert turn.is_text, record.id
        tools = {tool.name: tool for tool in record.tools}
        assert not [fault for call in record.answers if (fault := check_arguments(call, tools[call.name]))], record.id
        assert record_from_json(record_to_json(record)) == record


def test_nothing_that_people_and_assistants_say_reads_as_a_call() -> None:
    read = 0
    for record in records_of("fc_train.jsonl.gz"):
        names = ToolNames(record.tools)
        said = [message.content for message in record.messages if message.role != "tool" and message.content.strip()]
        for text in [*said, *filter(None, [record.response])]:
            read += 1
            assert parse_turn(f"<think></think>\n{text}", names).is_text, (record.id, text)
    assert read > 4_000


def test_no_record_matches_the_gold_of_another() -> None:
    records = [record for record in records_of("fc_train.jsonl.gz") if record.answers]
    same = 0
    for one, other in pairwise(records):
        result = match(one.answers, other.answers, other.tools)
        same += result.ok
        assert result.ok == (one.answers == other.answers)
    assert same < len(records) / 20


def test_both_layouts_of_one_source_give_the_same_tools_and_calls() -> None:
    def key(record: Record) -> tuple[object, ...]:
        return record.messages[0].content, bool(record.answers), *(tool.name for tool in record.tools)

    by_key = {key(record): record for record in records_of("fc_train.jsonl.gz")}
    for record in records_of("xlam_layout.jsonl.gz"):
        twin = by_key[key(record)]
        assert record.answers == twin.answers
        for tool, other in zip(record.tools, twin.tools, strict=True):
            assert tool.name == other.name
            theirs = kinds(other.parameters)  # the conversion knew no lists of types
            assert {name: kind for name, kind in kinds(tool.parameters).items() if theirs[name]} == {
                name: kind for name, kind in theirs.items() if kind
            }
            assert set(tool.parameters.get("required", ())) == set(other.parameters.get("required", ()))


def kinds(schema: dict) -> dict:
    return {name: item.get("type") for name, item in schema["properties"].items()}


def test_an_array_of_xlam_objects_reads_like_its_lines() -> None:
    lines = gzip.decompress((DATA / "xlam_layout.jsonl.gz").read_bytes()).splitlines()
    array = b"[" + b",".join(lines) + b"]"
    assert list(read_records(io.BytesIO(array), "array")) == records_of("xlam_layout.jsonl.gz")


def test_categories_of_the_real_records() -> None:
    counts = Counter(record.category for record in records_of("fc_train.jsonl.gz"))
    assert counts == {"simple": 297, "multiple": 827, "parallel": 24, "parallel_multiple": 785, "no_call": 95}

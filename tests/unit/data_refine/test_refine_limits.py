"""What data_refine refuses to read, and how much work and room one record or file may take."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from components.data_refine import refine
from components.errors import InputError
from components.function_calls.parse import MAX_CALLS
from components.settings import DataRefineSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from tests.unit.data_refine.refine_support import (
    OTHER_TOOL,
    TOOL,
    Refined,
    asked,
    changed_tool,
    deep_call,
    record,
)

UNREADABLE = {
    "missing": (None, "no-such-file.jsonl"),
    "broken gzip": (gzip.compress(json.dumps(record()).encode() * 50)[:-40], "data"),
    "unknown layout": (b'{"prompt": "x", "completion": "y"}\n', "prompt, completion"),
    "empty": (b"", "no record"),
    "binary": (b"\x00\x01\x02\x03" * 100, "data"),
}


@pytest.mark.parametrize(("content", "named"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, content: bytes | None, named: str) -> None:
    data = tmp_path / ("data" if content is not None else "no-such-file.jsonl")
    if content is not None:
        data.write_bytes(content)
    folder = tmp_path / "stage"
    with pytest.raises(InputError, match=named):
        execute_stage(find_stage("data_refine"), DataRefineSettings(data=str(data)), {}, folder, RunSettings())
    names = {path.name for path in folder.glob("*")}
    assert names <= {"config.json", "metrics.jsonl", "error.json"}, "a half-written artifact is left"


def with_schema(schema: dict[str, Any], value: Any, **beside: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": schema}, **beside}
    return record(tools=changed_tool(parameters=parameters), answers=[{"name": "book_room", "arguments": {"x": value}}])


def doubling(depth: int) -> dict[str, Any]:
    """A schema of a few references that stands for 4**depth schemas."""
    return {f"a{n}": {"properties": {key: {"$ref": f"#/$defs/a{n + 1}"} for key in "bcde"}} for n in range(depth)}


MANY = {f"a{number}": {} for number in range(3_000)}
# All of legal size; some take linear time now, the others are given up.
COSTLY = {
    "argument names spelt alike": (
        record(
            tools=changed_tool(parameters={"properties": {"-" * n: {} for n in range(1, 1300)}}),
            answers=[{"name": "book_room", "arguments": {"-": "Quibdo"}}],
        ),
        None,
    ),
    "tool names spelt alike": (
        record(tools=[*({**OTHER_TOOL, "name": "-" * (n % 50) + f"{n}"} for n in range(4_000)), TOOL]),
        None,
    ),
    "a tool repeated late": (
        record(tools=[{**OTHER_TOOL, "name": f"t{n}"} for n in [*range(4_000), 3_999]]),
        "tool_repeated",
    ),
    "texts against a long enum": (
        with_schema(
            {"type": "array", "items": {"type": "string", "enum": [f"{n}" for n in range(20_000)]}}, ["19999"] * 20_000
        ),
        "too_much_work",
    ),
    "numbers against a long enum": (
        with_schema({"type": "array", "items": {"enum": list(range(20_000))}}, [19_999] * 20_000),
        "too_much_work",
    ),
    "anyOf of thousands": (
        with_schema({"anyOf": [{"type": "integer", "minimum": n} for n in range(8_000)]}, "Quibdo"),
        "too_much_work",
    ),
    "allOf of thousands": (
        with_schema({"allOf": [{"properties": {f"p{n}": {"type": "string"}}} for n in range(8_000)]}, {}),
        "too_much_work",
    ),
    "anyOf in anyOf": (
        with_schema(
            {"anyOf": [{"type": "array", "items": {"anyOf": [{"const": n} for n in range(200)]}}] * 40}, ["a"] * 3_000
        ),
        "too_much_work",
    ),
    "references that double": (with_schema({"$ref": "#/$defs/a0"}, {}, **{"$defs": doubling(14)}), "too_much_work"),
    "many calls of many required arguments": (
        record(
            tools=changed_tool(parameters={"type": "object", "properties": MANY, "required": list(MANY)}),
            answers=[{"name": "book_room", "arguments": dict.fromkeys(MANY, "x")}] * 5,
        ),
        "not_renderable",
    ),
    "many values in a long text": (
        record(
            messages=asked("q" * 700_000),
            answers=[{"name": "book_room", "arguments": {"town": "q" * 5, "nights": n % 9}} for n in range(MAX_CALLS)],
        ),
        "ungrounded",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), COSTLY.values(), ids=COSTLY.keys())
def test_no_record_takes_for_ever(tmp_path: Path, line: dict[str, Any], reason: str | None) -> None:
    assert len(json.dumps(line)) < 2**20
    assert Refined(tmp_path, [record(7), line]).reasons() == ({2: reason} if reason else {})


LARGE = {
    "too long": (record(messages=asked("x" * 2**20)), "too_long"),
    "too many values": (record(meta={"page": [0] * 100_000}), "too_many_values"),
    "too deep": (deep_call(900), "too_deep"),
    "a dialogue of thousands of turns": (
        {"messages": [*asked("Hi"), {"role": "assistant", "content": "Yes?"}] * 2_000, "tools": []},
        "too_much_work",
    ),
}


@pytest.mark.parametrize(("line", "reason"), LARGE.values(), ids=LARGE.keys())
def test_what_is_too_large_is_rejected_by_name(tmp_path: Path, line: dict[str, Any], reason: str) -> None:
    assert Refined(tmp_path, [record(7), line], data_format="auto").reasons() == {2: reason}


BOMBS = {
    "blank lines": (b"\n" * 2**22, {"max_lines": 1000}, "more than 1,000 lines"),
    "empty objects": (b"{}\n" * 2000, {"max_lines": 1000}, "more than 1,000 lines"),
    "one array": (b"[" + b"{}," * 2000 + b"{}]", {"max_lines": 1000}, "more than 1,000 records"),
    "one endless line": (b" " * 2**22, {"max_unpacked_mb": 2}, "longer than 2,097,152 bytes, unpacked"),
}


@pytest.mark.parametrize(("content", "limits", "named"), BOMBS.values(), ids=BOMBS.keys())
def test_a_file_that_unpacks_without_end_is_left(
    tmp_path: Path, content: bytes, limits: dict[str, int], named: str
) -> None:
    data = tmp_path / "data.jsonl.gz"
    data.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=f"data_refine.data: .*{named}"):
        refine.refine(DataRefineSettings(data=str(data), benchmark_overlap=1.0, **limits), tmp_path / "stage")

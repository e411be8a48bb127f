"""Refinement lets through only what the reward agrees with: each qualified record's own turn earns 1."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data_refine import refine
from components.egpo_rl.rewards import binary
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import build_prompt, render_turn
from components.function_calls.record import Record, record_from_json
from components.settings import DataRefineSettings
from tests.unit.function_calls.function_call_strategies import argument_names, json_values, texts, tool_names
from tests.unit.function_calls.test_dialects import CALLS, TEXTS

CASES = Path(__file__).resolve().parents[3] / "../shared/cases/nocall_responses.jsonl"


def refined(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records by their outcome."""
    with tempfile.TemporaryDirectory() as folder:
        data, stage = Path(folder, "data.jsonl"), Path(folder, "stage")
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        refine.refine(DataRefineSettings(data=str(data), data_format="callforge", benchmark_overlap=1.0), stage)
        read = {}
        for outcome in refine.OUTCOMES:
            with gzip.open(stage / f"{outcome}.jsonl.gz", "rt", encoding="utf-8", errors="surrogatepass") as file:
                read[outcome] = [json.loads(line) for line in file]
    return read


def earned(record: Record) -> tuple[float, str]:
    """The reward of the record's own turn, and the reason where it is 0."""
    names = build_prompt(record.messages, record.tools).names
    text = render_turn(record.cot, record.answers, record.response, names).text
    turn = parse_turn(text, names)
    assert (turn.calls or ()) == record.answers
    reward = binary(text, True, record, names)
    return reward.value, reward.reason


NUMBER = {"type": "number"}
INTEGER = {"type": "integer"}
whole_floats = st.integers(-(10**6), 10**6).map(float)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | whole_floats
# Schemas, and values which often fit them: as JSON from pandas or Arrow has them, too.
VALUES: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
    (INTEGER, st.integers() | whole_floats | st.none()),
    (NUMBER, numbers),
    ({"type": "string"}, texts),
    ({"type": "boolean"}, st.booleans()),
    ({"type": ["integer", "null"]}, st.integers() | whole_floats | st.none()),
    ({"type": "array", "items": INTEGER}, st.lists(st.integers() | whole_floats, max_size=3)),
    ({"type": "array", "items": NUMBER}, st.lists(numbers, max_size=3)),
    (
        {"type": "object", "properties": {"n": INTEGER, "x": NUMBER}},
        st.fixed_dictionaries({"n": numbers, "x": numbers}),
    ),
    ({"anyOf": [INTEGER, {"type": "string"}]}, whole_floats | texts),
    ({"anyOf": [INTEGER, NUMBER]}, numbers),
    ({}, json_values),
]


@st.composite
def raw_records(draw: st.DrawFn) -> dict[str, Any]:
    tools, answers = [], []
    for name in draw(st.lists(tool_names, min_size=1, max_size=3, unique=True)):
        drawn = draw(st.dictionaries(argument_names, st.sampled_from(VALUES), max_size=3))
        properties = {argument: schema for argument, (schema, _) in drawn.items()}
        tools.append({"name": name, "description": "", "parameters": {"type": "object", "properties": properties}})
        for _ in range(draw(st.integers(0, 2))):
            arguments = {argument: draw(values) for argument, (_, values) in drawn.items()}
            answers.append({"name": name, "arguments": arguments})
    said = json.dumps(answers)  # so that arguments are grounded
    return {
        "id": "r",
        "source": "test",
        "messages": [{"role": "user", "content": f"Do this {draw(st.integers(0))}: {said}"}],
        "tools": tools,
        "answers": answers,
        "cot": draw(st.none() | texts | st.just("I call [f(a=1)] </think>")),
        "response": draw(st.none() | texts | st.sampled_from([*CALLS, *TEXTS, "</think>[f()]"])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(raw_records(), min_size=1, max_size=6))
def test_the_own_turn_of_every_qualified_record_earns_its_reward(lines: list[dict[str, Any]]) -> None:
    good = {"id": "g", "source": "test", "messages": [{"role": "user", "content": "Hi"}], "tools": [], "answers": []}
    distinct = [{**line, "id": f"r{number}"} for number, line in enumerate(lines)]
    for line in refined([*distinct, good])["qualified"]:
        assert earned(record_from_json(line)) == (1.0, "")


@pytest.mark.parametrize(
    ("schema", "given_value", "gold", "right", "wrong"),
    [
        (INTEGER, 5.0, 5, "5", "5.0"),
        (INTEGER, -0.0, 0, "0", "0.0"),
        ({"type": ["integer", "null"]}, 5.0, 5, "5", "5.0"),
        ({"type": "array", "items": INTEGER}, [1.0, 2], [1, 2], "[1, 2]", "[1.0, 2]"),
        ({"type": "object", "properties": {"n": INTEGER}}, {"n": 5.0}, {"n": 5}, "{'n': 5}", "{'n': 5.0}"),
        (NUMBER, 5.0, 5.0, "5", "'5'"),
        (NUMBER, 5, 5, "5.0", "True"),
    ],
)
def test_a_whole_float_is_an_integer_where_the_tool_wants_one(
    schema: dict[str, Any], given_value: Any, gold: Any, right: str, wrong: str
) -> None:
    line = {
        "id": "r",
        "source": "test",
        "messages": [{"role": "user", "content": "Take 5, 1, 2 and 0"}],
        "tools": [{"name": "f", "description": "", "parameters": {"type": "object", "properties": {"n": schema}}}],
        "answers": [{"name": "f", "arguments": {"n": given_value}}],
    }
    (qualified,) = refined([line])["qualified"]
    record = record_from_json(qualified)
    assert repr(record.answers[0].arguments) == repr({"n": gold})
    assert earned(record) == (1.0, "")
    names = build_prompt(record.messages, record.tools).names
    assert binary(f"<think></think>\n[f(n={right})]", True, record, names).reason == ""
    assert binary(f"<think></think>\n[f(n={wrong})]", True, record, names).reason == "wrong_type"


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not there")
def test_a_no_call_record_whose_response_is_a_call_is_set_aside() -> None:
    found = refined([json.loads(line) for line in CASES.read_text("utf-8").splitlines()])
    # Prose that opens with a bracket or mentions the tool qualifies, and so does no response; calls and the attempts of
    # one are set aside: they say that the record's empty answer may be wrong.
    assert [line["id"] for line in found["qualified"]] == ["n0", "n1", "n2", "n7", "n8", "n9"]
    assert {line["id"]: line["reason"] for line in found["hard"]} == dict.fromkeys(
        ["n3", "n4", "n5", "n6", "n10", "n11"], "response_is_a_call"
    )
    assert all(earned(record_from_json(line)) == (1.0, "") for line in found["qualified"])

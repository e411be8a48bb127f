"""The matcher: what equals what, and the reason for each kind of failure."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.function_calls.match import REASONS, match
from components.function_calls.parse import MAX_CALLS
from components.function_calls.record import Call, Tool
from tests.unit.function_calls.function_call_strategies import json_values, tools_and_calls

TOOL = Tool(
    "f",
    "",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "whole": {"type": "integer"},
            "number": {"type": "number"},
            "either": {"type": ["integer", "null"]},
            "union": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "wide": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
            "flag": {"type": "boolean"},
            "any": {},
            "list": {"type": "array", "items": {"type": "integer"}},
            "numbers": {"type": "array", "items": {"type": "number"}},
            "object": {"type": "object", "properties": {"n": {"type": "integer"}, "deep": {"type": "object"}}},
            "default": {"type": "integer", "default": 1},
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
            "row": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {}},
            "ids": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
            "all": {"allOf": [{"minimum": 0}, {"type": "integer"}]},
            "beside": {"type": "integer", "anyOf": [{"minimum": 1}, {"maximum": -1}]},
            "one": {"oneOf": [{"type": "boolean"}, {"type": "number"}]},
            "ref": {"type": "object", "$ref": "#/nope", "unevaluatedProperties": False},
        },
        "additionalProperties": {"type": "integer"},
        "required": ["text"],
    },
)
OTHER = Tool("g", "", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("argument", "gold", "given_value", "reason"),
    [
        ("text", "Rome", "Rome", ""),
        ("text", "Rome", "rome", "wrong_value"),
        ("text", "Rome", "Rome ", "wrong_value"),
        ("text", "1", 1, "wrong_type"),
        ("text", "", None, "wrong_type"),
        ("whole", 1, 1, ""),
        ("whole", 1, 1.0, "wrong_type"),
        ("whole", 1, True, "wrong_type"),
        ("whole", 1, "1", "wrong_type"),
        ("whole", 1, 2, "wrong_value"),
        ("either", 1, 1.0, "wrong_type"),
        ("union", 1, 1.0, "wrong_type"),
        ("wide", 1, 1.0, ""),
        ("number", 1, 1.0, ""),
        ("number", 1.0, 1, ""),
        ("number", 1.5, 1, "wrong_value"),
        ("number", 10**17 + 1, 1e17, "wrong_value"),
        ("number", 1, True, "wrong_type"),
        ("number", 10**400, 10**400, ""),
        ("number", 10**400, 1.0, "wrong_value"),
        ("flag", True, True, ""),
        ("flag", True, 1, "wrong_type"),
        ("flag", False, 0, "wrong_type"),
        ("flag", True, "true", "wrong_type"),
        ("flag", True, False, "wrong_value"),
        ("any", 1, 1.0, ""),
        ("any", None, None, ""),
        ("any", {"a": [1]}, {"a": [1]}, ""),
        ("list", [1, 2], [1, 2], ""),
        ("list", [1, 2], [2, 1], "wrong_value"),
        ("list", [1, 2], [1, 2, 2], "wrong_value"),
        ("list", [1], [1.0], "wrong_type"),
        ("list", [1], [True], "wrong_type"),
        ("list", [1], 1, "wrong_type"),
        ("numbers", [1, 2.0], [1.0, 2], ""),
        ("object", {"n": 1, "deep": {"x": 1, "y": 2}}, {"deep": {"y": 2, "x": 1}, "n": 1}, ""),
        ("object", {"n": 1}, {"n": 1.0}, "wrong_type"),
        ("object", {"n": 1}, {"n": 1, "m": 2}, "wrong_value"),
        ("object", {"n": 1}, {}, "wrong_value"),
        ("object", {"deep": {"x": [True]}}, {"deep": {"x": [1]}}, "wrong_type"),
        # wherever the schema says that there are integers only
        ("counts", {"x": 1}, {"x": 1.0}, "wrong_type"),
        ("counts", {"x": 1}, {"x": 2.0}, "wrong_value"),
        ("row", ["a", 1, 1], ["a", 1.0, 1], "wrong_type"),
        ("row", ["a", 1, 1], ["a", 1, 1.0], ""),
        ("ids", [1], [1.0], "wrong_type"),
        ("all", 1, 1.0, "wrong_type"),
        ("beside", 1, 1.0, "wrong_type"),
        ("one", 1, 1.0, ""),
        ("ref", {"x": 1}, {"x": 1.0}, ""),
        ("not in the schema", 1, 1.0, "wrong_type"),
    ],
)
def test_values(argument: str, gold: Any, given_value: Any, reason: str) -> None:
    base = {"text": "x"}
    result = match([Call("f", {**base, argument: given_value})], [Call("f", {**base, argument: gold})], [TOOL])
    assert (result.ok, result.reason) == (not reason, reason)


@pytest.mark.parametrize(
    ("calls", "gold", "reason"),
    [
        ([], [], ""),
        ([], [Call("f", {"text": "x"})], "wrong_count"),
        ([Call("f", {"text": "x"})], [], "wrong_count"),
        ([Call("f", {"text": "x"})] * 2, [Call("f", {"text": "x"})], "wrong_count"),
        ([Call("g", {})], [Call("f", {"text": "x"})], "wrong_name"),
        ([Call("F", {"text": "x"})], [Call("f", {"text": "x"})], "wrong_name"),
        ([Call("f", {})], [Call("f", {"text": "x"})], "missing_argument"),
        ([Call("f", {"text": "x"})], [Call("f", {"text": "x", "default": 1})], "missing_optional_argument"),
        ([Call("f", {"text": "x", "default": 1})], [Call("f", {"text": "x"})], "unexpected_argument"),
        ([Call("f", {"text": "x", "nope": 1})], [Call("f", {"text": "x"})], "unknown_argument"),
        ([Call("f", {"txt": "x"})], [Call("f", {"text": "x"})], "unknown_argument"),
        # one call is right: the other one gives the reason
        ([Call("f", {"text": "y"}), Call("g", {})], [Call("g", {}), Call("f", {"text": "x"})], "wrong_value"),
        ([Call("f", {"text": "x"}), Call("f", {"text": "x"})], [Call("f", {"text": "x"}), Call("g", {})], "wrong_name"),
        # of several unmatched pairs the nearest miss gives the reason
        (
            [Call("f", {"text": "y"}), Call("f", {"text": 1})],
            [Call("f", {"text": "a"}), Call("f", {"text": "b"})],
            "wrong_value",
        ),
    ],
)
def test_calls(calls: list[Call], gold: list[Call], reason: str) -> None:
    assert match(calls, gold, [TOOL, OTHER]).reason == reason


def test_duplicate_names_are_matched_as_a_multiset() -> None:
    one, two = Call("f", {"text": "x", "number": 1}), Call("f", {"text": "x", "number": 2})
    assert match([two, one, one], [one, two, one], [TOOL]).ok
    assert match([two, two, one], [one, two, one], [TOOL]).reason == "wrong_value"


def test_a_schema_is_asked_once_for_each_value() -> None:
    """Checked for each pair of calls, this one would take many minutes."""
    tool = Tool("f", "", {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}] * 250}}})
    calls = [Call("f", {"a": float("1")}) for _ in range(MAX_CALLS)]
    assert match(calls, [Call("f", {"a": 1})] * MAX_CALLS, [tool]).reason == "wrong_type"


@given(tools_and_calls(), st.data())
def test_order_of_calls_and_of_arguments_means_nothing(
    drawn: tuple[list[Tool], list[Call]], data: st.DataObject
) -> None:
    tools, gold = drawn
    calls = [
        Call(call.name, dict(data.draw(st.permutations(list(call.arguments.items())))))
        for call in data.draw(st.permutations(copy.deepcopy(gold)))
    ]
    assert match(calls, gold, tools).ok


@given(tools_and_calls(), st.data())
def test_the_reason_does_not_depend_on_the_order(drawn: tuple[list[Tool], list[Call]], data: st.DataObject) -> None:
    tools, gold = drawn
    calls = [
        data.draw(st.sampled_from([call, Call(call.name, {**call.arguments, "extra argument": 0}), Call("other", {})]))
        for call in gold
    ]
    reason = match(calls, gold, tools).reason
    assert match(data.draw(st.permutations(calls)), data.draw(st.permutations(gold)), tools).reason == reason
    assert reason in ("", *REASONS)


@given(json_values, json_values)
def test_values_that_differ_as_json_do_not_match(one: Any, other: Any) -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"a": {}}})
    assume(distinct(one, other))
    assert not match([Call("f", {"a": one})], [Call("f", {"a": other})], [tool]).ok


def distinct(one: Any, other: Any) -> bool:
    """Another value by JSON's rules, in which 1 and 1.0 are one number and true is none."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is not other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) != len(other) or any(map(distinct, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(distinct(one[key], other[key]) for key in one)
    return bool(one != other)


@pytest.mark.parametrize("schema", [{}, {"properties": None}, {"properties": {"a": True}}])
def test_odd_schemas_do_no_harm(schema: dict[str, Any]) -> None:
    tool = Tool("f", "", schema)
    assert match([Call("f", {"a": 1.0})], [Call("f", {"a": 1})], [tool]).ok
    assert match([Call("f", {"a": [1]})], [Call("f", {"a": [2]})], [tool]).reason == "wrong_value"

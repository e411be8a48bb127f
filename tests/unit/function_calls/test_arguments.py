"""The one canonical form of a call's arguments, and that a canonical record is its own."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.function_calls.arguments import canonical_arguments, check_arguments
from components.function_calls.formats.reader import read_records
from components.function_calls.match import match
from components.function_calls.parse import parse_calls
from components.function_calls.prompt import ToolNames, render_calls
from components.function_calls.record import Call, Record, RecordError, record_to_json
from components.function_calls.tool_schema import normalise_tool
from components.function_calls.work import limited_work

INTEGER, NUMBER, TEXT, NULL = {"type": "integer"}, {"type": "number"}, {"type": "string"}, {"type": "null"}
ABSENT = object()

CANONICAL = [
    # schema of x, x as given, x in canonical form
    (INTEGER, 5.0, 5),
    (INTEGER, -0.0, 0),
    (INTEGER, 1e22, 10**22),
    (INTEGER, 5.5, 5.5),
    (NUMBER, 5.0, 5.0),
    (NUMBER, 5, 5),
    ({"type": ["integer", "null"]}, 5.0, 5),
    ({"type": ["integer", "number"]}, 5.0, 5.0),
    ({"anyOf": [INTEGER, TEXT]}, 5.0, 5),
    ({"anyOf": [INTEGER, NUMBER]}, 5.0, 5.0),
    ({"anyOf": [INTEGER, {}]}, 5.0, 5.0),
    ({"oneOf": [{"type": "array", "items": INTEGER}, NULL]}, [1.0, 2], [1, 2]),
    ({"type": "array", "prefixItems": [INTEGER], "items": NUMBER}, [1.0, 2.0], [1, 2.0]),
    ({"type": "object", "properties": {"a": {"type": "array", "items": INTEGER}}}, {"a": [3.0]}, {"a": [3]}),
    ({"type": "object", "additionalProperties": INTEGER}, {"a": 3.0}, {"a": 3}),
    ({}, 5.0, 5.0),
    ({}, None, ABSENT),
    (TEXT, None, ABSENT),
    ({"type": ["string", "null"]}, None, None),
    ({"type": "string", "nullable": True}, None, None),
    ({"anyOf": [TEXT, NULL]}, None, None),
    ({"enum": ["a", None]}, None, None),
    ({"type": "object", "properties": {"a": TEXT, "b": TEXT}}, {"a": "x", "b": None, "c": None}, {"a": "x"}),
    ({"type": "object"}, {"a": None, "b": {"c": None, "d": 1}}, {"b": {"d": 1}}),
    ({"type": "array", "items": {"type": ["string", "null"]}}, ["a", None], ["a", None]),
]


@pytest.mark.parametrize(("schema", "given", "canonical"), CANONICAL)
def test_canonical_form(schema: dict[str, Any], given: Any, canonical: Any) -> None:
    tool = normalise_tool({"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}})
    found = canonical_arguments({"x": given, "y": "kept"}, tool.parameters)
    wanted = {"y": "kept"} if canonical is ABSENT else {"x": canonical, "y": "kept"}
    assert repr(sorted(found.items())) == repr(sorted(wanted.items()))  # 5 is not 5.0 here
    assert repr(canonical_arguments(found, tool.parameters)) == repr(found)


leaves = st.sampled_from(
    [INTEGER, NUMBER, TEXT, {}, {"type": ["integer", "null"]}, {"type": "string", "nullable": True}, NULL,
     {"type": "integer", "enum": ["1", "2"]}, {"type": "string", "enum": [1, 2]}, {"enum": [1, None, "a"]},
     {"type": "number", "minimum": 1, "exclusiveMinimum": True}, {"$ref": "#/$defs/a"}, {"type": "boolean"}]
)  # fmt: skip
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner | st.none())},
            optional={"required": st.lists(st.sampled_from("abc"))},
        )
        | st.dictionaries(
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=2),
            min_size=1,
            max_size=1,
        )
    ),
    max_leaves=6,
)
values = st.recursive(
    st.sampled_from([None, True, 0, 1, 2.0, 2.5, "1", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)


@given(schemas, st.dictionaries(st.sampled_from(["x", "y"]), values))
def test_a_valid_gold_call_reads_back_and_matches_itself(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    value = {
        "id": "a", "source": "b", "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": "f", "inputSchema": {"properties": {"x": schema, "y": None}, "$defs": {"a": INTEGER}}}],
        "answers": [{"name": "f", "arguments": arguments}],
    }  # fmt: skip
    (record,) = read_records(io.BytesIO(json.dumps(value).encode()), "data")
    if not isinstance(record, Record):
        return
    # what is written is read back the same, to the type
    (again,) = read_records(io.BytesIO(json.dumps(record_to_json(record)).encode()), "data")
    assert repr(again) == repr(record)
    if check_arguments(record.answers[0], record.tools[0]) is None:
        names = ToolNames(record.tools)
        calls, _ = parse_calls(render_calls(record.answers, names), names)
        assert repr(calls) == repr(record.answers)
        assert match(calls or (), record.answers, record.tools).ok


def test_work_has_a_limit_only_where_one_is_set() -> None:
    tool = normalise_tool(
        {"name": "f", "parameters": {"properties": {"x": {"anyOf": [{"const": n} for n in range(300)]}}}}
    )
    call = Call("f", {"x": 299})
    assert check_arguments(call, tool) is None
    with limited_work(100_000):
        assert check_arguments(call, tool) is None
    with pytest.raises(RecordError, match="too_much_work"), limited_work(100):
        check_arguments(call, tool)

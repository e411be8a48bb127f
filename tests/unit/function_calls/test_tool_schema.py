"""Tools of every dialect become one JSON schema, and arguments are checked as jsonschema would."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from components.function_calls.record import Call, RecordError, Tool
from components.function_calls.tool_schema import check_arguments, normalise_tool, schema_of_type_name
from tests.unit.function_calls.function_call_strategies import json_values

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
LIST_OF_LISTS = {"type": "array", "items": {"type": "array"}}


@pytest.mark.parametrize(
    ("text", "schema", "optional"),
    [
        ("str", STRING, False),
        ("str, optional", STRING, True),
        ("string (optional)", STRING, True),
        ("int, optional, default 5", INTEGER, True),
        ("Optional[int]", INTEGER, True),
        ("Optional[List[str]]", {"type": "array", "items": STRING}, True),
        ("Union[str, None]", STRING, True),
        ("int | None", INTEGER, True),
        ("float", NUMBER, False),
        ("double", NUMBER, False),
        ("bool", {"type": "boolean"}, False),
        ("List", {"type": "array"}, False),
        ("list", {"type": "array"}, False),
        ("List[int]", {"type": "array", "items": INTEGER}, False),
        ("List[Union[int, float]]", {"type": "array", "items": {"type": ["integer", "number"]}}, False),
        ("List[List[float]], optional", {"type": "array", "items": {"type": "array", "items": NUMBER}}, True),
        ("List[Dict[str, Any]]", {"type": "array", "items": {"type": "object"}}, False),
        ("Dict", {"type": "object"}, False),
        ("Dict[str, Any]", {"type": "object"}, False),
        ("Dict[str, int]", {"type": "object", "additionalProperties": INTEGER}, False),
        ("Dict[str, List[Tuple]]", {"type": "object", "additionalProperties": LIST_OF_LISTS}, False),
        ("Tuple", {"type": "array"}, False),
        ("Tuple[float, float]", {"type": "array", "items": NUMBER}, False),
        ("Tuple[int, ...]", {"type": "array", "items": INTEGER}, False),
        ("Tuple[int, str]", {"type": "array"}, False),
        ("Set[str]", {"type": "array", "items": STRING}, False),
        ("set", {"type": "array"}, False),
        ("Union[List[int], str]", {"anyOf": [{"type": "array", "items": INTEGER}, STRING]}, False),
        ("Union[int, Any]", {}, False),
        ("Literal['a, b', 'c']", {"enum": ["a, b", "c"]}, False),
        ("typing.List[str]", {"type": "array", "items": STRING}, False),
        ("Any", {}, False),
        ("Callable[[float], float]", {}, False),
        ("Spaceship", {}, False),
        ("", {}, False),
        ("List[", {}, False),
        ("List[]", {"type": "array"}, False),
    ],
)  # fmt: skip
def test_type_names(text: str, schema: dict[str, Any], optional: bool) -> None:
    assert schema_of_type_name(text) == (schema, optional)


@given(st.text() | st.text(alphabet="ListUnoDcOpaz[]|,. '\"", max_size=60))
def test_any_type_name_gives_a_valid_schema(text: str) -> None:
    schema, _ = schema_of_type_name(text)
    Draft202012Validator.check_schema(schema)


def test_xlam_parameters() -> None:
    tool = normalise_tool(
        {
            "name": "find",
            "description": "Finds.",
            "parameters": {
                "query": {"description": "What", "type": "str", "default": ""},
                "type": {"description": "Kind", "type": "str", "default": "all"},
                "limit": {"description": "How many", "type": "int", "default": "10"},
                "ratio": {"type": "float", "default": "None"},
                "exact": {"type": "bool", "default": "True"},
                "sort": {"type": "str, optional"},
                "page": {"type": "int, optional", "default": 3},
                "zip": {"type": "str", "default": 12345},
                "thing": {"type": "Thing"},
            },
        }
    )
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What"},
            "type": {"type": "string", "description": "Kind", "default": "all"},
            "limit": {"type": "integer", "description": "How many", "default": 10},
            "ratio": {"type": "number"},
            "exact": {"type": "boolean", "default": True},
            "sort": {"type": "string"},
            "page": {"type": "integer", "default": 3},
            "zip": {"type": "string", "default": "12345"},
            "thing": {},
        },
        "required": ["query", "thing"],
    }


def test_bfcl_dialect() -> None:
    tool = normalise_tool(
        {
            "name": "geo.area",
            "description": "Area.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "size": {"type": "float", "description": "m", "default": 1.0},
                    "corner": {"type": "tuple", "items": {"type": "float"}},
                    "extra": {"type": "any", "optional": True},
                    "style": {"type": "dict", "properties": {"color": {"type": "string", "enum": ["red"]}}},
                    "rows": {"type": "array", "items": {"type": "dict"}},
                },
                "required": ["size"],
                "optional": ["style"],
            },
        }
    )
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "size": {"type": "number", "description": "m", "default": 1.0},
            "corner": {"type": "array", "items": NUMBER},
            "extra": {},
            "style": {"type": "object", "properties": {"color": {"type": "string", "enum": ["red"]}}},
            "rows": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["size"],
    }


def test_json_schema_stays_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"], "pattern": "^a", "minLength": 2},
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "integer", "minimum": 0}]},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
    assert normalise_tool({"name": "f", "description": "d", "parameters": schema}) == Tool("f", "d", schema)
    wrapped = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
    assert normalise_tool(wrapped) == Tool("f", "d", schema)


@pytest.mark.parametrize(
    "parameters", [None, {}, {"type": "object"}, {"type": "dict", "properties": {}}, {"properties": {}}]
)
def test_tools_without_parameters(parameters: Any) -> None:
    tool = normalise_tool({"name": "now", "description": None, "parameters": parameters})
    assert tool == Tool("now", "", {"type": "object", "properties": {}})


def test_small_faults_of_schemas_are_mended() -> None:
    tool = normalise_tool(
        {
            "name": "f",
            "parameters": {
                "$schema": "http://example.org/schema",
                "properties": {
                    "a": {"type": "string", "required": True},
                    "b": {"type": None, "enum": []},
                    "c": {"type": "array", "items": [{"type": "int"}, {"type": "str"}]},
                    "d": {"type": ["int", "Spaceship"]},
                },
                "required": ["b", "b", 3],
            },
        }
    )
    assert tool.parameters == {
        "type": "object",
        "properties": {"a": STRING, "b": {}, "c": {"type": "array", "prefixItems": [INTEGER, STRING]}, "d": {}},
        "required": ["b", "a"],
    }


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"parameters": {}}, "tool_name"),
        ({"name": " "}, "tool_name"),
        ({"name": 7}, "tool_name"),
        ("get_weather", "tool_schema"),
        ({"name": "f", "description": ["d"]}, "tool_schema"),
        ({"name": "f", "parameters": [{"name": "a"}]}, "tool_schema"),
        ({"name": "f", "parameters": {"a": "a string"}}, "tool_schema"),
        ({"name": "f", "parameters": {"type": "string"}}, "tool_schema"),
        ({"name": "f", "parameters": {"type": "object", "properties": ["a"]}}, "tool_schema"),
        ({"name": "f", "parameters": {"type": "object", "properties": {"a": 1}}}, "tool_schema"),
        ({"name": "f", "parameters": {"type": "object", "properties": {"a": {"anyOf": 1}}}}, "tool_schema"),
        ({"name": "f", "parameters": {"type": "object", "properties": {"a": {"minimum": "low"}}}}, "tool_schema"),
    ],
)
def test_tools_that_are_none(raw: Any, reason: str) -> None:
    with pytest.raises(RecordError) as error:
        normalise_tool(raw)
    assert error.value.reason == reason


def test_a_schema_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(RecordError, match="nests deeper"):
        normalise_tool({"name": "f", "parameters": schema})


keywords = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "int", "dict", "tuple", "any", None, ["string", "null"]]) | json_values,
        "enum": json_values, "items": json_values, "properties": json_values, "required": json_values,
        "additionalProperties": json_values, "anyOf": json_values, "minimum": json_values, "description": json_values,
        "default": json_values,
    },
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {"name": st.text(max_size=3)},
        optional={"parameters": keywords | st.dictionaries(st.text(max_size=2), keywords) | json_values},
    )
)
def test_any_tool_is_normalised_or_refused(raw: dict[str, Any]) -> None:
    try:
        tool = normalise_tool(raw)
    except RecordError as error:
        assert error.reason in ("tool_name", "tool_schema")
        return
    assert tool.parameters["type"] == "object"
    assert isinstance(tool.parameters["properties"], dict)
    assert normalise_tool({"name": tool.name, "description": tool.description, "parameters": tool.parameters}) == tool
    assert check_arguments(Call(tool.name, {"no such argument": 1}), tool) or tool.parameters.get(
        "additionalProperties"
    )


TOOL = normalise_tool(
    {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1},
                "unit": {"enum": ["C", "F"]},
                "deep": {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "boolean"}}}},
                "id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "half": {"type": "number", "multipleOf": 0.5},
                "code": {"type": "string", "pattern": "^(a+)+$"},
                "ref": {"$ref": "http://127.0.0.1:9/schema.json"},
            },
            "required": ["city"],
        },
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"city": "Rome", "days": 1, "unit": "C", "deep": {"list": [True]}, "id": 5, "half": 1.5}, None),
        ({"city": "Rome", "code": "a" * 60 + "!", "ref": 1}, None),  # patterns and references are not followed
        ({}, "missing_argument: f needs 'city'"),
        ({"city": "Rome", "town": "Rome"}, "unknown_argument: f has no argument 'town'"),
        ({"city": 5}, "wrong_type: f: city: 5 is not of type 'string'"),
        ({"city": "Rome", "days": True}, "wrong_type: f: days: True is not of type 'integer'"),
        ({"city": "Rome", "days": 0}, "wrong_value: f: days: 0 is less than the minimum of 1"),
        ({"city": "Rome", "unit": "K"}, "wrong_value: f: unit: 'K' is not one of ['C', 'F']"),
        ({"city": "Rome", "deep": {"list": [1]}}, "wrong_type: f: deep.list.0: 1 is not of type 'boolean'"),
        ({"city": "Rome", "id": None}, "wrong_type: f: id: None is not valid under any of the given schemas"),
        ({"city": "Rome", "half": 10**400}, "wrong_value: f: cannot be checked (OverflowError)"),
    ],
)
def test_arguments_against_the_schema(arguments: dict[str, Any], reason: str | None) -> None:
    assert check_arguments(Call("f", arguments), TOOL) == reason


plain_schemas = st.recursive(
    st.sampled_from(
        [{}, STRING, INTEGER, NUMBER, {"type": "boolean"}, {"type": ["string", "null"]}, {"enum": ["a", 1]}]
    ),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array")}, optional={"items": inner | st.booleans()})
        | st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner)},
            optional={"required": st.lists(st.sampled_from("ab"), unique=True), "additionalProperties": st.booleans()},
        )
    ),
    max_leaves=5,
)
close_values = st.recursive(
    st.sampled_from([None, True, 0, 1, 1.0, 1.5, "a", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300)
@given(plain_schemas, close_values)
def test_arguments_are_valid_where_jsonschema_says_so(schema: dict[str, Any], value: Any) -> None:
    tool = normalise_tool({"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}})
    valid = Draft202012Validator(tool.parameters).is_valid({"x": value})
    assert (check_arguments(Call("f", {"x": value}), tool) is None) == valid


def test_an_open_schema_takes_other_arguments() -> None:
    tool = normalise_tool({"name": "f", "parameters": {"type": "object", "additionalProperties": {"type": "int"}}})
    assert check_arguments(Call("f", {"x": 1}), tool) is None
    assert str(check_arguments(Call("f", {"x": "1"}), tool)).startswith("wrong_type")


def test_raw_tools_are_left_as_they_were() -> None:
    raw = {"name": "f", "parameters": {"type": "dict", "properties": {"a": {"type": "float", "required": True}}}}
    before = json.dumps(raw)
    normalise_tool(raw)
    assert json.dumps(raw) == before

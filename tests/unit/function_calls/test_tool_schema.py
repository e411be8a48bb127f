"""Tools of every dialect become one JSON schema, and arguments are checked as jsonschema would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from components.function_calls.arguments import check_arguments
from components.function_calls.record import Call, RecordError, Tool
from components.function_calls.tool_schema import normalise_tool
from components.function_calls.type_names import schema_of_type_name
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


OBJECT_OF_CITY = {"type": "object", "properties": {"city": STRING}, "required": ["city"]}
SAID_OTHERWISE = {
    "OpenAI": {"type": "function", "function": {"name": "f", "parameters": OBJECT_OF_CITY, "strict": True}},
    "OpenAI, no type": {"function": {"name": "f", "description": None, "parameters": OBJECT_OF_CITY}},
    "OpenAI, responses": {"type": "function", "name": "f", "parameters": OBJECT_OF_CITY, "strict": True},
    "parameters beside the wrapper": {"function": {"name": "f"}, "parameters": OBJECT_OF_CITY},
    "MCP": {"name": "f", "inputSchema": OBJECT_OF_CITY, "annotations": {"readOnlyHint": True}},
    "MCP with an output": {"name": "f", "inputSchema": OBJECT_OF_CITY, "outputSchema": {"type": "object"}},
    "Anthropic": {"name": "f", "input_schema": OBJECT_OF_CITY, "cache_control": {"type": "ephemeral"}},
    "as text": {"name": "f", "parameters": json.dumps(OBJECT_OF_CITY)},
    "ToolBench": {
        "name": "f", "required_parameters": [{"name": "city", "type": "STRING", "default": ""}],
        "optional_parameters": [],
    },
    "Gemini": {
        "name": "f", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
    },
    "a list of types": {"name": "f", "parameters": OBJECT_OF_CITY | {"type": ["object", "null"]}},
    "required beside them": {
        "name": "f", "parameters": {"type": "dict", "properties": {"city": STRING}}, "required": ["city", "town"],
    },
    "Arrow": {
        "name": "f", "inputSchema": None,
        "parameters": {
            "type": "object", "properties": {"city": STRING | {"enum": None, "$ref": None}, "stop": None},
            "required": ["city"], "additionalProperties": None, "anyOf": None,
        },
    },
    "a reference": {"name": "f", "parameters": {"$ref": "#/definitions/C", "definitions": {"C": OBJECT_OF_CITY}}},
    "a reference in a reference": {
        "name": "f",
        "parameters": {
            "type": "object", "properties": {"city": {"$ref": "#/$defs/a~1b"}}, "required": ["city"],
            "$defs": {"a/b": {"$ref": "#/$defs/c"}, "c": STRING},
        },
    },
    "allOf": {
        "name": "f", "parameters": {"allOf": [{"properties": {"city": STRING}}, {"required": ["city"]}]},
    },
    "anyOf of one": {"name": "f", "parameters": {"anyOf": [OBJECT_OF_CITY, {"type": "null"}], "required": ["city"]}},
}  # fmt: skip


@pytest.mark.parametrize("raw", SAID_OTHERWISE.values(), ids=SAID_OTHERWISE.keys())
def test_ways_to_say_the_same_tool(raw: dict[str, Any]) -> None:
    tool = normalise_tool(raw)
    assert tool.parameters.pop("anyOf", [{"required": ["city"]}]) == [{"required": ["city"]}]
    assert tool == Tool("f", "", OBJECT_OF_CITY)


MEANT = [
    # a property's schema as given, and as it is meant
    ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    ({"type": "string", "nullable": False}, STRING),
    ({"type": "string", "nullable": True, "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
    ({"nullable": True, "anyOf": [STRING, INTEGER]}, {"anyOf": [STRING, INTEGER, {"type": "null"}]}),
    ({"nullable": True, "allOf": [STRING]}, {"type": ["string", "null"]}),
    ({"type": "string", "enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
    ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, {"type": "integer", "exclusiveMinimum": 0}),
    ({"type": "integer", "maximum": 9, "exclusiveMaximum": False}, {"type": "integer", "maximum": 9}),
    ({"type": "integer", "exclusiveMinimum": True}, INTEGER),
    ({"type": "integer", "enum": ["1", "2"]}, {"type": "integer", "enum": [1, 2]}),
    ({"type": "string", "enum": [1, 2.5]}, {"type": "string", "enum": ["1", "2.5"]}),
    ({"type": "boolean", "enum": ["true", "False"]}, {"type": "boolean", "enum": [True, False]}),
    ({"type": "string", "enum": [True, False]}, {"type": ["string", "boolean"], "enum": [True, False]}),
    ({"type": "boolean", "enum": ["True", "any"]}, {"type": ["boolean", "string"], "enum": [True, "any"]}),
    ({"type": "integer", "enum": [1, "auto"]}, {"type": ["integer", "string"], "enum": [1, "auto"]}),
    ({"type": "array", "enum": ["a", "b"]}, {"type": "array", "items": {"enum": ["a", "b"]}}),
    (
        {"type": "array", "items": STRING, "enum": ["a", 1]},
        {"type": "array", "items": {"type": "string", "enum": ["a", "1"]}},
    ),
    ({"type": "array", "enum": [["a"], ["b"]]}, {"type": "array", "enum": [["a"], ["b"]]}),
    ({"allOf": [INTEGER | {"description": "one"}], "description": "two"}, INTEGER | {"description": "two"}),
    ({"allOf": [{"minimum": 1}, {"minimum": 2}]}, {"minimum": 1, "allOf": [{"minimum": 2}]}),
    ({"$ref": "#/properties/x", "description": "itself"}, {"description": "itself"}),
    ({"$ref": "#/nowhere"}, {"$ref": "#/nowhere"}),
    ({"type": "string", "pattern": "(?<year>a{99999999999}"}, {"type": "string", "pattern": "(?<year>a{99999999999}"}),
]


@pytest.mark.parametrize(("given", "meant"), MEANT)
def test_other_ways_to_write_a_schema(given: dict[str, Any], meant: dict[str, Any]) -> None:
    tool = normalise_tool({"name": "f", "parameters": {"type": "object", "properties": {"x": given}}})
    assert tool.parameters["properties"]["x"] == meant
    assert normalise_tool({"name": "f", "parameters": tool.parameters}) == tool


def test_one_of_several_argument_lists() -> None:
    by_name = {"properties": {"name": STRING, "at": STRING}, "required": ["name"], "additionalProperties": False}
    by_id = {"type": "object", "properties": {"id": INTEGER, "at": INTEGER}, "required": ["id"]}
    tool = normalise_tool({"name": "f", "parameters": {"oneOf": [by_name, by_id]}})
    assert tool.parameters == {
        "type": "object",
        "properties": {"name": STRING, "at": {"anyOf": [STRING, INTEGER]}, "id": INTEGER},
        "oneOf": [
            {"required": ["name"], "additionalProperties": False, "properties": {"at": STRING}},
            {"required": ["id"], "properties": {"at": INTEGER}},
        ],
    }
    assert check_arguments(Call("f", {"id": 5}), tool) is None
    assert str(check_arguments(Call("f", {"at": 5}), tool)).startswith("wrong_type")
    assert str(check_arguments(Call("f", {"town": 5}), tool)).startswith("unknown_argument")


def nested_lists(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


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
                    "e": {"type": nested_lists("int", 600)},
                },
                "required": ["b", "b", 3],
            },
        }
    )
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "a": STRING,
            "b": {},
            "c": {"type": "array", "prefixItems": [INTEGER, STRING]},
            "d": {},
            "e": {},
        },
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
        ({"name": "f", "parameters": {"a": {"type": "int", "default": 5, "minimum": "1"}}}, "tool_schema"),
        ({"name": "f", "parameters": {"properties": {"a": {"exclusiveMinimum": "1"}}}}, "tool_schema"),
        ({"name": "f", "parameters": {"properties": {"a": {"maxLength": -1}}}}, "tool_schema"),
        ({"name": "f", "parameters": {"properties": {"a": {"multipleOf": 0}}}}, "tool_schema"),
        ({"name": "f", "parameters": {"properties": {"a": {"pattern": 5}}}}, "tool_schema"),
        ({"name": "f", "parameters": {"anyOf": [{"type": "string"}]}}, "tool_schema"),
        ({"name": "f", "parameters": "city: str"}, "tool_schema"),
        ({"name": "f", "args": {"city": {"type": "str"}}}, "tool_schema"),
        ({"name": "f", "parameters": {}, "properties": {"city": STRING}}, "tool_schema"),
        ({"name": "f", "params": [{"name": "city"}]}, "tool_schema"),
        ({"name": "f", "parameters": {"a": {}}, "inputSchema": {"b": {}}}, "tool_schema"),
        ({"name": "f", "required_parameters": ["city"]}, "tool_schema"),
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
        st.fixed_dictionaries(
            {"type": st.just("array")}, optional={"items": inner | st.booleans(), "uniqueItems": st.booleans()}
        )
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


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a web server here and the paths it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


@pytest.mark.parametrize("reference", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("keyword", ["unevaluatedProperties", "unevaluatedItems"])
def test_nothing_that_a_schema_names_is_fetched(
    asked: tuple[str, list[str]], tmp_path: Path, reference: str, keyword: str
) -> None:
    server, paths = asked
    (tmp_path / "schema.json").write_text('{"properties": {"b": {}}}')
    for uri in (f"{server}/steal", (tmp_path / "schema.json").as_uri(), "#/nope", "nope"):
        schema = {reference: uri, keyword: False}
        for nested in (schema, {"if": {"$id": f"{server}/id"} | schema}, {"dependentSchemas": {"b": schema}}):
            tool = normalise_tool({"name": "f", "parameters": {"properties": {"a": nested}}})
            assert (
                check_arguments(Call("f", {"a": {"b": 1} if keyword == "unevaluatedProperties" else [1]}), tool) is None
            )
    assert paths == []


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        (
            {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
            {"a" * 40 + "!": 1},
            None,  # only the pattern tells which properties are additional
        ),
        ({"uniqueItems": True}, [{"a": index} for index in range(20_000)], None),
        ({"uniqueItems": True}, [*({"a": index} for index in range(20_000)), {"a": 7.0}], "wrong_value"),
        ({"type": f"List[{' ' * 4000}x{' ' * 4000}]"}, 1, None),
        ({"type": " " * 450 + "x"}, 1, None),
        ({"type": "list", "uniqueItems": True}, nested_lists(1, 900), "wrong_value"),
    ],
    ids=["pattern", "unique", "not unique", "long type", "blank type", "nested"],
)
def test_no_schema_takes_for_ever(schema: dict[str, Any], value: Any, reason: str | None) -> None:
    start = time.process_time()
    tool = normalise_tool({"name": "f", "parameters": {"properties": {"a": schema}}})
    fault = check_arguments(Call("f", {"a": value}), tool)
    assert (fault and fault.partition(":")[0]) == reason
    assert time.process_time() - start < 10  # quadratic time would be minutes


@pytest.mark.parametrize(("type_name", "default"), [("float", "1" * 400), ("list", nested_lists(1, 900))])
def test_a_default_that_cannot_be_checked_is_left_out(type_name: str, default: Any) -> None:
    parameter = {"type": type_name, "default": default, "multipleOf": 0.5, "uniqueItems": True}
    tool = normalise_tool({"name": "f", "parameters": {"a": parameter}})
    assert "default" not in tool.parameters["properties"]["a"]


def test_an_open_schema_takes_other_arguments() -> None:
    tool = normalise_tool({"name": "f", "parameters": {"type": "object", "additionalProperties": {"type": "int"}}})
    assert check_arguments(Call("f", {"x": 1}), tool) is None
    assert str(check_arguments(Call("f", {"x": "1"}), tool)).startswith("wrong_type")


def test_raw_tools_are_left_as_they_were() -> None:
    raw = {"name": "f", "parameters": {"type": "dict", "properties": {"a": {"type": "float", "required": True}}}}
    before = json.dumps(raw)
    normalise_tool(raw)
    assert json.dumps(raw) == before

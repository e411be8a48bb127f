"""Tools of every source brought to one form, a JSON schema, and gold arguments checked against it.

Reads JSON schema, the OpenAI wrapper, xLAM's flat parameters with Python-like type names, and BFCL's dialect
(dict, float, tuple, any). Does not judge descriptions and does not compare calls (match.py does).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from components.function_calls.record import Call, RecordError, Tool

Schema = dict[str, Any]

_TYPES: dict[str, str | None] = {
    "string": "string", "str": "string", "text": "string", "char": "string", "date": "string", "datetime": "string",
    "integer": "integer", "int": "integer", "long": "integer", "short": "integer", "bigint": "integer",
    "byte": "integer",
    "number": "number", "float": "number", "double": "number", "decimal": "number", "complex": None,
    "boolean": "boolean", "bool": "boolean",
    "array": "array", "list": "array", "tuple": "array", "set": "array", "sequence": "array", "arraylist": "array",
    "object": "object", "dict": "object", "dictionary": "object", "mapping": "object", "hashmap": "object",
    "map": "object", "hashtable": "object",
    "null": "null", "none": "null", "nonetype": "null", "any": None,
}  # fmt: skip
_MAX_NESTING = 32
_MAX_TYPE_NAME = 500  # characters
_DROPPED = ("optional", "$schema", "$id", "$anchor", "$comment")


def _unchecked(*_: Any) -> None:
    return None


def _additional(validator: Any, allowed: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:  # which properties are additional there, only the patterns tell
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, value, schema)


def _unique(validator: Any, wanted: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
    """As jsonschema's own, which compares every object with every other."""
    if wanted and isinstance(value, list) and len(set(map(_canonical, value))) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _canonical(value: Any) -> str:
    """Equal texts for equal JSON values, in which 1 and 1.0 are one number."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# References could reach into the network (the unevaluated* keywords follow them too) and patterns could run for ever:
# they are shown to the model and not checked. The empty registry fetches nothing, whatever a later jsonschema follows.
_Validator = extend(
    Draft202012Validator,
    dict.fromkeys(
        ("$ref", "$dynamicRef", "unevaluatedProperties", "unevaluatedItems", "pattern", "patternProperties"), _unchecked
    )
    | {"additionalProperties": _additional, "uniqueItems": _unique},
)
_NO_REFERENCES: Registry[Any] = Registry()
# JSON schema takes 1.0 for an integer.
_OnlyIntegers = extend(
    _Validator, type_checker=_Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int)
)


def normalise_tool(raw: Mapping[str, Any]) -> Tool:
    """Build the tool that `raw` describes.

    Raises:
        RecordError: "tool_name" (no name), "tool_schema" (parameters of no known form, or no valid JSON schema).
    """
    if not isinstance(raw, dict):
        raise RecordError("tool_schema", f"a tool is an object, this is {type(raw).__name__}")
    if raw.get("type") == "function" and isinstance(raw.get("function"), dict):
        raw = raw["function"]
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RecordError("tool_name", f"a tool needs a name, this one has {name!r}")
    description = raw.get("description") or ""
    if not isinstance(description, str):
        raise RecordError("tool_schema", f"{name}: its description is {type(description).__name__}, not text")
    parameters = raw.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RecordError("tool_schema", f"{name}: parameters is {type(parameters).__name__}, not an object")
    try:
        schema = _schema({"type": "object"} | parameters, 0) if _is_json_schema(parameters) else _flat(parameters)
        _check_schema(schema)
    except _SchemaFaultError as fault:
        raise RecordError("tool_schema", f"{name}: {fault}") from None
    if schema.get("type") != "object":
        raise RecordError("tool_schema", f"{name}: parameters has type {parameters.get('type')!r}, not object")
    return Tool(name, description, {"type": "object", "properties": schema.pop("properties", {})} | schema)


def schema_of_type_name(text: str) -> tuple[Schema, bool]:
    """The JSON schema of a Python-like type name, and whether the name says that the parameter is optional.

    "List[Union[int, float]], optional" -> ({"type": "array", "items": {"type": ["integer", "number"]}}, True).
    An unknown name gives no type, `{}`; so does a malformed one.
    """
    schema, optional = _of_type_name(text)
    return dict(schema), optional


@lru_cache(maxsize=4096)  # a corpus has few type names and millions of parameters
def _of_type_name(text: str) -> tuple[Schema, bool]:
    if len(text) > _MAX_TYPE_NAME or text.count("[") > _MAX_NESTING:
        return {}, False
    text, marks = _OPTIONAL_MARK.subn("", text.strip())
    schema, is_optional = _read_type(_split(text, ",")[0])
    return schema, bool(marks) or is_optional


def check_arguments(call: Call, tool: Tool) -> str | None:
    """None when the arguments are valid for the tool, else "reason: detail".

    Reasons: unknown_argument, missing_argument, wrong_type, wrong_value. Arguments the schema does not name are
    refused unless it says `additionalProperties` itself.
    """
    schema = tool.parameters
    properties = schema.get("properties") or {}
    if not schema.get("additionalProperties"):
        for name in call.arguments:
            if name not in properties:
                return f"unknown_argument: {tool.name} has no argument {name!r}"
    for name in schema.get("required") or ():
        if name not in call.arguments:
            return f"missing_argument: {tool.name} needs {name!r}"
    if _surely_valid(call.arguments, schema):
        return None
    try:
        error = next(_Validator(schema, registry=_NO_REFERENCES).iter_errors(call.arguments), None)
    except (ArithmeticError, RecursionError) as fault:
        return f"wrong_value: {tool.name}: cannot be checked ({type(fault).__name__})"
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    reason = "wrong_type" if error.validator in ("type", "anyOf", "oneOf") else "wrong_value"
    return f"{reason}: {tool.name}: {where}: {error.message[:200]}"


def fits_exactly(value: Any, schema: Schema) -> bool:
    """Is an argument's value valid by its schema, in which 1.0 is no integer?"""
    return _surely_valid(value, schema) or _is_valid(value, schema, _OnlyIntegers)


def _is_valid(value: Any, schema: Schema, validator: Any = _Validator) -> bool:
    try:
        return bool(validator(schema, registry=_NO_REFERENCES).is_valid(value))
    except (ArithmeticError, RecursionError):
        return False


_PLAIN_TYPES = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


def _surely_valid(value: Any, schema: Schema) -> bool:
    """True only where the validator would find no fault; a quick yes for what most calls are."""
    kind = schema.get("type")
    if not schema.keys() <= _PLAIN or "additionalProperties" in schema or type(kind) is not str:
        return False
    if isinstance(schema.get("items"), bool):
        return False
    if "enum" in schema:
        return kind == "string" and type(value) is str and value in schema["enum"]
    if kind == "array":
        items = schema.get("items")
        return type(value) is list and (items is None or all(_surely_valid(item, items) for item in value))
    if kind == "object":
        properties = schema.get("properties") or {}
        return (
            type(value) is dict
            and all(name in value for name in schema.get("required") or ())
            and all(name in properties and _surely_valid(item, properties[name]) for name, item in value.items())
        )
    return type(value) in _PLAIN_TYPES.get(kind, ())


class _SchemaFaultError(Exception):
    """What is wrong, in words."""


def _is_json_schema(parameters: Mapping[str, Any]) -> bool:
    # A flat parameter may itself be called "type" or "properties"; it then holds an object, and that one texts.
    properties = parameters.get("properties")
    return isinstance(parameters.get("type"), str) or (
        "type" not in parameters
        and isinstance(properties, dict)
        and all(isinstance(v, dict) for v in properties.values())
    )


def _flat(parameters: Mapping[str, Any]) -> Schema:
    """xLAM's {name: {description, type, default}}: required is what has no default and is not called optional."""
    properties: dict[str, Schema] = {}
    required = []
    for name, item in parameters.items():
        if not isinstance(item, dict):
            raise _SchemaFaultError(f"parameter {name!r} is {type(item).__name__}, not an object")
        rest = {key: value for key, value in item.items() if key not in ("type", "default", "required", "optional")}
        type_name = item.get("type")
        given, optional = schema_of_type_name(type_name) if isinstance(type_name, str) else ({}, False)
        schema = given | _schema(rest, 1)
        _check_schema(schema)  # before the default is tried on it
        default = item.get("default")
        if default not in (None, ""):  # the source writes "" for none
            optional = True
            value = _as_type(default, schema)
            if value is not None:
                schema["default"] = value
        if item.get("required") is True or not (
            optional or item.get("optional") is True or item.get("required") is False
        ):
            required.append(name)
        properties[name] = schema
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def _check_schema(schema: Schema) -> None:
    if not _is_plain(schema):
        try:
            Draft202012Validator.check_schema(schema)
        except (SchemaError, RecursionError, OverflowError) as error:  # the last of a pattern that repeats too often
            raise _SchemaFaultError(getattr(error, "message", error)) from None


def _schema(raw: Any, depth: int) -> Schema:
    """A JSON schema, or BFCL's dialect of one, normalised."""
    if raw is True or raw == {}:
        return {}
    if not isinstance(raw, dict):
        raise _SchemaFaultError(f"a schema is an object, this is {type(raw).__name__}")
    if depth > _MAX_NESTING:
        raise _SchemaFaultError(f"the schema nests deeper than {_MAX_NESTING}")
    schema: Schema = {}
    required_here = []
    for key, value in raw.items():
        if key == "type":
            schema = _type(value) | schema
        elif key in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
            if not isinstance(value, dict):
                raise _SchemaFaultError(f"{key} is {type(value).__name__}, not an object")
            schema[key] = {name: _schema(item, depth + 1) for name, item in value.items()}
            if key == "properties":
                required_here = [
                    n for n, item in value.items() if isinstance(item, dict) and item.get("required") is True
                ]
        elif key == "items" and isinstance(value, list):
            schema["prefixItems"] = [_schema(item, depth + 1) for item in value]
        elif key in ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"):
            schema[key] = value if isinstance(value, bool) else _schema(value, depth + 1)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            if not isinstance(value, list):
                raise _SchemaFaultError(f"{key} is {type(value).__name__}, not a list")
            if value:
                schema[key] = [_schema(item, depth + 1) for item in value]
        elif key == "required":
            if isinstance(value, list):
                schema["required"] = list(dict.fromkeys(item for item in value if isinstance(item, str)))
        elif key == "enum":
            if isinstance(value, list) and value:
                schema["enum"] = value
        elif key not in _DROPPED:
            schema[key] = value
    if required_here:  # draft 3 wrote `required: true` inside the property
        schema["required"] = list(dict.fromkeys([*schema.get("required", ()), *required_here]))
    return schema


def _type(value: Any) -> Schema:
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str)]
        names = [name for text in texts for name in _as_list(_of_type_name(text)[0].get("type"))]
        return {"type": _one_or_list(names)} if names and len(names) >= len(value) else {}
    return _of_type_name(value)[0] if isinstance(value, str) else {}


_OPTIONAL_MARK = re.compile(r"\s*+[,(]?\s*+\boptional\b(?!\s*\[)\s*\)?", re.IGNORECASE)
_GENERIC = re.compile(r"^(?:typing\.)?([A-Za-z_]+)\s*\[(.*)\]$", re.DOTALL)


def _read_type(text: str) -> tuple[Schema, bool]:
    text = text.strip().strip("'\"")
    alternatives = _split(text, "|")
    if len(alternatives) > 1:
        return _union(alternatives)
    found = _GENERIC.match(text)
    if not found:
        name = text.removeprefix("typing.").lower()
        kind = _TYPES.get(name)
        return ({"type": kind} if kind else {}), False
    outer, inner = found[1].lower(), _split(found[2], ",")
    if outer == "optional":
        return _read_type(found[2])[0], True
    if outer == "union":
        return _union(inner)
    if outer == "literal":
        try:
            return {"enum": [_literal(item) for item in inner]}, False
        except ValueError:
            return {}, False
    kind = _TYPES.get(outer)
    if kind == "array":
        items = _read_type(inner[0])[0]
        if outer == "tuple" and not (len(inner) == 2 and inner[1] == "..."):
            each = [_read_type(item)[0] for item in inner]
            items = each[0] if all(item == each[0] for item in each) else {}
        return {"type": "array"} | ({"items": items} if items else {}), False
    if kind == "object":
        values = _read_type(inner[1])[0] if len(inner) == 2 else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {}), False
    return ({"type": kind} if kind else {}), False


def _union(parts: list[str]) -> tuple[Schema, bool]:
    schemas = [_read_type(part)[0] for part in parts]
    optional = {"type": "null"} in schemas
    schemas = [schema for schema in schemas if schema != {"type": "null"}]
    if not all(schemas):
        return {}, optional  # one part may be anything
    if all(schema.keys() == {"type"} for schema in schemas):
        return {"type": _one_or_list([name for schema in schemas for name in _as_list(schema["type"])])}, optional
    return (schemas[0] if len(schemas) == 1 else {"anyOf": schemas}), optional


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets and quotes."""
    parts, depth, start, quote = [], 0, 0, ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        elif letter == separator and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _literal(text: str) -> Any:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else json.loads(text.lower())


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _one_or_list(names: list[str]) -> Any:
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else names


def _as_type(default: Any, schema: Schema) -> Any:
    """The default as a value of the schema's type, or None where it is none without loss."""
    if _is_valid(default, schema):
        return default
    if isinstance(default, str):
        try:
            value = json.loads({"True": "true", "False": "false"}.get(default, default))
        except (ValueError, RecursionError):
            return None
        return value if _is_valid(value, schema) else None
    return str(default) if schema.get("type") == "string" and isinstance(default, int | float) else None


_PLAIN = {
    "type",
    "properties",
    "required",
    "description",
    "default",
    "enum",
    "items",
    "title",
    "format",
    "additionalProperties",
}


def _is_plain(schema: Schema) -> bool:
    """Only keywords that normalising has already given their right form: the schema is valid by construction."""
    if not schema.keys() <= _PLAIN:
        return False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict) and not _is_plain(schema[key]):
            return False
    return "properties" not in schema or all(map(_is_plain, schema["properties"].values()))

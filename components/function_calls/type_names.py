"""Python-like type names, as xLAM, ToolBench and BFCL write them, read as JSON schemas."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from components.function_calls.record import Schema

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
_MAX_BRACKETS = 32
_MAX_CHARACTERS = 500


def schema_of_type_name(text: str) -> tuple[Schema, bool]:
    """The JSON schema of a Python-like type name, and whether the name says that the parameter is optional.

    "List[Union[int, float]], optional" -> ({"type": "array", "items": {"type": ["integer", "number"]}}, True).
    An unknown name gives no type, `{}`; so does a malformed one.
    """
    schema, optional = _of_type_name(text)
    return dict(schema), optional


@lru_cache(maxsize=4096)  # a corpus has few type names and millions of parameters
def _of_type_name(text: str) -> tuple[Schema, bool]:
    if len(text) > _MAX_CHARACTERS or text.count("[") > _MAX_BRACKETS:
        return {}, False
    text, marks = _OPTIONAL_MARK.subn("", text.strip())
    schema, is_optional = _read_type(_split(text, ",")[0])
    return schema, bool(marks) or is_optional


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
        return {"type": one_or_list([name for schema in schemas for name in as_list(schema["type"])])}, optional
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


def as_list(value: Any) -> list[Any]:
    """What `type` holds, a name or a list of them, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def one_or_list(names: list[str]) -> Any:
    """The reverse of `as_list`, without repeats."""
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else names

"""Arguments of a call against its tool's schema: are they valid, and what is their one canonical form?

Expects schemas as tool_schema.py leaves them. Does not compare calls (match.py does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from components.function_calls.record import Call, Schema, Tool
from components.function_calls.type_names import as_list
from components.function_calls.work import spend

_NO_SCHEMA: Schema = {}
_BRANCHES = frozenset(("anyOf", "oneOf", "allOf"))


def check_arguments(call: Call, tool: Tool) -> str | None:
    """None when the arguments are valid for the tool, else "reason: detail".

    Reasons: unknown_argument, missing_argument, wrong_type, wrong_value. Arguments the schema does not name are
    refused unless it says `additionalProperties` itself.

    Raises:
        RecordError: "too_much_work" (see work.py).
    """
    schema = tool.parameters
    properties = schema.get("properties") or _NO_SCHEMA
    if not schema.get("additionalProperties"):
        for name in call.arguments:
            if name not in properties:
                return f"unknown_argument: {tool.name} has no argument {name!r}"
    required = schema.get("required") or ()
    spend(1 + len(required) // 64)
    for name in required:
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
    """Is an argument's value valid by its schema, in which 1.0 is not an integer?"""
    return _surely_valid(value, schema) or is_valid(value, schema, _OnlyIntegers)


def canonical_arguments(arguments: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """The one form of arguments that mean the same by `schema`; equal to `arguments` where they have it already.

    A null is an absent argument unless the schema admits null itself, and a whole float is an integer where the schema
    has integers and no other numbers (pandas writes every integer of a column with gaps as a float).
    """
    return dict(_canonical_items(arguments, schema))


def _canonical(value: Any, schema: Schema) -> Any:
    if type(value) is float:
        return int(value) if value.is_integer() and _has_only_integers(schema) else value
    if type(value) is dict:
        return dict(_canonical_items(value, schema))
    if type(value) is list:
        spend(1 + len(value) // 64)
        first = max((part.get("prefixItems") or () for part in alternatives(schema)), key=len)
        rest = schema_of_items(schema)
        return [_canonical(item, first[i] if i < len(first) else rest) for i, item in enumerate(value)]
    return value


def _canonical_items(value: dict[str, Any], schema: Schema) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if item is None or type(item) in (float, list, dict):
            inner = schema_of_property(name, schema)
            if item is not None:
                yield name, _canonical(item, inner)
            elif _admits_null(inner):
                yield name, None
        else:
            yield name, item


def schema_of_property(name: str, schema: Schema) -> Schema:
    """What an object's schema says of the property, the branches of anyOf and the like included."""
    found = []
    for part in alternatives(schema):
        item = (part.get("properties") or _NO_SCHEMA).get(name, part.get("additionalProperties"))
        if isinstance(item, dict):
            found.append(item)
    return _either(found)


def schema_of_items(schema: Schema) -> Schema:
    """What a list's schema says of the items that have no place of their own."""
    return _either([part["items"] for part in alternatives(schema) if isinstance(part.get("items"), dict)])


def _either(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else _NO_SCHEMA


def alternatives(schema: Schema) -> Sequence[Schema]:
    """The schema and the branches of its anyOf, oneOf and allOf, theirs included."""
    if _BRANCHES.isdisjoint(schema):
        return (schema,)
    found = [schema]
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key, ())
        spend(len(branches))
        for branch in branches:
            found += alternatives(branch)
    return found


def _has_only_integers(schema: Schema) -> bool:
    kinds: set[str] = set()
    for part in alternatives(schema):
        if "type" not in part and not any(key in part for key in (*_BRANCHES, "enum")):
            return False  # a branch that admits anything
        kinds.update(as_list(part.get("type")))
    return "integer" in kinds and "number" not in kinds


def _admits_null(schema: Schema) -> bool:
    return any(
        "null" in as_list(part.get("type")) or one_of(None, part.get("enum", ())) for part in alternatives(schema)
    )


def one_of(value: Any, enum: Any) -> bool:
    """Is the value in the list? Counts as work: lists are looked up in lists."""
    spend(len(enum) // 64)
    return value in enum


_PLAIN_TYPES = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
_PLAIN = {
    "type", "properties", "required", "description", "default", "enum", "items", "title", "format",
    "additionalProperties",
}  # fmt: skip


def _surely_valid(value: Any, schema: Schema) -> bool:
    """True only where the validator would find no fault; a quick yes for what most calls are."""
    kind = schema.get("type")
    if not schema.keys() <= _PLAIN or "additionalProperties" in schema or type(kind) is not str:
        return False
    if isinstance(schema.get("items"), bool):
        return False
    if "enum" in schema:
        return kind == "string" and type(value) is str and one_of(value, schema["enum"])
    if kind == "array":
        items = schema.get("items")
        return type(value) is list and (items is None or all(_surely_valid(item, items) for item in value))
    if kind == "object":
        properties = schema.get("properties") or _NO_SCHEMA
        return (
            type(value) is dict
            and all(name in value for name in schema.get("required") or ())
            and all(name in properties and _surely_valid(item, properties[name]) for name, item in value.items())
        )
    return type(value) in _PLAIN_TYPES.get(kind, ())


def _unchecked(*_: Any) -> None:
    return None


def _additional(validator: Any, allowed: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:  # which properties are additional there, only the patterns tell
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, value, schema)


def _unique(validator: Any, wanted: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
    """As jsonschema's own, which compares every object with every other."""
    if wanted and isinstance(value, list) and len(set(map(_sorted, value))) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _sorted(value: Any) -> str:
    """Equal texts for equal JSON values, in which 1 and 1.0 are one number."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _counted(check: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    """The check of a keyword, with its steps and the texts of its errors counted: some hold the whole value."""

    def counted(validator: Any, wanted: Any, value: Any, schema: Schema) -> Iterator[ValidationError]:
        spend(8 + (_length(wanted) + _length(value)) // 8)
        for error in check(validator, wanted, value, schema) or ():
            spend(4 + len(error.message) // 256)
            yield error

    return counted


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


# References could reach into the network (the unevaluated* keywords follow them too) and patterns could run for ever:
# they are shown to the model and not checked. The empty registry fetches nothing, whatever a later jsonschema follows.
_Validator = extend(
    Draft202012Validator,
    {keyword: _counted(check) for keyword, check in Draft202012Validator.VALIDATORS.items()}
    | dict.fromkeys(
        ("$ref", "$dynamicRef", "unevaluatedProperties", "unevaluatedItems", "pattern", "patternProperties"), _unchecked
    )
    | {"additionalProperties": _counted(_additional), "uniqueItems": _counted(_unique)},
)
_NO_REFERENCES: Registry[Any] = Registry()
# JSON schema takes 1.0 for an integer.
_OnlyIntegers = extend(
    _Validator, type_checker=_Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int)
)


def is_valid(value: Any, schema: Schema, validator: Any = _Validator) -> bool:
    """Is the value valid by the schema? What cannot be checked is not."""
    try:
        return bool(validator(schema, registry=_NO_REFERENCES).is_valid(value))
    except (ArithmeticError, RecursionError):
        return False

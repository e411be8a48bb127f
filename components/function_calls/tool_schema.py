"""Tools of every source brought to one form: a name, a description, and a self-contained JSON schema.

Reads JSON schema with OpenAPI 3.0's and draft 3's ways of saying things, the wrappers of OpenAI, MCP, Anthropic and
ToolBench, xLAM's flat parameters with Python-like type names, and BFCL's dialect (dict, float, tuple, any). In the
result `null` keywords are gone (Arrow and Parquet write them for absent ones), local references are resolved, `allOf`
is merged where it can be, and every keyword that arguments are checked by has its right shape.
Does not judge descriptions and does not check arguments (arguments.py does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from components.function_calls.arguments import is_valid
from components.function_calls.json_text import parse_json
from components.function_calls.record import RecordError, Schema, Tool
from components.function_calls.type_names import as_list, one_or_list, schema_of_type_name
from components.function_calls.work import spend

_MAX_NESTING = 32
_PARAMETER_KEYS = ("parameters", "inputSchema", "input_schema")  # OpenAI and most others, MCP, Anthropic
_LISTED_KEYS = ("required_parameters", "optional_parameters")  # ToolBench: lists of {name, type, description, default}
_ORDINARY = {"name", "description", "parameters"}
_ALL_KEYS = (*_PARAMETER_KEYS, *_LISTED_KEYS)
# Objects and lists beside a tool's name that are known to hold no parameters.
_NO_PARAMETERS = {
    "required", "optional", "annotations", "_meta", "metadata", "meta", "icons", "tags", "examples", "cache_control",
    "execution", "outputSchema", "output_schema", "output", "outputs", "returns", "return", "response", "responses",
    "results", "result_parameters", "return_parameters",
}  # fmt: skip


def normalise_tool(raw: Any) -> Tool:
    """Build the tool that `raw` describes.

    Raises:
        RecordError: "tool_name" (no name), "tool_schema" (parameters of no known form or under no known key, or no
            valid JSON schema), "too_much_work" (see work.py).
    """
    if not isinstance(raw, dict):
        raise RecordError("tool_schema", f"a tool is an object, this is {type(raw).__name__}")
    if isinstance(raw.get("function"), dict):  # OpenAI's wrapper, its "type" left out at times
        raw = {key: value for key, value in raw.items() if key not in ("type", "function")} | raw["function"]
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RecordError("tool_name", f"a tool needs a name, this one has {str(name)[:100]!r}")
    description = raw.get("description") or ""
    if not isinstance(description, str):
        raise RecordError("tool_schema", f"{name}: its description is {type(description).__name__}, not text")
    try:
        return Tool(name, description, _arguments_schema(_parameters(raw), raw.get("required")))
    except _SchemaFaultError as fault:
        raise RecordError("tool_schema", f"{name}: {fault}") from None


class _SchemaFaultError(Exception):
    """What is wrong, in words."""


def _parameters(raw: Mapping[str, Any]) -> Schema:
    """What the tool says of its parameters, under whichever key."""
    if raw.keys() <= _ORDINARY and isinstance(raw.get("parameters"), dict):
        return raw["parameters"]
    found = [key for key in _ALL_KEYS if raw.get(key)]
    if not found:
        for key, value in raw.items():
            if isinstance(value, dict | list) and value and key not in _NO_PARAMETERS:
                known = ", ".join(_ALL_KEYS)
                raise _SchemaFaultError(f"{key!r} may hold its parameters; they are read from {known}")
        return {}
    if set(found) <= set(_LISTED_KEYS):
        return _listed(raw.get("required_parameters") or [], True) | _listed(
            raw.get("optional_parameters") or [], False
        )
    if len(found) > 1:
        raise _SchemaFaultError(f"it has both {found[0]} and {found[1]}")
    parameters = raw[found[0]]
    if isinstance(parameters, str):
        try:
            parameters = parse_json(parameters)
        except RecordError as error:
            raise _SchemaFaultError(f"{found[0]}: {error.detail}") from None
    if not isinstance(parameters, dict):
        raise _SchemaFaultError(f"{found[0]} is {type(parameters).__name__}, not an object")
    return parameters


def _listed(items: Any, required: bool) -> Schema:
    """ToolBench's list of parameters in xLAM's flat form."""
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in items
    ):
        raise _SchemaFaultError(f"{_LISTED_KEYS[not required]} is not a list of objects with names")
    return {
        item["name"]: {key: value for key, value in item.items() if key != "name"} | {"required": required}
        for item in items
    }


def _arguments_schema(parameters: Schema, required: Any) -> Schema:
    """The schema of the tool's arguments: of type object, and with all their names in `properties`.

    Args:
        required: what is beside the parameters under that name; some sources put the list there.
    """
    if _is_json_schema(parameters):
        schema = _schema(parameters, 0, parameters, frozenset())
        if isinstance(schema.get("type"), list) and "object" in schema["type"]:
            schema["type"] = "object"
    else:
        schema = _flat(parameters)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            schema = _with_branches(schema, key)
    if schema.pop("type", "object") != "object":
        raise _SchemaFaultError(f"parameters has type {parameters.get('type')!r}, not object")
    properties = schema.pop("properties", {})
    schema = {"type": "object", "properties": properties, **schema}
    if isinstance(required, list) and "required" not in schema:
        given = [name for name in required if isinstance(name, str) and name in properties]
        if given:
            schema["required"] = given
    return schema


def _with_branches(schema: Schema, key: str) -> Schema:
    """`anyOf` or `oneOf` of whole argument lists: the names of all of them move up, the branches keep what differs."""
    branches = [branch for branch in schema[key] if branch.get("type") != "null"]
    if not all(branch.get("type", "object") == "object" for branch in branches):
        raise _SchemaFaultError(f"{key} of parameters has a branch that is not of type object")
    offered: dict[str, list[Schema]] = {}
    for branch in branches:
        for name, item in branch.get("properties", {}).items():
            if item not in offered.setdefault(name, []):
                spend(len(offered[name]))
                offered[name].append(item)
    union = {name: items[0] if len(items) == 1 else {"anyOf": items} for name, items in offered.items()}
    properties = union | schema.get("properties", {})
    rest = []
    for branch in branches:
        own = {name: item for name, item in branch.get("properties", {}).items() if properties[name] != item}
        rest.append(
            {k: v for k, v in branch.items() if k not in ("type", "properties")} | ({"properties": own} if own else {})
        )
    schema = {name: value for name, value in schema.items() if name != key} | {"properties": properties}
    return schema | ({key: rest} if any(rest) else {})


def _is_json_schema(parameters: Mapping[str, Any]) -> bool:
    # A flat parameter may itself be called "type" or "properties"; it then holds an object, and that one texts.
    if isinstance(parameters.get("type"), str | list) or isinstance(parameters.get("$ref"), str):
        return True
    if any(isinstance(parameters.get(key), list) for key in ("anyOf", "oneOf", "allOf")):
        return True
    properties = parameters.get("properties")
    return (
        parameters.get("type") is None
        and isinstance(properties, dict)
        and all(value is None or isinstance(value, dict) for value in properties.values())
    )


def _flat(parameters: Mapping[str, Any]) -> Schema:
    """xLAM's {name: {description, type, default}}: required is what has no default and is not called optional."""
    spend(len(parameters))
    properties: dict[str, Schema] = {}
    required = []
    for name, item in parameters.items():
        if item is None:
            continue
        if not isinstance(item, dict):
            raise _SchemaFaultError(f"parameter {name!r} is {type(item).__name__}, not an object")
        type_name, default = item.get("type"), item.get("default")
        optional = isinstance(type_name, str) and schema_of_type_name(type_name)[1]
        rest = {key: value for key, value in item.items() if key not in ("default", "required", "optional")}
        schema = _schema(rest, 1, parameters, frozenset())
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
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _as_type(default: Any, schema: Schema) -> Any:
    """The default as a value of the schema's type, or None where it is none without loss."""
    if is_valid(default, schema):
        return default
    if isinstance(default, str):
        try:
            value = json.loads({"True": "true", "False": "false"}.get(default, default))
        except (ValueError, RecursionError):
            return None
        return value if is_valid(value, schema) else None
    return str(default) if schema.get("type") == "string" and isinstance(default, int | float) else None


_DROPPED = {
    "optional", "$schema", "$id", "$anchor", "$dynamicAnchor", "$comment", "$vocabulary", "$defs", "definitions",
    "nullable",
}  # fmt: skip
_ANNOTATIONS = {"description", "title", "default", "format"}  # the most frequent; unknown keywords are copied as well
_LEAF = {"type", *_ANNOTATIONS}
_OF_NAMED = {"properties", "patternProperties", "dependentSchemas"}
_OF_ONE = {
    "items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else", "unevaluatedProperties",
    "unevaluatedItems",
}  # fmt: skip
_LIMITS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_OF_SEVERAL = {"anyOf", "oneOf", "allOf", "prefixItems"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(
        (f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties", "Contains")),
        (_is_count, "a whole number"),
    ),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("pattern", "$ref", "$dynamicRef"), (lambda value: isinstance(value, str), "text")),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(isinstance(names, list) for names in value.values()),
        "an object of lists",
    ),
}  # fmt: skip


def _schema(raw: Any, depth: int, root: Mapping[str, Any], resolving: frozenset[str]) -> Schema:
    """A JSON schema, or a dialect of one, normalised.

    Args:
        root: where local references point into.
        resolving: the references around `raw`; one of them in it would go on for ever, and stands for anything.
    """
    if raw is True or raw == {}:
        return {}
    if not isinstance(raw, dict):
        raise _SchemaFaultError(f"a schema is an object, this is {type(raw).__name__}")
    kind = raw.get("type")
    if type(kind) is str and kind in _KINDS and raw.keys() <= _LEAF and None not in raw.values():
        return {"type": kind, **raw}  # what most properties are
    if depth > _MAX_NESTING:
        raise _SchemaFaultError(f"the schema nests deeper than {_MAX_NESTING}")
    schema: Schema = {}
    if kind is not None:
        schema.update(_type(kind))
    required_here: list[str] = []
    together = False  # does any keyword change what another one says?
    for key, value in raw.items():
        if value is None or key == "type":
            continue
        if key in _ANNOTATIONS:
            schema[key] = value
        elif key in _DROPPED:
            together = together or key == "nullable"
        elif key in _OF_NAMED:
            if not isinstance(value, dict):
                raise _SchemaFaultError(f"{key} is {type(value).__name__}, not an object")
            spend(len(value))
            inner = schema[key] = {}
            for name, item in value.items():
                if item is not None:
                    inner[name] = _schema(item, depth + 1, root, resolving)
                    if type(item) is dict and item.get("required") is True and key == "properties":
                        required_here.append(name)
        elif key in _OF_SEVERAL or (key == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise _SchemaFaultError(f"{key} is {type(value).__name__}, not a list")
            spend(len(value))
            if value:
                schema["prefixItems" if key == "items" else key] = [
                    _schema(item, depth + 1, root, resolving) for item in value
                ]
        elif key in _OF_ONE:
            spend()
            schema[key] = value if isinstance(value, bool) else _schema(value, depth + 1, root, resolving)
        elif key == "required":
            if isinstance(value, list):
                schema["required"] = list(dict.fromkeys(item for item in value if isinstance(item, str)))
        elif key == "enum":
            if isinstance(value, list) and value:
                schema["enum"] = value
                together = True
        elif key in _SHAPES and not (key in _LIMITS and isinstance(value, bool)):
            fits, wanted = _SHAPES[key]
            if not fits(value):
                raise _SchemaFaultError(f"{key} is {str(value)[:100]!r}; {wanted} is expected")
            schema[key] = value
            together = together or key == "$ref"
        else:
            schema[key] = value
            together = together or key in _LIMITS
    if required_here:  # draft 3 wrote `required: true` inside the property
        schema["required"] = list(dict.fromkeys([*schema.get("required", ()), *required_here]))
    if together or "allOf" in schema:
        return _settled(schema, raw.get("nullable") is True, depth, root, resolving)
    return schema


def _settled(schema: Schema, nullable: bool, depth: int, root: Mapping[str, Any], resolving: frozenset[str]) -> Schema:
    """What several keywords say together."""
    if "$ref" in schema:
        schema = _resolved(schema, depth, root, resolving)
    for key, limit in _LIMITS.items():
        if isinstance(schema.get(key), bool):  # draft 4 and OpenAPI 3.0: whether the limit itself is excluded
            excluded = schema.pop(key)
            if excluded and limit in schema:
                schema[key] = schema.pop(limit)
    if "allOf" in schema:
        schema = _merged(schema)
    if nullable:
        schema = _nullable(schema)
    if "enum" in schema:
        schema = _with_one_meaning(schema)
    return {"type": schema["type"], **schema} if "type" in schema else schema


def _resolved(schema: Schema, depth: int, root: Mapping[str, Any], resolving: frozenset[str]) -> Schema:
    """A local reference replaced by what it names; any other stays, is shown to the model and checks nothing."""
    reference = schema["$ref"]
    if not reference.startswith("#"):
        return schema
    siblings = {key: value for key, value in schema.items() if key != "$ref"}
    if reference in resolving:
        return siblings
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return schema
    spend(1 + len(found))
    return _schema(found, depth + 1, root, resolving | {reference}) | siblings


def _merged(schema: Schema) -> Schema:
    """`allOf` taken into the schema around it; a part that contradicts what is there stays in `allOf`."""
    parts = schema.pop("allOf")
    left = []
    for part in parts:
        own, other = schema.get("properties", {}), part.get("properties", {})
        spend(1 + (len(own) + len(schema.get("required", ()))) // 64)
        clash = any(own.get(name, item) != item for name, item in other.items()) or any(
            key not in ("properties", "required", *_ANNOTATIONS) and schema.get(key, value) != value
            for key, value in part.items()
        )
        if clash:
            left.append(part)
            continue
        required = list(dict.fromkeys([*schema.get("required", ()), *part.get("required", ())]))
        schema = part | schema
        if own or other:
            schema["properties"] = own | other
        if required:
            schema["required"] = required
    return schema | ({"allOf": left} if left else {})


def _nullable(schema: Schema) -> Schema:
    """OpenAPI 3.0's `nullable: true`."""
    for key in ("anyOf", "oneOf"):
        if key in schema and "type" not in schema:
            branches = schema[key]
            return schema if {"type": "null"} in branches else schema | {key: [*branches, {"type": "null"}]}
    if "enum" in schema and not any(value is None for value in schema["enum"]):
        schema = schema | {"enum": [*schema["enum"], None]}
    names = as_list(schema.get("type"))
    return schema | {"type": one_or_list([*names, "null"])} if names else schema


_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip
_NAMES = {kinds[-1]: name for name, kinds in _KINDS.items()}


def _with_one_meaning(schema: Schema) -> Schema:
    """An enum that says something else than the type beside it.

    Numbers written as texts, and texts written as numbers, take the type that is named. Where that would be a guess
    (what text is `true`?) the value is taken by its word and the type admits it. An enum beside a list is of its items.
    """
    values, names = schema["enum"], as_list(schema.get("type"))
    spend(len(values) // 64)
    kinds = {kind for name in names for kind in _KINDS[name]}
    if not names or all(type(value) in kinds for value in values):
        return schema
    items = schema.get("items", {})
    if list in kinds and isinstance(items, dict) and not any(type(value) in kinds for value in values):
        rest = {key: value for key, value in schema.items() if key != "enum"}
        return rest | {"items": _with_one_meaning(items | {"enum": values})}
    values = [value if type(value) in kinds else _as_kind(value, kinds) for value in values]
    others = [_NAMES[type(value)] for value in values if type(value) not in kinds]
    return schema | {"type": one_or_list([*names, *others]), "enum": values}


def _as_kind(value: Any, kinds: set[type]) -> Any:
    """The value as one of the kinds, where that loses nothing; else the value itself."""
    if str in kinds:
        return str(value) if _is_number(value) else value
    if isinstance(value, str):
        try:
            read = json.loads(value.lower())
        except (ValueError, RecursionError):
            return value
        return read if type(read) in kinds else value
    return value


def _type(value: Any) -> Schema:
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str)]
        names = [name for text in texts for name in as_list(schema_of_type_name(text)[0].get("type"))]
        return {"type": one_or_list(names)} if names and len(names) >= len(value) else {}
    return schema_of_type_name(value)[0] if isinstance(value, str) else {}

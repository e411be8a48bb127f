"""The raw layout of Salesforce/xlam-function-calling-60k: {id, query, answers, tools}.

`answers` and `tools` are texts that hold JSON, or lists in some mirrors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from components.function_calls.formats.parts import make_record, read_calls, read_tools
from components.function_calls.record import Message, Record, RecordError, Tool


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The record that the object is.

    Mirrors without ids are numbered by the records' places (an array may have all its elements in one line).

    The layout marks no parameter as required. What has no default is, unless a gold call does without it: the gold
    calls were executed, the descriptions were not.
    """
    query = value.get("query")
    if not isinstance(query, str):
        raise RecordError("structure", f"query: text is expected, this is {type(query).__name__}")
    for field in ("answers", "tools"):
        if value.get(field) is None:
            raise RecordError("structure", f"{field}: is missing")
    name = f"xlam-{number if value.get('id') is None else value['id']}"
    record = make_record(
        "xlam",
        number,
        {key: item for key, item in value.items() if key != "messages"} | {"id": name, "source": "xlam"},
        messages=[Message("user", query)],
        tools=read_tools(value["tools"]),
        answers=read_calls(value["answers"], "answers"),
        cot=value.get("cot"),
        response=value.get("response"),
        used=("query",),
    )
    given: dict[str, set[str]] = {}
    for call in record.answers:
        given[call.name] = given.get(call.name, set(call.arguments)) & set(call.arguments)
    return [replace(record, tools=tuple(_as_called(tool, given) for tool in record.tools))]


def _as_called(tool: Tool, given: dict[str, set[str]]) -> Tool:
    required = tool.parameters.get("required", [])
    left = required if tool.name not in given else [name for name in required if name in given[tool.name]]
    return tool if left == required else replace(tool, parameters=tool.parameters | {"required": left})

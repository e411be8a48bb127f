"""callforge's own layout: `id`, `source`, `messages`, `tools`, `answers`, `cot`, `response`, `meta`.

`answers` may be null, as OpenAI's `tool_calls` are, where no call is right; it may not be missing. What the contract
does not name moves into `meta`.
"""

from __future__ import annotations

from typing import Any

from components.function_calls.formats.parts import make_record, read_calls, read_messages, read_tools
from components.function_calls.record import Record, RecordError


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The record that the object is."""
    if "tools" not in value:  # not among the fields that tell the layout: the reason is then a clearer one
        raise RecordError("structure", "tools: is missing")
    record = make_record(
        "callforge",
        number,
        value,
        messages=read_messages(value["messages"]),
        tools=read_tools(value["tools"]),
        answers=read_calls(value["answers"], "answers"),
        cot=value.get("cot"),
        response=value.get("response"),
    )
    return [record]

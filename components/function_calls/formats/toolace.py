"""ToolACE: tools as a JSON list in the system text, calls as `[Weather API(city="Lyon")]`; a record for every turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from components.function_calls.formats.dialogue import dialogue_records
from components.function_calls.formats.parts import read_tools
from components.function_calls.formats.sharegpt import conversation
from components.function_calls.json_text import check_text, embedded_json
from components.function_calls.parse import parse_calls
from components.function_calls.prompt import ToolNames
from components.function_calls.record import Message, Record, RecordError, Tool

_LIST = re.compile(r"\[\s*\{")


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The records of one conversation. The system text is the layout's own instruction, and left out."""
    system = value["system"]
    if not isinstance(system, str):
        raise RecordError("structure", f"system: text is expected, this is {type(system).__name__}")
    tools = read_tools(next(iter(embedded_json(system, _LIST, "system: ", most=1)), None))
    messages = _with_calls(conversation(value["conversations"]), tools)
    return dialogue_records("toolace", number, value, messages, tools, ("conversations", "system"))


def _with_calls(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Tool names are written as they are, blanks and all: outside of strings they take the form that can be parsed."""
    names = ToolNames(tools)
    longest_first = sorted((tool.name for tool in tools), key=len, reverse=True)
    pattern = re.compile(
        r'"(?:[^"\\]|\\.)*+"|\'(?:[^\'\\]|\\.)*+\''
        + "".join(rf"|(?<![\w.]){re.escape(name)}(?=\()" for name in longest_first),
        re.DOTALL,
    )
    read = []
    for place, message in enumerate(messages):
        text = message.content.strip()
        if message.role != "assistant" or not text.startswith("["):
            read.append(message)
            continue
        calls, reason = parse_calls(
            pattern.sub(lambda found: found[0] if found[0][0] in "\"'" else names.shown(found[0]), text), names
        )
        if calls is None:
            raise RecordError("structure", f"conversations.{place}: starts as calls do and is none ({reason})")
        for call in calls:
            check_text(call.arguments, f"conversations.{place}: ")
        read.append(Message("assistant", "", calls))
    return read

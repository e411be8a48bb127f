"""What all layouts share: messages, tools and calls as the sources write them, made into records of one form.

A null is an absent value, arguments may be JSON in a text, roles have several names. Anything else that a part is not
meant to be is refused, never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.function_calls.arguments import canonical_arguments
from components.function_calls.json_text import check_text, parse_json
from components.function_calls.parse import parse_calls
from components.function_calls.record import FIELDS, Call, Message, Record, RecordError, Role, Tool, record_from_json
from components.function_calls.tool_schema import normalise_tool
from components.function_calls.work import spend

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
}  # fmt: skip


def make_record(
    layout: str,
    number: int,
    value: Mapping[str, Any],
    *,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    answers: Sequence[Call],
    cot: Any = None,
    response: Any = None,
    turn: int = 0,
    used: Sequence[str] = (),
) -> Record:
    """The record of these parts; calls get their canonical form.

    Args:
        layout: names the source of a record that has none, and the id.
        number: the record's place in its file, for the id.
        value: the object the parts come from; its other fields move into `meta`.
        turn: which of several records of one dialogue this is, from 1 on.
        used: the fields of `value` that the parts were made from.

    Raises:
        RecordError: "structure".
    """
    given = value.get("id")
    if isinstance(given, int | float) and not isinstance(given, bool):  # pandas writes whole numbers as floats
        given = str(int(given)) if given == int(given) else str(given)
    name = f"{layout}-{number}" if given is None else given
    meta = {key: item for key, item in value.items() if key not in FIELDS and key not in used and item is not None}
    known = {tool.name: tool.parameters for tool in tools}
    fields = {
        "id": f"{name}/{turn}" if turn and isinstance(name, str) else name,
        "source": layout if value.get("source") is None else value["source"],
        "messages": tuple(_canonical_message(message, known) for message in messages),
        "tools": tuple(tools),
        "answers": tuple(_canonical(call, known) for call in answers),
        "cot": cot,
        "response": response,
    }
    return record_from_json(fields | {"meta": _meta(value) | meta})


def _meta(value: Mapping[str, Any]) -> dict[str, Any]:
    meta = value.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise RecordError("structure", f"meta: an object is expected, this is {type(meta).__name__}")
    return meta or {}


def _canonical_message(message: Message, known: Mapping[str, Any]) -> Message:
    if not message.tool_calls:
        return message
    return Message(message.role, message.content, tuple(_canonical(call, known) for call in message.tool_calls))


def _canonical(call: Call, known: Mapping[str, Any]) -> Call:
    return Call(call.name, canonical_arguments(call.arguments, known.get(call.name, {})))


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The tools of a list, or of a JSON text that holds one; none where it is null.

    Raises:
        RecordError: "structure" (no list), and what normalise_tool raises.
    """
    if isinstance(value, str):
        value = parse_json(value, "tools: ")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RecordError("structure", f"tools: a list is expected, this is {type(value).__name__}")
    spend(len(value))
    return tuple(map(normalise_tool, value))


def read_calls(value: Any, where: str) -> tuple[Call, ...]:
    """The calls of a list, or of a JSON text that holds one; none where it is null.

    Raises:
        RecordError: "structure" or what parse_json raises.
    """
    if isinstance(value, str):
        value = parse_json(value, f"{where}: ")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RecordError("structure", f"{where}: a list is expected, this is {type(value).__name__}")
    spend(len(value))
    return tuple(read_call(item, f"{where}.{index}") for index, item in enumerate(value))


def read_call(value: Any, where: str) -> Call:
    """One call: `{name, arguments}`, alone or in OpenAI's wrapper; the arguments an object, JSON in a text, or null.

    Raises:
        RecordError: "structure" or what parse_json raises.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RecordError("structure", f"{where}: an object with a name is expected, this is {str(value)[:100]!r}")
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{where}.arguments: ") if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RecordError("structure", f"{where}.arguments: an object is expected, this is {type(arguments).__name__}")
    return Call(value["name"], arguments)


def read_call_text(text: str, where: str) -> Call:
    """One call in a text: a JSON object, or the Python dict that some sources print in its place.

    Raises:
        RecordError: "not_json", "structure".
    """
    try:
        return read_call(parse_json(text, f"{where}: "), where)
    except RecordError as error:
        if error.reason != "not_json":
            raise
        calls, _ = parse_calls(f"[call(value={text.strip()})]")  # a literal, read as every literal of a call is
        if not calls:
            raise
        value = calls[0].arguments["value"]
        check_text(value, where)
        return read_call(value, where)


def read_messages(value: Any) -> tuple[Message, ...]:
    """OpenAI's messages, those of other sources that follow them included.

    Raises:
        RecordError: "structure", or what parse_json raises for a call's arguments.
    """
    if isinstance(value, str):
        value = parse_json(value, "messages: ")
    if not isinstance(value, list):
        raise RecordError("structure", f"messages: a list is expected, this is {type(value).__name__}")
    spend(len(value))
    return tuple(_message(item, f"messages.{index}") for index, item in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise RecordError("structure", f"{where}: an object is expected, this is {type(value).__name__}")
    named = value.get("role")
    if not isinstance(named, str) or named not in _ROLES:
        raise RecordError("structure", f"{where}.role: {str(named)[:40]!r} is unknown; known are {', '.join(_ROLES)}")
    role = _ROLES[named]
    content = value.get("content")
    if not isinstance(content, str):
        content = _text(content, where, role)
    calls = value.get("tool_calls")
    if calls is None and value.get("function_call") is not None:  # OpenAI's name before there were several
        calls = [value["function_call"]]
    return Message(role, content, read_calls(calls, f"{where}.tool_calls") if calls else ())


def _text(content: Any, where: str, role: str) -> str:
    """Content that is not text: null, a list of parts, or what a tool gave back."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if part.get("type") in ("text", "input_text", "output_text")]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
        if role != "tool":
            kinds = ", ".join(sorted({str(part.get("type")) for part in content}))
            raise RecordError("structure", f"{where}.content: parts of type {kinds[:100]}; only text is read")
    if role == "tool":
        return json.dumps(content, ensure_ascii=False)
    raise RecordError("structure", f"{where}.content: text is expected, this is {type(content).__name__}")

"""ShareGPT conversations with function calls, as Hermes and LLaMA-Factory write them: a record for every turn.

`conversations` is a list of `{from, value}`. Tools are in the field `tools`, or in `<tools>` of the system turn, which
then is the layout's own instruction and left out. Calls are turns from `function_call`, or `<tool_call>` in a turn.
"""

from __future__ import annotations

import re
from typing import Any

from components.function_calls.formats.dialogue import dialogue_records
from components.function_calls.formats.parts import read_call_text, read_messages, read_tools
from components.function_calls.json_text import parse_json
from components.function_calls.record import Message, Record, RecordError

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"</?tool_response>")


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The records of one conversation."""
    messages = conversation(value["conversations"])
    if isinstance(value.get("system"), str):
        messages = (Message("system", value["system"]), *messages)
    tools = value.get("tools")
    kept = []
    for place, message in enumerate(messages):
        if message.role == "system" and (found := _TOOLS.findall(message.content)):
            tools = tools or _listed(max(found, key=len))  # the instruction names the tags, with nothing between them
            continue
        kept.append(_with_calls(message, f"conversations.{place}"))
    return dialogue_records("sharegpt", number, value, kept, read_tools(tools), ("conversations", "system"))


def conversation(turns: Any) -> tuple[Message, ...]:
    """The turns of `{from, value}` as messages; a turn from `function_call` becomes a `<tool_call>`.

    Raises:
        RecordError: "structure".
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RecordError("structure", "conversations: a list of objects is expected")
    return read_messages(
        [
            {
                "role": turn.get("from"),
                "content": f"<tool_call>{turn.get('value')}</tool_call>"
                if turn.get("from") == "function_call"
                else turn.get("value"),
            }
            for turn in turns
        ]
    )


def _listed(text: str) -> Any:
    """Hermes writes a JSON list between the tags, or one object a line."""
    text = text.strip()
    return parse_json(
        text if text.startswith("[") else f"[{','.join(filter(None, map(str.strip, text.splitlines())))}]", "tools: "
    )


def _with_calls(message: Message, where: str) -> Message:
    if message.role == "tool":
        return Message("tool", _RESULT.sub("", message.content).strip())
    texts = _CALL.findall(message.content) if message.role == "assistant" else []
    if not texts:
        return message
    return Message(
        "assistant", _CALL.sub("", message.content).strip(), tuple(read_call_text(text, where) for text in texts)
    )

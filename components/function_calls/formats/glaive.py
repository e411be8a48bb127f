"""glaive-function-calling-v2: tools inside a system text, and a dialogue in one text; a record for every turn."""

from __future__ import annotations

import re
from typing import Any

from components.function_calls.formats.dialogue import dialogue_records
from components.function_calls.formats.parts import read_call_text, read_tools
from components.function_calls.json_text import embedded_json
from components.function_calls.record import Message, Record, RecordError, Role

_SPEAKER = re.compile(r"(?:^|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_ROLES: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"
_CALL = "<functioncall>"
_OBJECT = re.compile(r"\{")


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The records of one dialogue. The system text is the layout's own instruction, and left out."""
    system, chat = value["system"], value["chat"]
    if not isinstance(system, str) or not isinstance(chat, str):
        raise RecordError("structure", "system and chat: texts are expected")
    _, *parts = _SPEAKER.split(chat)
    messages = [
        _message(speaker, text.replace(_END, "").strip(), f"chat, turn {turn}")
        for turn, (speaker, text) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1)
    ]
    return dialogue_records(
        "glaive", number, value, messages, read_tools(embedded_json(system, _OBJECT, "system: ")), ("system", "chat")
    )


def _message(speaker: str, text: str, where: str) -> Message:
    if speaker != "ASSISTANT" or _CALL not in text:
        return Message(_ROLES[speaker], text)
    said, *calls = text.split(_CALL)
    return Message("assistant", said.strip(), tuple(read_call_text(call.strip(), where) for call in calls))

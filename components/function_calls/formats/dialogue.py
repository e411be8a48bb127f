"""A dialogue as records: one for every turn of the assistant, with all that came before it in the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.function_calls.formats.parts import make_record
from components.function_calls.record import Message, Record, RecordError, Tool
from components.function_calls.work import spend

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def dialogue_records(
    layout: str,
    number: int,
    value: Mapping[str, Any],
    messages: Sequence[Message],
    tools: Sequence[Tool],
    used: Sequence[str],
    skipped: frozenset[int] = frozenset(),
) -> list[Record]:
    """A record for every assistant turn that answers somebody, with all that came before it as its messages.

    Neighbouring messages of the assistant are one turn; `<think>` at its start is the thought, and left out of later
    prompts. What the assistant says before anybody asked is history only.

    Args:
        skipped: places of messages that are not turns to learn from.

    Raises:
        RecordError: "structure", when there is no such turn; "too_much_work", when there are too many.
    """
    history: list[Message] = []
    turns: list[tuple[int, str | None, Message]] = []  # length of the history, thought, turn
    for place, message in enumerate(messages):
        if message.role != "assistant":
            history.append(message)
            continue
        thought = _THOUGHT.match(message.content)
        said = message.content[thought.end() :].strip() if thought else message.content
        plain = Message("assistant", said, message.tool_calls)
        cot = thought[1].strip() if thought else None
        if history and history[-1].role == "assistant":
            before = history.pop()
            plain = Message(
                "assistant", f"{before.content}\n{plain.content}".strip(), before.tool_calls + plain.tool_calls
            )
            if turns and turns[-1][0] == len(history):
                cot = turns.pop()[1] or cot
        if place not in skipped and any(earlier.role == "user" for earlier in history):
            turns.append((len(history), cot, plain))
        history.append(plain)
    if not turns:
        raise RecordError("structure", "no turn of an assistant that answers a user")
    records = []
    for turn, (length, cot, message) in enumerate(turns, 1):
        spend(10 * length)
        records.append(
            make_record(
                layout,
                number,
                value,
                messages=history[:length],
                tools=tools,
                answers=message.tool_calls,
                cot=cot,
                response=message.content or None,
                turn=turn if len(turns) > 1 else 0,
                used=used,
            )
        )
    return records

"""A question and a model's turn as texts that a report opens: what was asked, what was offered, what came back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.function_calls.parse import parse_turn


def prompt_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """A conversation, messages as in a record's JSON; calls of earlier turns stand below their text."""
    lines = []
    for message in messages:
        calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
        lines.append("\n".join([f"{message['role']}: {message['content']}", *calls]))
    return "\n\n".join(lines)


def offered_texts(tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The offered functions with their schemas, tools as in a record's JSON, under a label with their names."""
    if not tools:
        return {}
    what = "function" if len(tools) == 1 else f"{len(tools)} functions"
    label = f"offered {what}: {', '.join(tool['name'] for tool in tools)}"
    return {label: "\n\n".join(json.dumps(tool, ensure_ascii=False, indent=1) for tool in tools)}


def turn_texts(turn: str, label: str = "") -> dict[str, str]:
    """Thought and answer apart; a turn that cannot be parted, whole. Labels begin with `label`."""
    label = f"{label}: " if label else ""
    parsed = parse_turn(turn)
    if parsed.thought is None:
        return {f"{label}turn": turn or "(nothing)"}
    return {f"{label}thought": parsed.thought.strip() or "(empty)", f"{label}answer": parsed.answer}

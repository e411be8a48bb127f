"""OpenAI's chat messages with `tools`, as fine-tuning files and traces hold them: a record for every assistant turn.

Messages of weight 0 are history only, as OpenAI's fine-tuning has it. `functions` is the older name of `tools`.
"""

from __future__ import annotations

from typing import Any

from components.function_calls.formats.dialogue import dialogue_records
from components.function_calls.formats.parts import read_messages, read_tools
from components.function_calls.json_text import parse_json
from components.function_calls.record import Record


def read(value: dict[str, Any], number: int) -> list[Record]:
    """The records of one dialogue."""
    given = parse_json(value["messages"], "messages: ") if isinstance(value["messages"], str) else value["messages"]
    messages = read_messages(given)
    tools = read_tools(
        value["functions"] if value.get("tools") is None and "functions" in value else value.get("tools")
    )
    skipped = frozenset(place for place, item in enumerate(given) if item.get("weight") == 0)
    return dialogue_records("openai", number, value, messages, tools, ("functions",), skipped)

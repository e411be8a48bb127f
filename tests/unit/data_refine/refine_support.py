"""Records to refine, and what becomes of them."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

from components.data_refine import refine
from components.settings import DataRefineSettings

TOOL = {
    "name": "book_room",
    "description": "Book a room.",
    "parameters": {
        "type": "object",
        "properties": {
            "town": {"type": "string", "description": "Where."},
            "nights": {"type": "integer"},
            "view": {"type": "string", "enum": ["sea", "garden"]},
            "budget": {"type": "number", "default": 100},
        },
        "required": ["town", "nights"],
    },
}
OTHER_TOOL = {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A good record; different numbers are different questions."""
    nights = number + 1
    return {
        "id": f"r-{number}",
        "source": "test",
        "messages": [{"role": "user", "content": f"Find me a place in Quibdo for {nights} nights"}],
        "tools": copy.deepcopy([TOOL, OTHER_TOOL]),
        "answers": [{"name": "book_room", "arguments": {"town": "Quibdo", "nights": nights}}],
        **changes,
    }


def answer(**arguments: Any) -> list[dict[str, Any]]:
    return [{"name": "book_room", "arguments": {"town": "Quibdo", "nights": 1, **arguments}}]


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


class Refined:
    """The outputs for some lines."""

    def __init__(self, folder: Path, lines: list[Any], **config: Any) -> None:
        folder.mkdir(exist_ok=True)
        data = folder / "data.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        data.write_text("".join(text + "\n" for text in texts), "utf-8", newline="\n")
        self.folder = folder / "stage"
        settings = DataRefineSettings(
            data=str(data), **{"data_format": "callforge", "benchmark_overlap": 1.0, **config}
        )
        self.metrics = refine.refine(settings, self.folder).metrics()

    def lines(self, outcome: str) -> list[dict[str, Any]]:
        with gzip.open(self.folder / f"{outcome}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def reasons(self) -> dict[int, str]:
        """Line number -> reason, of what did not qualify."""
        return {line["line"]: line["reason"] for name in ("hard", "rejected") for line in self.lines(name)}


def changed_tool(**changes: Any) -> list[dict[str, Any]]:
    return [{**copy.deepcopy(TOOL), **changes}, OTHER_TOOL]


def deep_call(depth: int) -> dict[str, Any]:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    parameters = {"type": "object", "properties": {"any": {}}}
    return record(
        tools=changed_tool(parameters=parameters), answers=[{"name": "book_room", "arguments": {"any": nested}}]
    )

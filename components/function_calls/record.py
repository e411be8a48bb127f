"""The record: one question, the tools offered, the gold calls. The contract every stage reads and writes.

Does not decide whether the record is good training data (components/data_refine does) and does not read files
(components/function_calls/formats.py does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

Schema = dict[str, Any]
"""A JSON schema."""
Category = Literal["simple", "multiple", "parallel", "parallel_multiple", "no_call"]
CATEGORIES: tuple[Category, ...] = ("simple", "multiple", "parallel", "parallel_multiple", "no_call")


class RecordError(ValueError):
    """A record that breaks the contract. `reason` is a short code for counting, the text says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Call:
    """One function call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """One offered tool; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Schema


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation. Only an assistant's turn may carry `tool_calls`."""

    role: Role
    content: str = ""
    tool_calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One training example. `answers` empty means that no call is right."""

    id: str
    source: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    answers: tuple[Call, ...]
    cot: str | None = None
    response: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> Category:
        """The kind of question, from the numbers of tools and gold calls, as BFCL names them."""
        if not self.answers:
            return "no_call"
        if len(self.answers) == 1:
            return "simple" if len(self.tools) == 1 else "multiple"
        return "parallel" if len(self.tools) == 1 else "parallel_multiple"


FIELDS = ("id", "source", "messages", "tools", "answers", "cot", "response", "meta")
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def record_from_json(value: object) -> Record:
    """Build a record from one parsed JSON object; fields the contract does not name move into `meta`.

    Raises:
        RecordError: `value` is not an object, a field is missing or has the wrong type (reason "structure").
    """
    if not isinstance(value, dict):
        raise RecordError("structure", f"a record is a JSON object, this is {type(value).__name__}")
    known = {key: value[key] for key in FIELDS if key in value and key != "meta"}
    extra = {key: item for key, item in value.items() if key not in FIELDS}
    meta = value.get("meta") or {}
    if not isinstance(meta, dict):
        raise RecordError("structure", f"meta: an object is expected, this is {type(meta).__name__}")
    try:
        return _RECORD.validate_python({**known, "meta": {**extra, **meta}})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError("structure", f"{where}: {first['msg']}") from error


def record_to_json(record: Record) -> dict[str, Any]:
    """The record as the JSON object that `record_from_json` reads back to an equal record."""
    value: dict[str, Any] = {
        "id": record.id,
        "source": record.source,
        "messages": [
            {"role": message.role, "content": message.content}
            | ({"tool_calls": [_call(call) for call in message.tool_calls]} if message.tool_calls else {})
            for message in record.messages
        ],
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in record.tools
        ],
        "answers": [_call(call) for call in record.answers],
    }
    for key in ("cot", "response"):
        if getattr(record, key) is not None:
            value[key] = getattr(record, key)
    if record.meta:
        value["meta"] = record.meta
    return value


def _call(call: Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}

"""The rules a single record must keep, as pure functions, and the keys by which two records are compared.

What needs other records (duplicates) is decided in duplicates.py, what needs the benchmark in overlap.py. That tools
are valid JSON schemas is checked where they are read (function_calls.formats).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from components.function_calls.parse import parse_turn
from components.function_calls.prompt import ToolNames, render_turn
from components.function_calls.record import Record
from components.function_calls.tool_schema import check_arguments

Outcome = Literal["hard", "rejected"]


class Verdict(NamedTuple):
    """Why a record is not qualified."""

    outcome: Outcome
    reason: str
    detail: str


def check_record(record: Record) -> Verdict | None:
    """Why the record must be rejected, or None."""
    return _check_conversation(record) or _check_calls(record) or _check_turn(record)


def _check_conversation(record: Record) -> Verdict | None:
    if not record.id:
        return Verdict("rejected", "structure", "id is empty")
    roles = [message.role for message in record.messages]
    if not roles or roles[-1] not in ("user", "tool"):
        return Verdict("rejected", "structure", "messages must end with a user's or a tool's turn")
    if not any(message.role == "user" and message.content.strip() for message in record.messages):
        return Verdict("rejected", "structure", "no user message has any text")
    names = [tool.name for tool in record.tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return Verdict("rejected", "tool_repeated", f"two tools are named {twice!r}")
    return None


def _check_calls(record: Record) -> Verdict | None:
    tools = {tool.name: tool for tool in record.tools}
    for call in record.answers:
        if call.name not in tools:
            return Verdict("rejected", "unknown_tool", f"the gold call {call.name!r} names no offered tool")
        fault = check_arguments(call, tools[call.name])
        if fault:
            reason, _, detail = fault.partition(": ")
            return Verdict("rejected", reason, detail)
    return None


def _check_turn(record: Record) -> Verdict | None:
    """A turn that does not read back as it was written can never earn its reward."""
    if not record.answers:
        return None
    names = ToolNames(record.tools)
    turn = parse_turn(render_turn(record.cot, record.answers, record.response, names).text, names)
    if turn.calls != record.answers:
        return Verdict("rejected", "not_renderable", f"the gold calls do not read back from the turn ({turn.reason})")
    return None


_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)*|[^\W\d_]+")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?(?:%|percent)")
_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_MONTHS = "january february march april may june july august september october november december"
_NUMBER_WORDS = (
    {word: number for number, word in enumerate(_WORDS.split())}
    | {word: number for number, word in enumerate(_MONTHS.split(), 1)}
    | {"once": 1, "twice": 2}
)


def check_grounding(record: Record) -> Verdict | None:
    """Hard when a string or number of the gold arguments stands neither in the conversation nor in the schema.

    The model cannot know such a value. Numbers may be written as words, parts as percentages, months by their names.
    """
    if not record.answers:
        return None
    text = " ".join(_conversation(record)).lower()
    said = _tokens(text)
    said |= {str(_NUMBER_WORDS[word]) for word in said & _NUMBER_WORDS.keys()}
    said |= {_plain(f"{float(number) / 100:.6f}") for number in _PERCENT.findall(text)}
    schemas = {tool.name: tool.parameters.get("properties") or {} for tool in record.tools}
    for call in record.answers:
        for name, value in call.arguments.items():
            for leaf in _leaves(value, schemas[call.name].get(name)):
                if not all(_is_said(token, said) for token in _tokens(leaf.lower())):
                    return Verdict("hard", "ungrounded", f"{call.name}: {name} has {leaf!r}, which nobody mentions")
    return None


def _conversation(record: Record) -> Iterator[str]:
    for message in record.messages:
        yield message.content
        for call in message.tool_calls:
            yield json.dumps(call.arguments, ensure_ascii=False)


def _leaves(value: Any, schema: Any) -> Iterator[str]:
    """Strings and numbers inside `value`, but those that the schema itself offers (enum, default)."""
    if not isinstance(schema, dict):
        schema = {}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (schema.get("properties") or {}).get(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, schema.get("items"))
    elif value is None or isinstance(value, bool) or value in schema.get("enum", ()) or value == schema.get("default"):
        return
    else:
        yield str(value)


def _tokens(text: str) -> set[str]:
    """Words and numbers of a text in lower case, numbers in plain digits: "1,500" and "1500.0" are 1500."""
    return {_plain(token) if token[0].isdigit() else token for token in _TOKEN.findall(text)}


def _plain(number: str) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    if "." in decimals:  # a version or a date: not one number
        return number
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def _is_said(token: str, said: set[str]) -> bool:
    """The word itself, or its singular or plural."""
    return token in said or f"{token}s" in said or (token.endswith("s") and token[:-1] in said)


class Keys(NamedTuple):
    """Hashes of 64 bits, signed, by which records are compared."""

    id: int
    question: int
    answers: int


def keys_of(record: Record) -> Keys:
    """Equal `question`: the same messages and tools, whatever the order of the tools and the white space. Equal
    `answers`: the same calls in any order."""
    messages = [
        [message.role, " ".join(message.content.split()), [_canonical(call) for call in message.tool_calls]]
        for message in record.messages
    ]
    tools = sorted(_canonical(tool) for tool in record.tools)
    answers = sorted(_canonical(call) for call in record.answers)
    return Keys(_digest(record.id), _digest(_dump([messages, tools])), _digest(_dump(answers)))


def _canonical(item: Any) -> str:
    values = {name: getattr(item, name) for name in item.__slots__}
    return _dump(values)


_dump = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _digest(text: str) -> int:
    data = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(data, "big", signed=True)

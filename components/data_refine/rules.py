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

from components.function_calls.parse import parse_calls
from components.function_calls.prompt import ToolNames, render_calls
from components.function_calls.record import Record, record_to_json
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
    calls, reason = parse_calls(render_calls(record.answers, names), names)
    if calls != record.answers:
        return Verdict(
            "rejected", "not_renderable", f"the gold calls do not read back from the model's turn ({reason})"
        )
    return None


_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)*|[^\W\d_]+")
# Tried from a number's first digit alone: from each of them, a long number would take quadratic time.
_PERCENT = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) ?(?:%|percent)")
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

    The model cannot know such a value. Words may differ in case and number, numbers may be written as words, shares as
    percentages, months by their names.
    """
    if not record.answers:
        return None
    text = "\n".join(_conversation(record)).lower()
    said: set[str] | None = None
    schemas = {tool.name: tool.parameters.get("properties") or {} for tool in record.tools}
    for call in record.answers:
        for name, value in call.arguments.items():
            for leaf in _leaves(value, schemas[call.name].get(name)):
                if not _stands_in(leaf.lower(), text):
                    said = _said(text) if said is None else said
                    if not all(_is_said(token, said) for token in _tokens(leaf.lower())):
                        detail = f"{call.name}: {name} has {leaf!r}, which nobody mentions"
                        return Verdict("hard", "ungrounded", detail)
    return None


def _stands_in(leaf: str, text: str) -> bool:
    """Does the leaf stand in the text as it is, as whole words? The quick yes for most."""
    start = text.find(leaf)
    if start < 0 or not leaf:
        return False
    end = start + len(leaf)
    before, after = text[start - 1 : start], text[end : end + 2]
    whole = not (before.isalnum() or after[:1].isalnum())
    return whole and not (before in (".", ",", "-") or (after[:1] in (".", ",") and after[1:].isdigit()))


def _said(text: str) -> set[str]:
    """Everything the text says, as tokens."""
    said = _tokens(text)
    said |= {str(_NUMBER_WORDS[word]) for word in said & _NUMBER_WORDS.keys()}
    return said | {_plain(f"{float(number) / 100:.6f}") for number in _PERCENT.findall(text)}


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
    """Hashes of 64 bits, signed, by which records are compared.

    Equal `question`: the same messages, white space aside, and the same tools in any order. Equal `answers`: the same
    calls in any order.
    """

    id: int
    question: int
    answers: int


def encode(record: Record) -> tuple[str, Keys]:
    """The record as one line of JSON, and its keys; together, because tools are most of a line and both need them."""
    value = record_to_json(record)
    tools = [_dump(tool) for tool in value["tools"]]
    messages = [
        [message.role, *message.content.split(), *(_sorted(call.arguments) + call.name for call in message.tool_calls)]
        for message in record.messages
    ]
    answers = sorted(_sorted(call.arguments) + call.name for call in record.answers)
    rest = {key: value[key] for key in ("answers", "cot", "response", "meta") if key in value}
    head = _dump({key: value[key] for key in ("id", "source", "messages")})
    line = f'{head[:-1]},"tools":[{",".join(tools)}],{_dump(rest)[1:]}'
    question = "\0".join([*(" ".join(message) for message in messages), *sorted(tools)])
    return line, Keys(_digest(record.id), _digest(question), _digest("\0".join(answers)))


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_sorted = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def _digest(text: str) -> int:
    data = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(data, "big", signed=True)

"""The rules a single record must keep, as pure functions, and the keys by which two records are compared.

What needs other records (duplicates) is decided in duplicates.py, what needs the benchmark in overlap.py, whether the
conversation has the arguments in grounding.py. That tools are valid JSON schemas is checked where they are read
(function_calls.formats).
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json

from components.function_calls.arguments import check_arguments
from components.function_calls.judge import judge_gold
from components.function_calls.prompt import ToolNames
from components.function_calls.record import Record, record_to_json

Outcome = Literal["hard", "rejected"]


class Finding(NamedTuple):
    """Why a record is not qualified."""

    outcome: Outcome
    reason: str
    detail: str


def check_record(record: Record) -> Finding | None:
    """Why the record must be rejected, or None."""
    return _check_conversation(record) or _check_calls(record) or _check_turn(record)


def _check_conversation(record: Record) -> Finding | None:
    if not record.id:
        return Finding("rejected", "structure", "id is empty")
    roles = [message.role for message in record.messages]
    if not roles or roles[-1] not in ("user", "tool"):
        return Finding("rejected", "structure", "messages must end with a user's or a tool's turn")
    if not any(message.role == "user" and message.content.strip() for message in record.messages):
        return Finding("rejected", "structure", "no user message has any text")
    names = [tool.name for tool in record.tools]
    if len(set(names)) < len(names):
        (name, count), *_ = Counter(names).most_common(1)
        return Finding("rejected", "tool_repeated", f"{count} tools are named {name!r}")
    return None


def _check_calls(record: Record) -> Finding | None:
    tools = {tool.name: tool for tool in record.tools}
    for call in record.answers:
        if call.name not in tools:
            return Finding("rejected", "unknown_tool", f"the gold call {call.name!r} names no offered tool")
        fault = check_arguments(call, tools[call.name])
        if fault:
            reason, _, detail = fault.partition(": ")
            return Finding("rejected", reason, detail)
    return None


def _check_turn(record: Record) -> Finding | None:
    """A turn that does not read back as it was written can never earn its reward."""
    if record.answers and (fault := judge_gold(record, ToolNames(record.tools))):
        return Finding("rejected", "not_renderable", f"the gold calls do not read back from the model's turn ({fault})")
    return None


def check_response(record: Record) -> Finding | None:
    """Hard when no call is right, and yet the record's own response reads as one, or as the attempt of one."""
    if not record.answers and record.response and (fault := judge_gold(record, ToolNames(record.tools))):
        return Finding("hard", "response_is_a_call", f"no call is right, and the response reads as one ({fault})")
    return None


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
    answers = [_sorted(call.arguments) + call.name for call in record.answers]
    answers.sort()
    rest = {key: value[key] for key in ("answers", "cot", "response", "meta") if key in value}
    head = _dump({key: value[key] for key in ("id", "source", "messages")})
    line = f'{head[:-1]},"tools":[{",".join(tools)}],{_dump(rest)[1:]}'
    question = "\0".join([*(" ".join(message) for message in messages), *sorted(tools)])
    return line, Keys(_digest(record.id), _digest(question), _digest("\0".join(answers)))


_sort = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def _dump(value: Any) -> str:
    return to_json(value).decode()  # four times as fast as json, which can sort


def _sorted(arguments: dict[str, Any]) -> str:
    """One text for equal arguments, whatever their order."""
    if any(isinstance(value, dict | list) for value in arguments.values()):
        return _sort(arguments)
    return _dump(dict(sorted(arguments.items())))


def _digest(text: str) -> int:
    data = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(data, "big", signed=True)

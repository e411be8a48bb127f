"""Record files read as a stream: own JSONL and the raw layout of xlam-function-calling-60k, gzip or plain.

Memory does not grow with the file. A bad record is handed back as `Rejected`, with its line and reason; a file that
cannot be read on raises FormatError after everything before the fault was handed out. Does not judge records beyond
their structure (components/data_refine does) and does not open paths (components/services/storage.py does).
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from math import isfinite
from typing import Any, BinaryIO, Literal

from components.function_calls.record import Call, Record, RecordError, Tool, record_from_json
from components.function_calls.tool_schema import normalise_tool

DataFormat = Literal["auto", "callforge", "xlam"]
MAX_RECORD_BYTES = 16 * 2**20
MAX_NESTING = 100  # brackets within brackets: later steps walk records recursively, some with little stack left
UNKNOWN_LAYOUT = "unknown_layout"
KEPT_OF_RAW = 2_000  # characters of a rejected line that are kept
_CHUNK = 2**16
_HEAD = 64  # bytes that show a binary file


class FormatError(ValueError):
    """A file that cannot be read on: broken gzip, no text, no known layout. The text names the file and the line."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line (or element of a JSON array) that is no record: where it starts, why, and how it begins."""

    line: int
    reason: str
    detail: str
    raw: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """The bytes of one line or element; `fault` is a reason for rejecting it unread."""

    line: int
    data: bytes
    fault: str = ""


def read_records(stream: BinaryIO, name: str, data_format: DataFormat = "auto") -> Iterator[Record | Rejected]:
    """Records of a JSONL file or a JSON array, in their order; `name` stands for the file in errors.

    Raises:
        FormatError: see the class. What was read before is handed out first.
    """
    return (item for _, item in numbered_records(stream, name, data_format))


def numbered_records(
    stream: BinaryIO, name: str, data_format: DataFormat = "auto"
) -> Iterator[tuple[int, Record | Rejected]]:
    """What `read_records` gives, each with the line it starts in."""
    unknown = ""
    for number, piece in enumerate(_with_line(_lines_or_elements(_chunks(stream, name), name), name), 1):
        try:
            value = _parse(piece)
            if data_format == "auto":
                data_format = detect_format(value)
            record = _xlam_record(value, number) if data_format == "xlam" else record_from_json(_normalised(value))
            yield piece.line, record
        except RecordError as error:
            if error.reason == UNKNOWN_LAYOUT and not unknown:
                unknown = f"{name}, line {piece.line}: {error.detail}"
            raw = piece.data[: 4 * KEPT_OF_RAW].decode("utf-8", "backslashreplace")[:KEPT_OF_RAW]
            yield piece.line, Rejected(piece.line, error.reason, error.detail, raw)
    if unknown and data_format == "auto":
        raise FormatError(unknown)


def detect_format(value: Mapping[str, Any]) -> Literal["callforge", "xlam"]:
    """The layout of a parsed record.

    Raises:
        RecordError: "unknown_layout".
    """
    if "messages" in value:
        return "callforge"
    if {"query", "answers", "tools"} <= value.keys():
        return "xlam"
    fields = ", ".join(list(value)[:10]) or "none"
    raise RecordError(
        UNKNOWN_LAYOUT,
        f"unknown record layout with the fields {fields}. Known are callforge (messages, tools, answers) and "
        "xlam (query, tools, answers).",
    )


def _xlam_record(value: dict[str, Any], number: int) -> Record:
    """xLAM's {id, query, answers, tools}; answers and tools are strings that hold JSON, or lists in some mirrors.

    Mirrors without ids are numbered by the records' places (an array may have all its elements in one line).

    The layout marks no parameter as required. What has no default is, unless a gold call does without it: the gold
    calls were executed, the descriptions were not.
    """
    fields = {key: item for key, item in value.items() if key != "query"}
    fields["id"] = f"xlam-{number if value.get('id') is None else value['id']}"
    fields["source"] = "xlam"
    fields["messages"] = [{"role": "user", "content": value.get("query")}]
    for key in ("answers", "tools"):
        if isinstance(value.get(key), str):
            fields[key] = _json(value[key], f"{key}: ")
    record = record_from_json(_normalised(fields))
    return replace(record, tools=tuple(_as_called(tool, record.answers) for tool in record.tools))


def _as_called(tool: Tool, answers: tuple[Call, ...]) -> Tool:
    required = tool.parameters.get("required", [])
    given = [name for name in required if all(name in call.arguments for call in answers if call.name == tool.name)]
    return tool if given == required else replace(tool, parameters=tool.parameters | {"required": given})


def _normalised(value: dict[str, Any]) -> dict[str, Any]:
    tools = value.get("tools")
    if not isinstance(tools, list):
        raise RecordError("structure", "tools: a list is wanted" if "tools" in value else "tools: is missing")
    plain = [normalise_tool(tool) for tool in tools]
    return value | {"tools": plain}


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _no_number(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
_NO_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^"\[\]{}]++|"', re.DOTALL)


def _nesting(text: str) -> int:
    """The greatest depth of brackets within brackets; no more than their number, where that is enough to know."""
    opening = text.count("[") + text.count("{")
    if opening <= MAX_NESTING:
        return opening
    return max(accumulate(1 if mark in "[{" else -1 for mark in _NO_BRACKETS.sub("", text)), default=0)


def _parse(piece: _Piece) -> dict[str, Any]:
    if piece.fault:
        raise RecordError(piece.fault, f"{MAX_RECORD_BYTES:,} bytes is the longest record")
    try:
        text = piece.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("encoding", f"no UTF-8 text: {error.reason}") from None
    value = _json(text)
    if not isinstance(value, dict):
        raise RecordError("structure", f"a record is a JSON object, this is {type(value).__name__}")
    return value


def _json(text: str, where: str = "") -> Any:
    if _nesting(text) > MAX_NESTING:
        raise RecordError("too_deep", f"{where}nested deeper than {MAX_NESTING} brackets")
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:  # escapes may spell half a surrogate pair, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("encoding", f"{where}no UTF-8 text: {error.reason}") from None
    except ValueError as error:
        raise RecordError("not_json", f"{where}{error}") from None
    return value


def _chunks(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The file's text as bytes, unpacked where it starts with gzip's magic bytes, without a byte order mark.

    Raises:
        FormatError: a binary file.
        _BrokenGzipError: broken gzip.
    """
    head, rest = _head(_raw(stream))
    if head.startswith(b"\x1f\x8b"):
        head, rest = _head(_unpacked(chain([head], rest)))
    if b"\0" in head[:_HEAD]:  # further on it spoils one line, which is rejected
        raise FormatError(f"{name}: a binary file; JSON lines or a JSON array is wanted, gzip allowed")
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from rest


def _raw(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(_CHUNK), b"")


def _head(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough to see what they are, and the rest."""
    head = _at_least(4, chunks)
    return head, chunks


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    data = next(chunks)
    while data:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not data:
                raise _BrokenGzipError("it ends in the middle")
            try:
                unpacked = member.decompress(data, _CHUNK)
            except zlib.error as error:
                raise _BrokenGzipError(str(error)) from None
            if unpacked:
                yield unpacked
            data = member.unconsumed_tail or (b"" if member.eof else next(chunks, b""))
        data = member.unused_data
        while not (data := data.lstrip(b"\0")) and (more := next(chunks, b"")):  # files are padded with zeros at times
            data = more


class _BrokenGzipError(Exception):
    """Gzip data that ends or breaks; becomes a FormatError where the line is known."""


def _with_line(pieces: Iterator[_Piece], name: str) -> Iterator[_Piece]:
    line = 0
    try:
        for piece in pieces:
            line = piece.line
            yield piece
    except _BrokenGzipError as error:
        raise FormatError(f"{name}: broken gzip after line {line}: {error}") from None


def _lines_or_elements(chunks: Iterator[bytes], name: str) -> Iterator[_Piece]:
    line = 1
    for head in chunks:
        if head.strip():
            break
        line += head.count(b"\n")
    else:
        return
    rest = chain([head], chunks)
    first, _, more = head.lstrip().partition(b"\n")
    if not first.startswith(b"[") or (more.strip() and _is_json(first)):  # a whole array and more: a line like others
        yield from _lines(rest, line)
    else:
        yield from _elements(rest, line, name)


def _is_json(line: bytes) -> bool:
    try:
        _json(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _lines(chunks: Iterator[bytes], number: int) -> Iterator[_Piece]:
    size = 0
    parts: list[bytes] = []  # of the line that is not complete yet
    for chunk in chunks:
        *complete, tail = chunk.split(b"\n")
        for end in complete:
            yield from _line(number, [*parts, end], size + len(end))
            number, size, parts = number + 1, 0, []
        size += len(tail)
        if size <= MAX_RECORD_BYTES:
            parts.append(tail)
    yield from _line(number, parts, size)


def _line(number: int, parts: list[bytes], size: int) -> Iterator[_Piece]:
    data = b"".join(parts).strip()
    if data or size > MAX_RECORD_BYTES:
        yield _Piece(number, data, "too_long" if size > MAX_RECORD_BYTES else "")


# Everything that cannot end an element, whole strings included; a string cut off by the end of the data is left.
_STRING = rb'"(?:[^"\\]+|\\.)*+"'
_INSIDE = re.compile(rb'(?:[^"\[\]{}]+|' + _STRING + rb")*+", re.DOTALL)
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]+|' + _STRING + rb")*+", re.DOTALL)


def _elements(chunks: Iterator[bytes], line: int, name: str) -> Iterator[_Piece]:
    """The elements of one JSON array, told apart by brackets and strings alone: one with bad JSON spoils no other."""
    data = next(chunks)
    start = scan = data.index(b"[") + 1  # of the element being read
    line += data[:start].count(b"\n")
    depth = 0
    while True:
        scan = (_INSIDE if depth else _BETWEEN).match(data, scan).end()  # type: ignore[union-attr]
        mark = data[scan : scan + 1]
        if mark in (b"", b'"'):
            data, scan = data[start:], scan - start
            start = 0
            if len(data) > MAX_RECORD_BYTES:
                raise FormatError(
                    f"{name}: the element that starts on line {line + _blank_lines(data)} is longer than "
                    f"{MAX_RECORD_BYTES:,} bytes; a quote or a bracket may be missing"
                )
            more = _at_least(len(data), chunks)  # as much again: a string across chunks is rescanned a few times only
            if not more:
                where = line + _blank_lines(data)
                raise FormatError(f"{name}: the JSON array ends in the element that starts on line {where}")
            data += more
            continue
        scan += 1
        if mark in b"[{":
            depth += 1
        elif depth and mark in b"]}":
            depth -= 1
        elif mark in b",]":
            element = data[start : scan - 1]
            text = element.strip()
            if text:
                yield _Piece(line + _blank_lines(element), text)
            line += element.count(b"\n")
            start = scan
            if mark == b"]":
                break
    if data[scan:].strip() or any(chunk.strip() for chunk in chunks):
        raise FormatError(f"{name}, line {line}: text after the end of the JSON array")


def _blank_lines(data: bytes) -> int:
    return data[: len(data) - len(data.lstrip())].count(b"\n")


def _at_least(size: int, chunks: Iterator[bytes]) -> bytes:
    """The next chunks, joined until they have `size` bytes or end."""
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        if held >= size:
            break
    return b"".join(parts)

"""The bytes of a record file as lines, or as the elements of one JSON array; gzip is unpacked on the way.

Memory does not grow with the file, whatever is in it, and a file that unpacks without end is abandoned at a limit. Does
not read JSON (reader.py does).
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from components.function_calls.json_text import MAX_RECORD_BYTES, parse_json

_CHUNK = 2**16
_HEAD = 64  # bytes that show a binary file
_MAX_ELEMENT_BYTES = 16 * MAX_RECORD_BYTES  # a longer element is more likely a file that broke in its middle


class FormatError(ValueError):
    """A file that cannot be read further: broken gzip, not text, no known layout, over a limit. Names file and line."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file is read at most: a few kilobytes of gzip can unpack to terabytes."""

    lines: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of one line or element; `fault` is a reason for rejecting it unread."""

    line: int
    data: bytes
    fault: str = ""


def lines_or_elements(stream: BinaryIO, name: str, limits: Limits | None) -> Iterator[Piece]:
    """The file's lines that are not blank, or the elements where the whole file is one JSON array.

    Raises:
        FormatError: see the class. What was read before is handed out first.
    """
    line = 0
    try:
        for number, piece in enumerate(_pieces(_chunks(stream, name, limits), name), 1):
            line = piece.line
            if limits is not None and number > limits.lines:
                raise _TooLongError(f"it has more than {limits.lines:,} records")
            yield piece
    except _BrokenGzipError as error:
        raise FormatError(f"{name}: broken gzip after line {line}: {error}") from None
    except _TooLongError as error:
        raise FormatError(f"{name}: {error} (after line {line})") from None


class _BrokenGzipError(Exception):
    """Gzip data that ends or breaks; becomes a FormatError where the line is known."""


class _TooLongError(Exception):
    """A limit that is passed, likewise."""


def _chunks(stream: BinaryIO, name: str, limits: Limits | None) -> Iterator[bytes]:
    """The file's text as bytes, unpacked where it starts with gzip's magic bytes, without a byte order mark.

    Raises:
        FormatError: a binary file.
        _BrokenGzipError: broken gzip.
        _TooLongError: more than the limits allow.
    """
    head, rest = _head(_raw(stream))
    if head.startswith(b"\x1f\x8b"):
        head, rest = _head(_unpacked(chain([head], rest)))
    if b"\0" in head[:_HEAD]:  # further on it spoils one line, which is rejected
        raise FormatError(f"{name}: a binary file; JSON lines or a JSON array is expected, gzip allowed")
    head = head.removeprefix(codecs.BOM_UTF8)
    yield from chain([head], rest) if limits is None else _limited(chain([head], rest), limits)


def _limited(chunks: Iterator[bytes], limits: Limits) -> Iterator[bytes]:
    size = lines = 0
    for chunk in chunks:
        size += len(chunk)
        lines += chunk.count(b"\n")
        if size > limits.unpacked_bytes:
            raise _TooLongError(f"it is longer than {limits.unpacked_bytes:,} bytes, unpacked")
        if lines > limits.lines:
            raise _TooLongError(f"it has more than {limits.lines:,} lines")
        yield chunk


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


def _pieces(chunks: Iterator[bytes], name: str) -> Iterator[Piece]:
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
        parse_json(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _lines(chunks: Iterator[bytes], number: int) -> Iterator[Piece]:
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


def _line(number: int, parts: list[bytes], size: int) -> Iterator[Piece]:
    data = b"".join(parts).strip()
    if data or size > MAX_RECORD_BYTES:
        yield Piece(number, data, "too_long" if size > MAX_RECORD_BYTES else "")


# Everything that cannot end an element, whole strings included; a string cut off by the end of the data is left.
_STRING = rb'"(?:[^"\\]+|\\.)*+"'
_INSIDE = re.compile(rb'(?:[^"\[\]{}]+|' + _STRING + rb")*+", re.DOTALL)
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]+|' + _STRING + rb")*+", re.DOTALL)


def _elements(chunks: Iterator[bytes], line: int, name: str) -> Iterator[Piece]:
    """The elements of one JSON array, told apart only by brackets and strings: one with bad JSON spoils no other."""
    data = next(chunks)
    start = scan = data.index(b"[") + 1  # of the element being read
    line += data[:start].count(b"\n")
    depth = 0
    while True:
        scan = (_INSIDE if depth else _BETWEEN).match(data, scan).end()  # type: ignore[union-attr]  # both match nothing, too
        mark = data[scan : scan + 1]
        if mark in (b"", b'"'):
            data, scan = data[start:], scan - start
            start = 0
            if len(data) > _MAX_ELEMENT_BYTES:
                raise FormatError(
                    f"{name}: the element that starts on line {line + _blank_lines(data)} is longer than "
                    f"{_MAX_ELEMENT_BYTES:,} bytes; a quote or a bracket may be missing"
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
                yield Piece(line + _blank_lines(element), text, "too_long" if len(text) > MAX_RECORD_BYTES else "")
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

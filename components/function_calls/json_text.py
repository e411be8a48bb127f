"""JSON read with bounds on size and depth, so that no text takes unbounded memory, time or stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate, islice
from math import isfinite
from typing import Any

from components.function_calls.record import RecordError

MAX_RECORD_BYTES = 2**20  # four times the longest prompt that models of today take
MAX_NESTING = 100  # brackets within brackets: later steps walk records recursively, some with little stack left
MAX_VALUES = 50_000  # in one record; each takes a hundred bytes of memory, and a step of every check


def parse_json(text: str, where: str = "") -> Any:
    """The value of a JSON text.

    Args:
        where: a prefix of the error's text, such as "answers: ".

    Raises:
        RecordError: "too_long", "too_deep", "too_many_values", "not_json", or "encoding" (half a surrogate pair).
    """
    check_size(text, where)
    return _read(text, where, _DECODER.decode)


def embedded_json(text: str, opening: re.Pattern[str], where: str = "", most: int | None = None) -> list[Any]:
    """The JSON values inside a text that begin as `opening` does, one after the other, `most` of them at most.

    Raises:
        RecordError: as `parse_json` does.
    """
    check_size(text, where)
    return list(_read(text, where, lambda whole: list(islice(_embedded(whole, opening), most))))


def _embedded(text: str, opening: re.Pattern[str]) -> Iterator[Any]:
    end = 0
    while found := opening.search(text, end):
        value, end = _DECODER.raw_decode(text, found.start())
        yield value


def check_text(value: Any, where: str = "") -> None:
    """Refuse a value in which an escape spelt half a surrogate pair, which is not text and no tokenizer takes.

    Raises:
        RecordError: "encoding".
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError("encoding", f"{where}no UTF-8 text: {error.reason}") from None


def check_size(text: str, where: str = "") -> None:
    """Refuse a JSON text that is too long, too deep or of too many values, before it is read.

    Raises:
        RecordError: "too_long", "too_deep", "too_many_values".
    """
    if len(text) > MAX_RECORD_BYTES or (not text.isascii() and len(text.encode("utf-8", "replace")) > MAX_RECORD_BYTES):
        raise RecordError("too_long", f"{where}{MAX_RECORD_BYTES:,} bytes is the longest record")
    opening = text.count("[") + text.count("{")
    if opening <= MAX_NESTING and (len(text) <= 2 * MAX_VALUES or text.count(",") <= MAX_VALUES):
        return
    marks = _NO_MARKS.sub("", text)
    if max(accumulate(map(_STEP.__getitem__, marks.replace(",", ""))), default=0) > MAX_NESTING:
        raise RecordError("too_deep", f"{where}nested deeper than {MAX_NESTING} brackets")
    if len(marks) - marks.count("]") - marks.count("}") > MAX_VALUES:
        raise RecordError("too_many_values", f"{where}more than {MAX_VALUES:,} values")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _no_number(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
# Strings, and what is neither bracket nor comma; a quote that no other one closes.
_NO_MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[^"\[\]{},]++|"', re.DOTALL)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


def _read(text: str, where: str, decode: Any) -> Any:
    try:
        value = decode(text)
    except ValueError as error:
        raise RecordError("not_json", f"{where}{error}") from None
    if "\\u" in text:
        check_text(value, where)
    return value

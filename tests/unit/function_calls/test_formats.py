"""Readers: nothing is lost, nothing stops at a bad record, memory does not follow the file."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.function_calls.formats.layouts import layout_of
from components.function_calls.formats.lines import FormatError
from components.function_calls.formats.reader import Rejected, read_records
from components.function_calls.json_text import MAX_NESTING, MAX_RECORD_BYTES
from components.function_calls.record import Call, Message, Record, RecordError, Tool, record_to_json

XLAM = {
    "id": 7,
    "query": "Rome?",
    "answers": json.dumps([{"name": "get weather", "arguments": {"city": "Rome"}}]),
    "tools": json.dumps(
        [
            {
                "name": "get weather",
                "description": "Weather.",
                "parameters": {
                    "city": {"description": "The city", "type": "str", "default": ""},
                    "days": {"description": "Days", "type": "int, optional", "default": "1"},
                    "unit": {"description": "C or F", "type": "str", "default": ""},
                },
            }
        ]
    ),
}
XLAM_RECORD = Record(
    id="xlam-7",
    source="xlam",
    messages=(Message("user", "Rome?"),),
    tools=(
        Tool(
            "get weather",
            "Weather.",
            {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city"},
                    "days": {"type": "integer", "description": "Days", "default": 1},
                    "unit": {"type": "string", "description": "C or F"},
                },
                "required": ["city"],  # the gold call does without `unit`
            },
        ),
    ),
    answers=(Call("get weather", {"city": "Rome"}),),
)


class Dripping(io.RawIOBase):
    """A stream that gives `size` bytes at a time, as a slow connection does."""

    def __init__(self, data: bytes, size: int) -> None:
        self.rest, self.size = memoryview(data), size

    def read(self, size: int = -1) -> bytes:
        taken, self.rest = self.rest[: self.size], self.rest[self.size :]
        return bytes(taken)


class Endless(io.RawIOBase):
    """A stream made on the way, never whole in memory."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts

    def read(self, size: int = -1) -> bytes:
        return next(self.parts, b"")


def read(data: bytes, data_format: Any = "auto") -> list[Record | Rejected]:
    return list(read_records(io.BytesIO(data), "data", data_format))


def lines(records: list[Record]) -> bytes:
    return b"".join(json.dumps(record_to_json(record), ensure_ascii=False).encode() + b"\n" for record in records)


def test_own_records_come_back_equal(make_records: Callable[[int], list[Record]]) -> None:
    records = make_records(20)
    assert read(lines(records)) == records
    assert read(gzip.compress(lines(records))) == records
    assert read(lines(records), "callforge") == records


def test_what_the_contract_does_not_name_moves_into_meta(make_records: Callable[[int], list[Record]]) -> None:
    value = record_to_json(make_records(1)[0]) | {"grounded": True, "meta": {"page": 3}}
    (record,) = read(json.dumps(value).encode())
    assert isinstance(record, Record)
    assert record.meta == {"grounded": True, "page": 3}


@pytest.mark.parametrize("data_format", ["auto", "xlam"])
def test_xlam_records_in_every_container(data_format: str) -> None:
    line = json.dumps(XLAM).encode()
    parsed = json.dumps(XLAM | {key: json.loads(str(XLAM[key])) for key in ("answers", "tools")}).encode()
    for data in (
        line,
        line + b"\n",
        parsed,
        b"\xef\xbb\xbf" + line,
        b"[" + line + b"]",
        b" \n[\n  " + line + b"\n]\n",
        json.dumps([json.loads(parsed)], indent=2).encode(),
        gzip.compress(b"[" + line + b"]"),
        gzip.compress(b"\xef\xbb\xbf" + line),
    ):
        assert read(data, data_format) == [XLAM_RECORD]
    for data in (
        line + b"\r\n\r\n" + line,
        b"[" + line + b",\n" + line + b"]",
        gzip.compress(line + b"\n") + gzip.compress(line) + b"\0" * 512,
    ):
        assert read(data, data_format) == [XLAM_RECORD] * 2


def test_empty_files_hold_no_records() -> None:
    for data in (b"", b"\n \n", b"[]", b" [ ] ", gzip.compress(b"")):
        assert read(data) == []


BAD_LINES = [
    (b'{"id": "x"', "not_json"),
    (b"plain words", "not_json"),
    (b'{"id": NaN}', "not_json"),
    (b'{"id": 1e999}', "not_json"),
    (b'{"id": ' + b"9" * 5000 + b"}", "not_json"),
    (b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    (b'{"id": ' + b'{"a":[' * 50 + b"]}" * 50 + b"}", "too_deep"),
    (b'"a string"', "structure"),
    (b"null", "structure"),
    (b'{"messages": []}', "structure"),
    (b'{"messages": [], "tools": {}, "answers": []}', "structure"),
    (b'{"messages": [{"role": "robot"}], "tools": [], "answers": [], "id": "a", "source": "b"}', "structure"),
    (b'{"messages": [], "tools": [{"name": ""}], "answers": [], "id": "a", "source": "b"}', "tool_name"),
    (b'{"messages": [], "tools": [{"name": "f", "parameters": 5}], "answers": []}', "tool_schema"),
    (b'{"messages": "\xff\xfe"}', "encoding"),
    (b'{"messages": "\\ud800"}', "encoding"),
]


def test_a_bad_line_is_handed_back_with_its_number_and_reason(make_records: Callable[[int], list[Record]]) -> None:
    good = lines(make_records(1)).strip()
    data = b"\n".join(part for bad, _ in BAD_LINES for part in (good, bad))
    found = read(data)
    assert found[::2] == make_records(1) * len(BAD_LINES)
    rejected = [item for item in found[1::2] if isinstance(item, Rejected)]
    assert [item.reason for item in rejected] == [reason for _, reason in BAD_LINES]
    assert [item.line for item in rejected] == list(range(2, 2 * len(BAD_LINES) + 1, 2))
    assert rejected[0].raw == '{"id": "x"'
    assert all(item.detail and len(item.raw) <= 2000 for item in rejected)


def test_a_bad_element_of_an_array_spoils_no_other() -> None:
    good = json.dumps(XLAM).encode()
    for bad in (b'{"id": }', b'{"a" "b"}', b"17", b"null", b'"],[{"', b"{'a': 1}", b"[[1], {}]", b"}", b"{\\}"):
        found = read(b"[" + good + b",\n" + bad + b",\n\n" + good + b"]")
        assert [type(item) for item in found] == [Record, Rejected, Record], bad
        assert isinstance(found[1], Rejected)
        assert (found[1].line, found[1].raw) == (2, bad.decode())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("answers", "[{", "not_json"),
        ("answers", '{"name": "f"}', "structure"),
        ("answers", '[{"name": "f", "arguments": "x"}]', "not_json"),
        ("answers", '[{"name": "f", "arguments": "[]"}]', "structure"),
        ("answers", "[NaN]", "not_json"),
        ("answers", "[" * 200 + "]" * 200, "too_deep"),
        ("tools", '"f"', "structure"),
        ("tools", '[{"description": "d"}]', "tool_name"),
        ("tools", None, "structure"),
        ("query", None, "structure"),
        ("query", "\ud800", "encoding"),
        ("answers", '[{"name": "f", "arguments": {"a": "\\ud800"}}]', "encoding"),
    ],
)
def test_bad_xlam_fields(key: str, value: Any, reason: str) -> None:
    (item,) = read(json.dumps(XLAM | {key: value}).encode())
    assert isinstance(item, Rejected)
    assert item.reason == reason


elements = st.lists(
    st.sampled_from(
        [
            b'{"a": "x, ]}\\"["}',
            b"{}",
            b'{"b": [1, {"c": 2}]}',
            b'"\\\\"',
            b" 5 ",
            b"\n{\n}\n",
            b'"\xc3\xa9"',
            b'{"d": "' + b"y" * 90 + b'"}',
        ]
    ),
    max_size=6,
)


@given(elements, st.integers(1, 9))
def test_elements_do_not_depend_on_how_the_bytes_arrive(parts: list[bytes], size: int) -> None:
    def seen(stream: Any) -> list[tuple[int, str]]:
        return [(item.line, item.raw) for item in read_records(stream, "data", "xlam") if isinstance(item, Rejected)]

    array = b"[" + b",".join(parts) + b"]"
    assert [raw for _, raw in seen(io.BytesIO(array))] == [part.strip().decode() for part in parts]
    assert seen(Dripping(array, size)) == seen(io.BytesIO(array))
    rows = b"\n".join(part.replace(b"\n", b"") for part in parts)
    assert seen(Dripping(rows, size)) == seen(io.BytesIO(rows))
    assert seen(Dripping(gzip.compress(array), size)) == seen(io.BytesIO(array))


def until_error(data: bytes) -> tuple[int, str]:
    """Records read before the file broke, and what the error says."""
    count = 0
    with pytest.raises(FormatError) as error:
        for item in read_records(io.BytesIO(data), "data.gz"):
            count += isinstance(item, Record)
    return count, str(error.value)


def test_a_broken_gzip_keeps_what_was_read(make_records: Callable[[int], list[Record]]) -> None:
    whole = gzip.compress(lines(make_records(3000)))
    count, message = until_error(whole[: len(whole) // 2])
    assert 1000 < count < 2000
    assert message == f"data.gz: broken gzip after line {count}: it ends in the middle"
    count, message = until_error(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 :])
    assert count > 1000  # what follows the fault unpacks to rubbish, which is rejected, until the checksum tells
    assert "incorrect data check" in message
    count, message = until_error(whole[:-8] + bytes(8))
    assert count > 2800  # all but the last chunk
    assert "incorrect data check" in message
    count, message = until_error(whole + b"rubbish")
    assert count > 2800


def test_a_broken_array_keeps_what_was_read() -> None:
    good = json.dumps(XLAM).encode()
    for data, message in (
        (b"[" + good + b",\n" + good[:50], "data.gz: the JSON array ends in the element that starts on line 2"),
        (b"[\n" + good + b"]\n" + good, "data.gz, line 2: text after the end of the JSON array"),
    ):
        assert until_error(data) == (1, message)


def test_unknown_layouts_are_refused() -> None:
    with pytest.raises(FormatError, match=r"data, line 2: unknown record layout with the fields question, answer"):
        read(b'\n{"question": 1, "answer": 2}\n{"other": 1}')
    with pytest.raises(FormatError, match="binary file"):
        read(b"PAR1\0\0\0\0")
    with pytest.raises(FormatError, match="binary file"):
        read(gzip.compress(b"PK\3\4\0\0"))
    with pytest.raises(RecordError, match="unknown_layout"):
        layout_of({})
    assert layout_of({"messages": [], "query": "", "answers": "", "tools": ""}) == "callforge"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"rubbish", "not_json"),
        (b"{}", "unknown_layout"),
        (b'{"id": "x", "tools": []}', "unknown_layout"),
        (b"[1]", "structure"),
        (b" [] ", "structure"),
    ],
)
def test_the_layout_is_that_of_the_first_line_that_has_one(line: bytes, reason: str) -> None:
    first, second = read(b"\n" + line + b"\n" + json.dumps(XLAM).encode())
    assert isinstance(first, Rejected)
    assert (first.line, first.reason, first.raw) == (2, reason, line.decode().strip())
    assert second == XLAM_RECORD


def test_xlam_records_without_ids_are_numbered() -> None:
    line = json.dumps({key: value for key, value in XLAM.items() if key != "id"}).encode()
    for data in (line + b"\n\n" + line, b"[" + line + b"," + line + b"]"):
        assert [item.id for item in read(data) if isinstance(item, Record)] == ["xlam-1", "xlam-2"]


@pytest.mark.parametrize("blank", [b" ", b"\n", b" \r\n\t"])
def test_leading_blanks_are_counted_and_not_kept(blank: bytes) -> None:
    size = 2**25 // len(blank)
    for data, end in ((json.dumps(XLAM).encode(), b"\n{}"), (b"[" + json.dumps(XLAM).encode(), b",\n{}]")):
        file = blank * size + data + end
        tracemalloc.start()
        good, bad = read(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**22
        assert good == XLAM_RECORD
        assert isinstance(bad, Rejected)
        assert bad.line == 2 + size * blank.count(b"\n")


def test_the_deepest_record_is_read() -> None:
    nested: Any = {"deep": ["[" * 200]}
    for _ in range((MAX_NESTING - 4) // 2):
        nested = {"deep": [nested]}
    (record,) = read(json.dumps(XLAM | {"nested": nested}).encode())
    assert isinstance(record, Record)
    assert record.meta == {"nested": nested}


def test_memory_does_not_follow_the_file() -> None:
    element = json.dumps(XLAM | {"query": "x" * 10_000}).encode()
    number = 1000  # 10 MB

    def parts() -> Iterator[bytes]:
        yield b"["
        for index in range(number):
            yield element + (b"," if index < number - 1 else b"]")

    tracemalloc.start()
    assert sum(1 for _ in read_records(Endless(parts()), "data", "xlam")) == number
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e6


def test_a_line_without_end_is_rejected_in_bounded_memory() -> None:
    good = json.dumps(XLAM).encode()

    def parts() -> Iterator[bytes]:
        yield good + b"\n"
        for _ in range(5 * MAX_RECORD_BYTES // 2**20):
            yield b"x" * 2**20
        yield b"\n" + good

    tracemalloc.start()
    first, bad, last = read_records(Endless(parts()), "data", "xlam")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first, last) == (XLAM_RECORD, XLAM_RECORD)
    assert isinstance(bad, Rejected)
    assert (bad.line, bad.reason, bad.raw[:3]) == (2, "too_long", "xxx")
    assert peak < 4 * MAX_RECORD_BYTES


def test_an_element_without_end_is_named() -> None:
    def parts() -> Iterator[bytes]:
        yield b'[\n{"id": 1},\n{"id": "'
        for _ in range(17 * MAX_RECORD_BYTES // 2**20):
            yield b"x" * 2**20

    with pytest.raises(FormatError, match="starts on line 3 is longer than"):
        list(read_records(Endless(parts()), "data", "xlam"))

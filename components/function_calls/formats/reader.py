"""Record files read as a stream: every layout of layouts.py, JSON lines or a JSON array, gzip or plain.

Memory does not grow with the file. A bad record is handed back as `Rejected`, with its line and reason; a file that
cannot be read further raises FormatError after everything before the fault was handed out. Does not judge records
beyond their structure (components/data_refine does) and does not open paths (components/services/storage.py does).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from components.function_calls.formats.layouts import UNKNOWN_LAYOUT, layout_of, read_as
from components.function_calls.formats.lines import FormatError, Limits, Piece, lines_or_elements
from components.function_calls.json_text import MAX_RECORD_BYTES, parse_json
from components.function_calls.record import Record, RecordError
from components.function_calls.work import limited_work

AUTO = "auto"
KEPT_OF_RAW = 2_000  # characters of a rejected line that are kept


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line (or element of a JSON array) that holds no record: where it starts, why, and how it begins."""

    line: int
    reason: str
    detail: str
    raw: str


def read_records(
    stream: BinaryIO, name: str, data_format: str = AUTO, limits: Limits | None = None
) -> Iterator[Record | Rejected]:
    """Records of a JSONL file or a JSON array, in their order; a dialogue gives one for each of its turns.

    Args:
        name: stands for the file in errors.
        data_format: a name of LAYOUTS, or "auto": each record is read by the layout that its fields show.

    Raises:
        FormatError: see the class. What was read before is handed out first.
    """
    return (item for _, item in numbered_records(stream, name, data_format, limits))


def numbered_records(
    stream: BinaryIO, name: str, data_format: str = AUTO, limits: Limits | None = None
) -> Iterator[tuple[int, Record | Rejected]]:
    """What `read_records` gives, each with the line it starts in."""
    unknown = ""
    any_known = data_format != AUTO
    for number, piece in enumerate(lines_or_elements(stream, name, limits), 1):
        try:
            value = _parse(piece)
            layout = layout_of(value) if data_format == AUTO else data_format
            any_known = True
            with limited_work():
                records = read_as(layout, value, number)
        except RecordError as error:
            if error.reason == UNKNOWN_LAYOUT and not unknown:
                unknown = f"{name}, line {piece.line}: {error.detail}"
            raw = piece.data[: 4 * KEPT_OF_RAW].decode("utf-8", "backslashreplace")[:KEPT_OF_RAW]
            yield piece.line, Rejected(piece.line, error.reason, error.detail, raw)
        else:
            for record in records:
                yield piece.line, record
    if unknown and not any_known:
        raise FormatError(unknown)


def _parse(piece: Piece) -> dict[str, Any]:
    if piece.fault:
        raise RecordError(piece.fault, f"{MAX_RECORD_BYTES:,} bytes is the longest record")
    try:
        text = piece.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("encoding", f"no UTF-8 text: {error.reason}") from None
    value = parse_json(text)
    if not isinstance(value, dict):
        raise RecordError("structure", f"a record is a JSON object, this is {type(value).__name__}")
    return value

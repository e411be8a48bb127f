"""The records that refinement left, as later stages read them."""

from __future__ import annotations

from pathlib import Path

from components.errors import InputError
from components.function_calls.formats.lines import FormatError
from components.function_calls.formats.reader import Rejected, read_records
from components.function_calls.record import Record
from components.services.progress import track
from components.services.storage import open_uri

QUALIFIED, HELD_OUT = "qualified.jsonl.gz", "held_out.jsonl.gz"


def read_refined(path: Path, name: str = QUALIFIED) -> list[Record]:
    """The records of the file `name` in a refinement's folder, or of one file in callforge's format.

    Raises:
        InputError: no such file, or a line of it that is not a record.
    """
    file = path / name if path.is_dir() else path
    records = []
    try:
        with open_uri(str(file)) as stream:
            for item in track(read_records(stream, str(file), "callforge"), "read records", "records"):
                if isinstance(item, Rejected):
                    raise InputError(
                        f"{file}, line {item.line}: {item.reason}: {item.detail}; run data_refine on it first, which "
                        "sets bad records aside"
                    )
                records.append(item)
    except FormatError as error:
        raise InputError(str(error)) from None
    return records

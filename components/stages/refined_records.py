"""The records that refinement left, as later stages read them, and records of one's own that a person names."""

from __future__ import annotations

from pathlib import Path

from components.errors import InputError
from components.files import expand_home, is_folder
from components.function_calls.formats.lines import FormatError
from components.function_calls.formats.reader import AUTO, Rejected, read_records
from components.function_calls.judge import judge_gold
from components.function_calls.prompt import ToolNames
from components.function_calls.record import Record
from components.services.progress import track
from components.services.storage import is_remote, names_below, open_uri
from components.settings import Settings
from components.stages.publishing import resolve_published

QUALIFIED, HELD_OUT = "qualified.jsonl.gz", "held_out.jsonl.gz"
_REFINE = "run data_refine on it first, which sets bad records aside"


def read_refined(path: Path, name: str = QUALIFIED) -> list[Record]:
    """The records of the file `name` in a refinement's folder, or of one file in callforge's format.

    Raises:
        InputError: no such file, or a line of it that is not a record.
    """
    return _read(str(path / name if is_folder(path) else path), "callforge")


def own_records_file(place: str) -> str:
    """The file of one's own records at `place`: a file, or what a refinement held out, its folder here or in S3."""
    if not is_remote(place):
        path = expand_home(place)
        return str(path / HELD_OUT) if place and is_folder(path) else place
    folder = resolve_published(place)
    return f"{folder}/{HELD_OUT}" if HELD_OUT in names_below(folder) else place


def with_records_file(settings: Settings) -> Settings:
    """`settings` with own records by their file, so that they name one attempt of the refinement that held them out."""
    file = own_records_file(settings.bfcl_eval.records)
    return settings.model_copy(update={"bfcl_eval": settings.bfcl_eval.model_copy(update={"records": file})})


def read_own_records(file: str) -> list[Record]:
    """The records of a file, each in whatever layout its fields show, fit to be asked and graded.

    Raises:
        InputError: no such file; a line that is not a record; an id that is there twice; or a record whose own gold
            turn the strict rule refuses, so that no model could answer it.
    """
    records = _read(file, AUTO)
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise InputError(f"{file}: the id {record.id} is there twice; {_REFINE}")
        seen.add(record.id)
        if reason := judge_gold(record, ToolNames(record.tools)):
            raise InputError(f"{file}: record {record.id}: its own gold answer is not right ({reason}); {_REFINE}")
    return records


def _read(file: str, data_format: str) -> list[Record]:
    records = []
    try:
        with open_uri(file) as stream:
            for item in track(read_records(stream, file, data_format), "read records", "records"):
                if isinstance(item, Rejected):
                    raise InputError(f"{file}, line {item.line}: {item.reason}: {item.detail}; {_REFINE}")
                records.append(item)
    except FormatError as error:
        raise InputError(str(error)) from None
    return records

"""The layouts that record files are read in, and how a record's own fields show which one it has.

A layout is one file of this folder with `read(value, number)`: the records that one parsed JSON object holds, its place
in the file given for those without an id. To add one, add its file, a line here and its name to
`DataRefineSettings.data_format`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from components.function_calls.formats import callforge, glaive, openai, sharegpt, toolace, xlam
from components.function_calls.record import Record, RecordError

UNKNOWN_LAYOUT = "unknown_layout"


class Layout(NamedTuple):
    """Fields that a record of the layout always has, its reader, and fields that show that it is another one."""

    fields: tuple[str, ...]
    read: Callable[[dict[str, Any], int], Sequence[Record]]
    without: tuple[str, ...] = ()


# The first whose fields are all there is taken.
LAYOUTS: dict[str, Layout] = {
    "callforge": Layout(("messages", "answers"), callforge.read),
    "openai": Layout(("messages",), openai.read),
    "xlam": Layout(("query", "answers", "tools"), xlam.read),
    "toolace": Layout(("conversations", "system"), toolace.read, without=("tools",)),
    "sharegpt": Layout(("conversations",), sharegpt.read),
    "glaive": Layout(("chat", "system"), glaive.read),
}


def read_as(layout: str, value: dict[str, Any], number: int) -> Sequence[Record]:
    """The records that a parsed JSON object holds in a layout.

    Raises:
        RecordError: "structure" (a field of the layout is missing), or what its reader raises.
    """
    fields, read, _ = LAYOUTS[layout]
    for field in fields:
        if field not in value:
            raise RecordError("structure", f"{field}: is missing")
    return read(value, number)


def layout_of(value: Mapping[str, Any]) -> str:
    """The name of a parsed record's layout.

    Raises:
        RecordError: "unknown_layout".
    """
    for name, layout in LAYOUTS.items():
        if all(field in value for field in layout.fields) and not any(value.get(field) for field in layout.without):
            return name
    fields = ", ".join(field[:40] for field in list(value)[:10]) or "none"
    known = "; ".join(f"{name} ({', '.join(layout.fields)})" for name, layout in LAYOUTS.items())
    raise RecordError(
        UNKNOWN_LAYOUT, f"unknown record layout with the fields {fields}. The known ones and their fields: {known}."
    )

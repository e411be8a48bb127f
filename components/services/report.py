"""Report pages: one self-contained HTML file of text, tables, charts and what can be opened, fit for the Kubeflow UI's
iframe.

A page opens with a sentence that says what happened; stages hand over the blocks below it. Everything is escaped (model
output is hostile), charts are inline SVG, there are no scripts, and only Links lead anywhere. Equal content gives
equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from typing import Any

from jinja2 import Environment

from components.files import atomic_write
from components.services.charts import colours, draw_bar, draw_lines

MISSING = "-"
LONGEST_TEXT = 20_000  # characters of a text that can be opened: a record may be a megabyte
TEMPLATE = Path(__file__).with_name("report_page.html")
_HEADING = re.compile(r'<h1>(?P<title>.*?)</h1>\s*<p class="sentence">(?P<sentence>.*?)</p>', re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Text:
    """Paragraphs; an empty line parts them."""

    title: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers stand right. None and NaN show as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Lines:
    """One small chart of curves; points whose y is None or not finite are left out."""

    title: str
    unit: str
    series: Mapping[str, Sequence[tuple[float, float | None]]]


@dataclass(frozen=True)
class SmallMultiples:
    """Small charts side by side over the same x; each shows the last value of its curves. Empty ones are left out."""

    title: str
    x_label: str
    charts: Sequence[Lines]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, `rows[row][series]`; `intervals[row][series]` draws a (low, high) whisker over a bar.

    `full` is what the whole width stands for; 0: the largest value.
    """

    title: str
    unit: str
    rows: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    full: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Detail:
    """Something to open: a heading, texts by their label, and texts that stay folded when it is opened.

    Details of one `group` are folded together.
    """

    heading: str
    texts: Mapping[str, str]
    folded: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Details:
    """A list of what can be opened; the texts keep their line breaks, and are cut at LONGEST_TEXT characters."""

    title: str
    items: Sequence[Detail]
    note: str = ""


@dataclass(frozen=True)
class Link:
    """Where to go on: an address of ours (never one out of data), what it is called, and a sentence about it."""

    address: str
    name: str
    text: str = ""


@dataclass(frozen=True)
class Links:
    """A list of other pages."""

    title: str
    items: Sequence[Link]
    note: str = ""


Block = Text | Table | SmallMultiples | Bars | Details | Links


def write_report(path: Path, title: str, sentence: str, blocks: Sequence[Block]) -> None:
    """Write the page to `path`, atomically.

    Args:
        sentence: what happened, for a reader who reads nothing else.
        blocks: drawn in order: pictures first, then tables. A chart without a finite point says so instead of
            showing an empty frame.
    """
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text("utf-8")
    )
    sentence = sentence.replace(" %", "\N{NO-BREAK SPACE}%")
    page = template.render(title=title, sentence=sentence, blocks=[_prepare(block) for block in blocks])
    with atomic_write(path) as file:
        file.write(_UNPRINTABLE.sub("\ufffd", page))


def read_heading(path: Path) -> tuple[str, str]:
    """Title and sentence of a page that write_report wrote; both "" where it is none."""
    found = _HEADING.search(path.read_text("utf-8", errors="replace"))
    return (unescape(found["title"]), unescape(found["sentence"])) if found else ("", "")


def show(value: Any) -> str:
    """A cell's text: four significant digits for a float, thousands parted, a dash for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def _prepare(block: Block) -> dict[str, Any]:
    view: dict[str, Any] = {"kind": type(block).__name__, "title": block.title, "note": getattr(block, "note", "")}
    if isinstance(block, Text):
        view["paragraphs"] = [part for part in re.split(r"\n\s*\n", block.text) if part.strip()]
    elif isinstance(block, Table):
        rows = [[show(cell) for cell in row] for row in block.rows]
        right = [all(_is_number(row[i]) for row in rows if i < len(row)) for i in range(len(block.columns))]
        view |= {"columns": list(zip(block.columns, right, strict=True)), "rows": rows, "right": right}
    elif isinstance(block, Links):
        view["items"] = block.items
    elif isinstance(block, Details):
        groups: dict[str, list[Detail]] = {}
        for detail in block.items:
            short = replace(detail, texts=_shortened(detail.texts), folded=_shortened(detail.folded))
            groups.setdefault(detail.group, []).append(short)
        view["groups"] = sorted(groups.items(), key=lambda item: -len(item[1]))
    elif isinstance(block, SmallMultiples):
        view |= {"x_label": block.x_label, "charts": [found for chart in block.charts if (found := _chart(chart))]}
    else:
        view |= {"unit": block.unit, "rows": _bars(block)}
    return view


def _shortened(texts: Mapping[str, str]) -> dict[str, str]:
    return {
        label: text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... ({len(text):,} characters)"
        for label, text in texts.items()
    }


def _is_number(text: str) -> bool:
    return text == MISSING or re.fullmatch(r"[+-]?\d[\d.,]*(e[+-]?\d+)?( ?%)?", text) is not None


def _chart(chart: Lines) -> dict[str, Any]:
    """What the template draws of one chart; {} where it has no point."""
    series = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y)] for name, points in chart.series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return {}
    last = [(name, show(points[-1][1])) for name, points in series.items()]
    return {
        "title": chart.title,
        "unit": chart.unit,
        "last": [(*item, colour) for item, colour in zip(last, colours(len(series)), strict=True)],
        "svg": draw_lines(series, f"{chart.title}, {chart.unit}: {', '.join(map(' '.join, last))}"),
    }


def _bars(block: Bars) -> list[tuple[str, list[tuple[str, str, str, Any]]]]:
    """For each row its bars: series, value, interval, drawing."""
    names = list(dict.fromkeys(name for row in block.rows.values() for name in row))
    values = [value for row in block.rows.values() for value in row.values() if math.isfinite(value)]
    if not values:
        return []
    ends = [end for row in block.intervals.values() for interval in row.values() for end in interval]
    scale = min(0.0, *values, *ends), block.full or max(0.0, *values, *ends)
    if scale[0] == scale[1]:
        scale = 0.0, 1.0
    found = []
    for row, entries in block.rows.items():
        bars = []
        for name, colour in zip(names, colours(len(names)), strict=True):
            if not math.isfinite(value := entries.get(name, math.nan)):
                continue
            interval = block.intervals.get(row, {}).get(name)
            brackets = f"[{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
            bars.append(
                (name if len(names) > 1 else "", show(value), brackets, draw_bar(value, interval, scale, colour))
            )
        found.append((row, bars))
    return found

"""Report pages: one self-contained HTML file of texts, tables, charts and examples, fit for the Kubeflow UI's iframe.

Everything is escaped (model output is hostile), charts are inline SVG, and there are no scripts and no links to
elsewhere. Equal content gives equal bytes. It does not decide what a stage has to tell: stages hand over sections.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from components.files import atomic_write

COLOURS = ("#8a9bb0", "#e3a23c", "#2f7d6d", "#b5503c", "#6a5acd", "#4c8dc9", "#a0a03a", "#555555")
MISSING = "-"
TEMPLATE = Path(__file__).with_name("report_page.html")


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
    """Curves; points whose y is None or not finite are left out."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float | None]]]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, `groups[group][series]`; `intervals[group][series]` draws a (low, high) whisker over a bar."""

    title: str
    y_label: str
    groups: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Examples:
    """Folded items of (heading, {label: text}); the texts keep their line breaks."""

    title: str
    items: Sequence[tuple[str, Mapping[str, str]]]
    note: str = ""


Section = Text | Table | Lines | Bars | Examples


def write_report(path: Path, title: str, summary: str | Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Write the page to `path`, atomically.

    Args:
        summary: what a hurried reader must know: a sentence or two, or the key figures by their label.
        sections: drawn in order. A chart without a finite point says so instead of showing an empty frame.
    """
    figures = list(summary.items()) if isinstance(summary, Mapping) else []
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text("utf-8")
    )
    page = template.render(
        title=title,
        summary="" if figures else summary,
        figures=[(label, show(value)) for label, value in figures],
        sections=[_prepare(section, number) for number, section in enumerate(sections)],
    )
    with atomic_write(path) as file:
        file.write(page)


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


def _prepare(section: Section, number: int) -> dict[str, Any]:
    view: dict[str, Any] = {
        "kind": type(section).__name__,
        "title": section.title,
        "note": getattr(section, "note", ""),
    }
    if isinstance(section, Text):
        view["paragraphs"] = [part for part in re.split(r"\n\s*\n", section.text) if part.strip()]
    elif isinstance(section, Table):
        rows = [[show(cell) for cell in row] for row in section.rows]
        right = [all(_is_number(row[i]) for row in rows if i < len(row)) for i in range(len(section.columns))]
        view |= {"columns": list(zip(section.columns, right, strict=True)), "rows": rows, "right": right}
    elif isinstance(section, Examples):
        view["items"] = [(heading, list(texts.items())) for heading, texts in section.items]
    else:
        drawn = _draw_lines(section, number) if isinstance(section, Lines) else _draw_bars(section, number)
        view |= {"svg": Markup(drawn)}  # noqa: S704 - matplotlib escapes the text it draws
    return view


def _is_number(text: str) -> bool:
    return text == MISSING or re.fullmatch(r"[+-]?\d[\d.,]*(e[+-]?\d+)?( ?%)?", text) is not None


def _draw_lines(section: Lines, number: int) -> str:
    series = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        for name, points in section.series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    figure, axes = _figure(3.1, number)
    for (name, points), colour in zip(series.items(), _colours(len(series)), strict=True):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=colour, label=_plain(name), linewidth=1.6, marker="o" if len(points) < 3 else None)
    axes.set_xlabel(_plain(section.x_label))
    axes.set_ylabel(_plain(section.y_label))
    if all(float(x).is_integer() for points in series.values() for x, _ in points):
        axes.xaxis.get_major_locator().set_params(integer=True)  # steps: no tick between two of them
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    return _svg(figure, axes, len(series) > 1, section.title)


def _draw_bars(section: Bars, number: int) -> str:
    names = list(dict.fromkeys(name for group in section.groups.values() for name in group))
    values = [value for group in section.groups.values() for value in group.values()]
    if not any(math.isfinite(value) for value in values):
        return ""
    thickness = 0.8 / len(names)
    height = len(section.groups) * (0.16 * len(names) + 0.16) + 0.9
    figure, axes = _figure(height, number)
    largest = max(value for value in values if math.isfinite(value))
    for row, group in enumerate(section.groups):
        for place, (name, colour) in enumerate(zip(names, _colours(len(names)), strict=True)):
            value = section.groups[group].get(name)
            if value is None or not math.isfinite(value):
                continue
            y = row + (place - (len(names) - 1) / 2) * thickness
            axes.barh(y, value, thickness * 0.92, color=colour, label=_plain(name) if row == 0 else None)
            low, high = section.intervals.get(group, {}).get(name, (value, value))
            if high > low:
                axes.plot((low, high), (y, y), color="#222222", linewidth=0.8, solid_capstyle="butt")
            largest = max(largest, high)
            axes.annotate(
                show(value), (max(value, high), y), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(range(len(section.groups)), [_plain(group) for group in section.groups])
    axes.invert_yaxis()
    axes.set_xlabel(_plain(section.y_label))
    axes.set_xlim(min(0.0, *values), largest * 1.08 or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color="#e6e6e6", linewidth=0.8)
    return _svg(figure, axes, len(names) > 1, section.title)


def _colours(count: int) -> list[str]:
    # a single series takes the strong colour; further ones go from muted to strong
    return [COLOURS[2]] if count == 1 else [COLOURS[i % len(COLOURS)] for i in range(count)]


def _plain(text: str) -> str:
    # matplotlib reads $..$ as formulas and has no glyphs for control characters
    return re.sub(r"[\x00-\x1f\x7f]", " ", text).replace("$", r"\$")


def _figure(height: float, number: int) -> tuple[Any, Any]:
    import matplotlib

    # text stays text; equal content gives equal bytes; ids differ between the charts of a page
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": f"callforge-{number}", "font.family": "sans-serif", "font.size": 9}
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    return figure, axes


def _svg(figure: Any, axes: Any, legend: bool, title: str) -> str:
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

"""Report pages: nothing a model wrote is live, equal content gives equal bytes, odd numbers do not break them."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

from components.services.report import Bars, Examples, Lines, Table, Text, show, write_report

HOSTILE = '</title><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{$ & \x07'


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path, *sections: object, summary: object = "fine") -> str:
    path = folder / "deep" / "report.html"
    write_report(path, "Title", summary, sections)  # type: ignore[arg-type]
    return path.read_text("utf-8")


def test_hostile_text_is_shown_and_not_live(tmp_path):
    sections = [
        Text(HOSTILE, HOSTILE),
        Table(HOSTILE, [HOSTILE], [[HOSTILE]], note=HOSTILE),
        Lines(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: [(0, 1), (1, 2)], "other": [(0, 1)]}, note=HOSTILE),
        Bars(HOSTILE, HOSTILE, {HOSTILE: {HOSTILE: 1.0, "other": 2.0}}, note=HOSTILE),
        Examples(HOSTILE, [(HOSTILE, {HOSTILE: HOSTILE})], note=HOSTILE),
    ]
    path = tmp_path / "report.html"
    write_report(path, HOSTILE, {HOSTILE: HOSTILE}, sections)
    parsed = Page(path.read_text("utf-8"))
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "img", "iframe", "link", "object", "embed"}
    assert "svg" in names
    assert not [key for _, attributes in parsed.tags for key in attributes if key.startswith("on")]
    assert parsed.text.count('<script>alert("x")</script>') >= 10


def test_page_needs_nothing_from_elsewhere(tmp_path):
    text = page(tmp_path, Lines("L", "x", "y", {"a": [(0, 1), (1, 3)]}), Bars("B", "n", {"g": {"a": 1.0}}))
    references = [
        value
        for _, attributes in Page(text).tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href")
    ]
    assert all(value and value.startswith("#") for value in references)
    assert not re.search(r"@import|url\((?!#)", text)


def test_equal_content_gives_equal_bytes(tmp_path):
    sections = [Lines("L", "x", "y", {"a": [(0, 1), (1, 3)]}), Bars("B", "n", {"g": {"a": 1.0}})]
    assert page(tmp_path / "one", *sections) == page(tmp_path / "two", *sections)


def test_charts_of_one_page_share_no_ids(tmp_path):
    chart = Lines("L", "x", "y", {"a": [(0, 1), (1, 3)]})
    charts = re.findall(r"<svg.*?</svg>", page(tmp_path, chart, chart), re.DOTALL)
    clips = [set(re.findall(r'clipPath id="([^"]+)"', svg)) for svg in charts]
    assert len(clips) == 2 and clips[0] and not clips[0] & clips[1]


def test_nothing_to_show_is_said(tmp_path):
    text = page(
        tmp_path,
        Lines("L", "x", "y", {"a": [(0, math.nan), (1, None)], "b": []}),
        Bars("B", "n", {}),
        Bars("B", "n", {"g": {"a": math.nan}}),
        Table("T", ["a"], []),
        Examples("E", []),
    )
    assert text.count("Nothing to ") == 5 and "<svg" not in text


def test_holes_and_negative_numbers_are_drawn_around(tmp_path):
    text = page(
        tmp_path,
        Lines("L", "x", "y", {"a": [(0, 1), (1, math.inf), (2, 3)]}),
        Bars("B", "n", {"g": {"a": -1.5, "b": math.nan}, "h": {"b": 0.0}}, {"g": {"a": (-2.0, -1.0)}}),
    )
    assert text.count("<svg") == 2 and "-1.5" in text


def test_only_columns_of_numbers_stand_right(tmp_path):
    text = page(
        tmp_path, Table("T", ["name", "n", "share", "mixed"], [["a", 1234, "50 %", 1], ["b", None, "1.5 %", "x"]])
    )
    heads = [attributes.get("class") for tag, attributes in Page(text).tags if tag == "th"]
    assert heads == [None, "right", "right", None]


def test_cells_are_written_for_people():
    shown = [show(value) for value in (None, math.nan, True, 12345, 0.123456, 12345.678, 3.0, 1e-7, math.inf, "x")]
    assert shown == ["-", "-", "yes", "12,345", "0.1235", "12,346", "3", "1e-07", "inf", "x"]

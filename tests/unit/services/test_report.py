"""Report pages: nothing a model wrote is live, equal content gives equal bytes, odd numbers do not break them."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

from components.services.report import (
    Bars,
    Block,
    Detail,
    Details,
    Lines,
    Link,
    Links,
    SmallMultiples,
    Table,
    Text,
    read_heading,
    show,
    write_report,
)

HOSTILE = '</title><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{$ & {{ 7*7 }} \x07'


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


def page(folder: Path, *blocks: Block, sentence: str = "It went well.") -> str:
    path = folder / "deep" / "report.html"
    write_report(path, "Title", sentence, blocks)
    return path.read_text("utf-8")


def curve(*points: tuple[float, float | None], title: str = "L") -> SmallMultiples:
    return SmallMultiples("Curves", "step", [Lines(title, "nats", {"a": points})])


def test_hostile_text_is_shown_and_not_live(tmp_path):
    lines = Lines(HOSTILE, HOSTILE, {HOSTILE: [(0, 1), (1, 2)], "other": [(0, 1)]})
    blocks = [
        Text(HOSTILE, HOSTILE),
        Table(HOSTILE, [HOSTILE], [[HOSTILE]], note=HOSTILE),
        SmallMultiples(HOSTILE, HOSTILE, [lines], note=HOSTILE),
        Bars(HOSTILE, HOSTILE, {HOSTILE: {HOSTILE: 1.0, "other": 2.0}}, note=HOSTILE),
        Links(HOSTILE, [Link("a.html", HOSTILE, HOSTILE)], note=HOSTILE),
        Details(HOSTILE, [Detail(HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, HOSTILE)], note=HOSTILE),
    ]
    path = tmp_path / "report.html"
    write_report(path, HOSTILE, HOSTILE, blocks)
    parsed = Page(path.read_text("utf-8"))
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "img", "iframe", "link", "object", "embed"}
    assert "svg" in names
    assert not [key for _, attributes in parsed.tags for key in attributes if key.startswith("on")]
    assert parsed.text.count('<script>alert("x")</script>') >= 20
    assert "{{ 7*7 }} \ufffd" in parsed.text
    assert read_heading(path) == (HOSTILE.replace("\x07", "\ufffd"),) * 2


def test_text_that_utf8_cannot_hold_is_replaced(tmp_path):
    assert "cut \ufffd off" in page(tmp_path, Text("T", "cut \ud83d off"))


def test_page_opens_with_the_sentence(tmp_path):
    text = Page(page(tmp_path, Table("T", ["a"], [[1]]), sentence="Calls right: 21 %.")).text
    assert text.index("Calls right: 21\N{NO-BREAK SPACE}%.") < text.index("T\n")


def test_page_needs_nothing_from_elsewhere(tmp_path):
    text = page(tmp_path, curve((0, 1), (1, 3)), Bars("B", "n", {"g": {"a": 1.0}}))
    assert not [key for _, attributes in Page(text).tags for key in attributes if key in ("src", "href", "xlink:href")]
    assert not re.search(r"@import|url\(", text)


def test_equal_content_gives_equal_bytes(tmp_path):
    blocks = [curve((0, 1), (1, 3)), Bars("B", "n", {"g": {"a": 1.0}})]
    assert page(tmp_path / "one", *blocks) == page(tmp_path / "two", *blocks)


def test_nothing_to_show_is_said(tmp_path):
    text = page(
        tmp_path,
        curve((0, math.nan), (1, None)),
        Bars("B", "n", {}),
        Bars("B", "n", {"g": {"a": math.nan}}),
        Table("T", ["a"], []),
        Details("E", []),
    )
    assert text.count("Nothing to ") == 5 and "<svg" not in text


def test_chart_shows_the_last_value_with_its_unit(tmp_path):
    charts = [
        Lines("Loss", "nats per token", {"thought": [(1, 2.0), (2, 0.75)], "answer": [(1, 3.0), (2, math.nan)]}),
        Lines("Empty", "nothing", {"x": []}),
        Lines("Speed", "tokens a second", {"speed": [(1, 900.0), (2, 1234.5)]}),
    ]
    parsed = Page(page(tmp_path, SmallMultiples("Training", "step", charts)))
    labels = [found["aria-label"] for tag, found in parsed.tags if tag == "svg"]
    assert labels == ["Loss, nats per token: thought 0.75, answer 3", "Speed, tokens a second: speed 1234"]
    assert "thought 0.75" in parsed.text and "Empty" not in parsed.text


def test_curve_keeps_to_its_frame_and_leaves_holes_out(tmp_path):
    text = page(tmp_path, curve((0, 1), (1, math.inf), (2, None), (3, -3e9)), curve((7, 0.5)), curve((1, 2), (2, 2)))
    curves = re.findall(r'points="([^"]*)"', text)
    points = [[tuple(map(float, point.split(","))) for point in found.split()] for found in curves]
    assert [len(found) for found in points] == [2, 1, 2]
    assert all(0 <= x <= 320 and 0 <= y <= 150 for found in points for x, y in found)
    assert points[0][0][1] < points[0][1][1]  # downwards is larger


def test_long_curve_is_thinned_and_keeps_its_spike(tmp_path):
    points = [(step, 100.0 if step == 31_337 else 1.0) for step in range(100_000)]
    text = page(tmp_path, curve(*points))
    drawn = [float(point.split(",")[1]) for point in re.findall(r'points="([^"]*)"', text)[0].split()]
    assert len(text) < 50_000 and len([y for y in drawn if y < 20]) == 1


def test_bars_share_one_scale_and_stand_beside_their_value(tmp_path):
    rows = {"calls": {"base": 0.0, "EGPO": 25.0}, "no call": {"base": 50.0}}
    text = page(tmp_path, Bars("B", "accuracy, %", rows, {"calls": {"base": (0.0, 5.6)}}, full=100))
    assert re.findall(r'<rect class="c\d" x="([^"]*)" y="2" width="([^"]*)"', text) == [
        ("0.00%", "0.00%"),
        ("0.00%", "25.00%"),
        ("0.00%", "50.00%"),
    ]
    assert '<line class="whisker" x1="0.00%" x2="5.60%"' in text
    assert Page(text).text.split("B\n")[-1].split()[2:6] == ["calls", "base0[0,", "5.6]", "EGPO25"]


def test_negative_bars_end_at_zero(tmp_path):
    rows = {"g": {"a": -1.5, "b": math.nan}, "h": {"b": 0.5}}
    text = page(tmp_path, Bars("B", "n", rows, {"g": {"a": (-2.0, -1.0)}}))
    assert re.findall(r'<rect class="c\d" x="([^"]*)" y="2" width="([^"]*)"', text) == [
        ("20.00%", "60.00%"),
        ("80.00%", "20.00%"),
    ]


def test_details_open_by_group_with_the_schemas_folded(tmp_path):
    items = [
        Detail("one", {"prompt": "p", "answer": "a"}, {"offered": "schema"}, "rare"),
        Detail("two", {"prompt": "p"}, group="often"),
        Detail("three", {"prompt": "p"}, group="often"),
    ]
    text = page(tmp_path, Details("Failures", items))
    assert [" ".join(re.sub("<.*?>", "", found).split()) for found in re.findall("<summary>(.*?)</summary>", text)] == [
        "often 2",
        "two",
        "three",
        "rare 1",
        "one",
        "offered",
    ]
    assert "<details open" not in text and "<pre>schema</pre>" in text


def test_no_text_makes_a_page_that_no_browser_opens(tmp_path):
    text = page(tmp_path, Details("Failures", [Detail("one", {"prompt": "p" * 10**6}, {"offered": "s" * 10**6})]))
    assert len(text) < 100_000
    assert text.count("(1,000,000 characters)") == 2


def test_colours_follow_the_reader(tmp_path):
    text = page(tmp_path, curve((0, 1), (1, 3)), Bars("B", "n", {"g": {"a": 1.0}}))
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#[0-9a-f]{3}", text.partition("</style>")[2])  # a fixed colour is legible on one paper only


def test_only_columns_of_numbers_stand_right(tmp_path):
    text = page(
        tmp_path, Table("T", ["name", "n", "share", "mixed"], [["a", 1234, "50 %", 1], ["b", None, "1.5 %", "x"]])
    )
    heads = [attributes.get("class") for tag, attributes in Page(text).tags if tag == "th"]
    assert heads == [None, "right", "right", None]


def test_cells_are_written_for_people():
    shown = [show(value) for value in (None, math.nan, True, 12345, 0.123456, 12345.678, 3.0, 1e-7, math.inf, "x")]
    assert shown == ["-", "-", "yes", "12,345", "0.1235", "12,346", "3", "1e-07", "inf", "x"]

"""Charts as inline SVG: small line charts, and bars that keep their place in a line of text at any width.

Colours and strokes are left to the page's style sheet, by class, so that a chart is legible in light and dark. All text
is escaped. Equal content gives equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

COLOURS = 8  # classes c0 to c7 of the style sheet
STRONG = 2  # the colour of a series that is alone; several go from muted to strong
WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 312, 8, 126  # of the frame that curves are drawn in
FEW_POINTS = 12  # drawn with a dot each

Points = Sequence[tuple[float, float]]


def colours(count: int) -> list[int]:
    """A colour for each of `count` series."""
    return [STRONG] if count == 1 else [place % COLOURS for place in range(count)]


def draw_lines(series: Mapping[str, Points], label: str) -> Markup:
    """A line chart of finite points, at least one, for a title and a legend outside of it.

    Args:
        label: what a screen reader says.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    left, right = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    ticks = _ticks(min(ys), max(ys))
    low, high = min(*ys, *ticks), max(*ys, *ticks)

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * (x - left) / (right - left)

    def down(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - low) / (high - low)

    parts = []
    for tick in ticks:
        y = down(tick)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, RIGHT, y, y))
        parts.append(_text(LEFT - 5, y + 3.5, "end", f"{tick:.6g}"))
    ends = {min(xs): "start", max(xs): "end"} if len(set(xs)) > 1 else {xs[0]: "middle"}
    parts += [_text(across(x), HEIGHT - 8, anchor, f"{x:,.6g}") for x, anchor in ends.items()]
    for (_, points), colour in zip(series.items(), colours(len(series)), strict=True):
        drawn = [(across(x), down(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _thinned(drawn))
        parts.append(Markup('<polyline class="curve c{}" points="{}"/>').format(colour, path))
        if len(drawn) <= FEW_POINTS:
            dot = Markup('<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="2.4"/>')
            parts += [dot.format(colour, x, y) for x, y in drawn]
    frame = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return frame.format(WIDTH, HEIGHT, label, Markup("").join(parts))


def draw_bar(value: float, interval: tuple[float, float] | None, scale: tuple[float, float], colour: int) -> Markup:
    """One horizontal bar as wide as its place, with a whisker over `interval`; `scale` is what the width stands for."""

    def place(number: float) -> str:
        return f"{100 * (number - scale[0]) / (scale[1] - scale[0]):.2f}%"

    width = f"{100 * abs(value) / (scale[1] - scale[0]):.2f}%"
    bar = Markup('<rect class="c{}" x="{}" y="2" width="{}" height="10"/>').format(colour, place(min(value, 0)), width)
    parts = [Markup('<rect class="track" y="2" width="100%" height="10"/>'), bar]
    if interval and interval[0] < interval[1]:
        ends = [place(end) for end in interval]
        line = Markup('<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts += [line.format(*ends, 7, 7), *(line.format(end, end, 4, 10) for end in ends)]
    return Markup('<svg class="bar" width="100%" height="14" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, three or so, from below `low` to above `high`."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 1.0
        return [low - margin, low, low + margin]
    rough = (high - low) / 2
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, last + 1)]


def _thinned(points: Points) -> Points:
    """At most four points for each pixel across, the first, lowest, highest and last: a long curve looks the same."""
    if len(points) <= 4 * WIDTH:
        return points
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0]), []).append(point)
    thin = []
    for column in columns.values():
        extremes = {column[0], column[-1], min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])}
        thin += [point for point in column if point in extremes]
    return thin

"""Charts in SVG of our own: small line charts, and dots with their intervals.

Colours are classes (`c0`, `c1`, ...) that the style sheet defines for light and dark; every series has its
own dashes too, so that a chart also works in print and for eyes that see other colours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparring.report.figures import Figure, number, tick_labels, ticks
from sparring.report.html import Html, el

WIDTH, HEIGHT = 360, 208
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 32
MOST_POINTS = 120
MOST_TIPS = 60
NEAR = 0.4  # of the range of the values
DASHES = ("none", "10 3", "3 3", "12 3 3 3", "20 4", "6 4")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name, its colour by number, its points in order of x."""

    name: str
    colour: int
    points: Points


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where a figure is healthy; None leaves a side open."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The range of the two axes, and where they lie on the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        """Turn an x into a place from the left."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def down(self, value: float) -> float:
        """Turn a y into a place from the top."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def line_chart(series: Sequence[Series], *, label: str, x_label: str, y_label: str, band: Band | None = None) -> Html:
    """Draw lines over one pair of axes, the healthy band shaded where its edge is near.

    Points that are not finite leave a gap. `label` is what a screen reader says.
    """
    kept = [Series(name=s.name, colour=s.colour, points=thin(s.points)) for s in series]
    finite = [(x, y) for s in kept for x, y in s.points if math.isfinite(y)]
    if not finite:
        return el("p", {"class": "quiet"}, "no finite value")
    frame = _frame(finite, band or Band())
    parts = [_shade(frame, band or Band()), *_axes(frame, x_label, y_label)]
    parts += [mark for s in kept for mark in _line(frame, s, x_label)]
    size = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": label, "class": "chart"}
    return el("svg", size, parts)


def interval_row(figure: Figure, bounds: tuple[float, float], colour: int) -> Html:
    """Draw one dot with its interval on a line as wide as the page allows; `bounds` are its two ends."""

    def place(value: float) -> str:
        share = (value - bounds[0]) / (bounds[1] - bounds[0])
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    marks = [el("line", {"x1": place(t), "x2": place(t), "y1": 0, "y2": 28, "class": "grid"}) for t in ticks(*bounds)]
    if figure.low is not None and figure.high is not None:
        ends = {"x1": place(figure.low), "x2": place(figure.high), "y1": 14, "y2": 14}
        marks.append(el("line", {**ends, "class": f"whisker c{colour}"}))
    marks.append(el("circle", {"cx": place(figure.mean), "cy": 14, "r": 5.5, "class": f"dot c{colour}"}))
    return el("svg", {"width": "100%", "height": 28, "class": "dots", "aria-hidden": "true"}, marks)


def interval_axis(bounds: tuple[float, float]) -> Html:
    """Write the numbers under rows of dots."""
    places = ticks(*bounds)
    texts = []
    for tick, written in zip(places, tick_labels(places), strict=True):
        share = (tick - bounds[0]) / (bounds[1] - bounds[0])
        texts.append(el("text", {"x": f"{100 * share:.2f}%", "y": 12, "class": f"tick {_anchor(share)}"}, written))
    return el("svg", {"width": "100%", "height": 16, "class": "dots", "aria-hidden": "true"}, texts)


def bounds_of(figures: Sequence[Figure]) -> tuple[float, float]:
    """Choose the ends of a line that holds all dots and intervals with some air."""
    values = [v for f in figures for v in (f.mean, f.low, f.high) if v is not None and math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - air, high + air


def swatch(colour: int) -> Html:
    """Draw the short line that stands for a series in a legend."""
    line = {"x1": 1, "x2": 25, "y1": 6, "y2": 6, "class": f"line c{colour}", "stroke-dasharray": dashes(colour)}
    return el("svg", {"width": 26, "height": 12, "class": "swatch", "aria-hidden": "true"}, el("line", line))


def dashes(colour: int) -> str:
    """Name the dashes of a series."""
    return DASHES[colour % len(DASHES)]


def thin(points: Points) -> Points:
    """Average neighbours until a line has few enough points to be read."""
    if len(points) <= MOST_POINTS:
        return points
    edges = [round(i * len(points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    groups = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def by_x(rows: Sequence[Mapping[str, float]], x: str, y: str) -> Points:
    """Take two columns of rows as points in order of x, leaving out rows that lack one of them."""
    return sorted((float(row[x]), float(row[y])) for row in rows if _has(row, x) and _has(row, y))


def _has(row: Mapping[str, float], key: str) -> bool:
    return isinstance(row.get(key), (int, float)) and not isinstance(row[key], bool)


def _frame(points: Points, band: Band) -> _Frame:
    across, up = [x for x, _ in points], [y for _, y in points]
    low, high = min(up), max(up)
    reach = (high - low) or max(abs(high), 1e-6) * 0.5
    # An edge of the band that is near is worth showing; one far away would flatten the line.
    reach *= NEAR
    edges = [e for e in (band.low, band.high) if e is not None and low - reach <= e <= high + reach]
    low, high = min([low, *edges]), max([high, *edges])
    air = 0.08 * (high - low) or max(abs(high), 1e-6) * 0.1
    left, right = min(across), max(across)
    return _Frame(x=(left, right if right > left else left + 1), y=(low - air, high + air))


def _shade(frame: _Frame, band: Band) -> Html:
    """Fill the healthy band, if at least one of its edges can be seen."""
    bottom, top = frame.y
    low = bottom if band.low is None else max(bottom, min(top, band.low))
    high = top if band.high is None else max(bottom, min(top, band.high))
    if (low, high) == (bottom, top) or low >= high:
        return Html("")
    box = {"x": LEFT, "y": frame.down(high), "width": WIDTH - LEFT - RIGHT}
    return el("rect", {**box, "height": round(frame.down(low) - frame.down(high), 1), "class": "band"})


def _axes(frame: _Frame, x_label: str, y_label: str) -> list[Html]:
    parts = []
    heights = ticks(*frame.y)
    for tick, written in zip(heights, tick_labels(heights), strict=True):
        y = frame.down(tick)
        parts.append(el("line", {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y, "class": "grid"}))
        parts.append(el("text", {"x": LEFT - 6, "y": y + 4, "class": "tick end"}, written))
    whole = [tick for tick in ticks(*frame.x) if tick == int(tick)]
    for tick in whole:
        parts.append(
            el("text", {"x": frame.across(tick), "y": HEIGHT - BOTTOM + 16, "class": "tick mid"}, number(tick))
        )
    foot = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM, "class": "axis"}
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(el("line", foot))
    parts.append(el("text", {"x": middle, "y": HEIGHT - 3, "class": "axis-label mid"}, x_label))
    parts.append(el("text", {"x": 2, "y": 11, "class": "axis-label"}, y_label))
    return parts


def _line(frame: _Frame, series: Series, x_label: str) -> list[Html]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in series.points:
        if math.isfinite(y):
            runs[-1].append((frame.across(x), frame.down(y)))
        elif runs[-1]:
            runs.append([])
    style = {"class": f"line c{series.colour}", "stroke-dasharray": dashes(series.colour)}
    parts = [el("polyline", {**style, "points": " ".join(f"{x},{y}" for x, y in run)}) for run in runs if run]
    finite = [(x, y) for x, y in series.points if math.isfinite(y)]
    shown = finite if len(finite) <= MOST_TIPS else finite[-1:]
    for x, y in shown:
        is_last = (x, y) == finite[-1]
        spot = {"cx": frame.across(x), "cy": frame.down(y), "r": 3 if is_last else 6}
        tip = el("title", None, f"{series.name}, {x_label} {number(x)}: {number(y)}")
        parts.append(el("circle", {**spot, "class": f"dot c{series.colour}" if is_last else "tip"}, tip))
    return parts


def _anchor(share: float) -> str:
    return "start" if share < 0.015 else "end" if share > 0.985 else "mid"

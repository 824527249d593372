"""Charts in SVG of our own: small line charts, and dots with their intervals.

Colours are classes (`c0`, `c1`, ...) that the style sheet defines for light and dark; every series has dashes and a
shape of its own too, so that a chart also works in print and for eyes that see other colours. A series is known by its
number: ten colours and seven dashes and shapes tell seventy of them apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparring.report.figures import Figure, number, tick_labels, ticks
from sparring.report.html import Html, el

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 32
COLOURS = 10
MOST_POINTS = 120
MOST_TIPS = 60
NEAR = 0.4  # of the range of the values
DASHES = ("none", "10 3", "3 3", "12 3 3 3", "20 4", "6 4", "14 3 3 3 3 3")
# Outlines about the origin, as wide as a circle of radius 1 looks.
SHAPES = (
    "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
    "M-.9-.9H.9V.9H-.9Z",
    "M0-1.25L1.1.75H-1.1Z",
    "M0-1.3L1.3 0L0 1.3L-1.3 0Z",
    "M0 1.25L1.1-.75H-1.1Z",
    "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "M-1.1-1.1L0-.45L1.1-1.1L.45 0L1.1 1.1L0 .45L-1.1 1.1L-.45 0Z",
)

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
class Frame:
    """The range of the two axes, and how large the drawing is."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 360
    height: int = 208

    def across(self, value: float) -> float:
        """Turn an x into a place from the left."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return round(LEFT + share * (self.width - LEFT - RIGHT), 1)

    def down(self, value: float) -> float:
        """Turn a y into a place from the top."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.height - BOTTOM - share * (self.height - TOP - BOTTOM), 1)


def line_chart(series: Sequence[Series], *, label: str, x_label: str, y_label: str, band: Band | None = None) -> Html:
    """Draw lines over one pair of axes, the healthy band shaded where its edge is near.

    Points that are not finite leave a gap. `label` is what a screen reader says.
    """
    kept = [Series(name=s.name, colour=s.colour, points=thin(s.points)) for s in series]
    finite = [(x, y) for s in kept for x, y in s.points if math.isfinite(y)]
    if not finite:
        return el("p", {"class": "quiet"}, "no finite value")
    frame = _frame(finite, band or Band())
    whole = [(tick, number(tick)) for tick in ticks(*frame.x) if tick == int(tick)]
    parts = [_shade(frame, band or Band()), *axes(frame, whole, x_label, y_label)]
    return drawing(frame, [*parts, *(mark for s in kept for mark in _line(frame, s, x_label))], label)


def drawing(frame: Frame, parts: Sequence[Html], label: str, more: str = "") -> Html:
    """Put the parts of a chart together; `label` is what a screen reader says, `more` are classes."""
    size = {"viewBox": f"0 0 {frame.width} {frame.height}", "role": "img", "aria-label": label}
    return el("svg", {**size, "class": f"chart {more}".strip()}, parts)


def axes(frame: Frame, across: Sequence[tuple[float, str]], x_label: str, y_label: str) -> list[Html]:
    """Draw the two axes: round numbers upwards, and what is given across."""
    parts = []
    heights, right, foot = ticks(*frame.y), frame.width - RIGHT, frame.height - BOTTOM
    for tick, written in zip(heights, tick_labels(heights), strict=True):
        y = frame.down(tick)
        parts.append(el("line", {"x1": LEFT, "x2": right, "y1": y, "y2": y, "class": "grid"}))
        parts.append(el("text", {"x": LEFT - 6, "y": y + 4, "class": "tick end"}, written))
    for tick, written in across:
        parts.append(el("text", {"x": frame.across(tick), "y": foot + 16, "class": "tick mid"}, written))
    parts.append(el("line", {"x1": LEFT, "x2": right, "y1": foot, "y2": foot, "class": "axis"}))
    parts.append(el("text", {"x": (LEFT + right) / 2, "y": frame.height - 3, "class": "axis-label mid"}, x_label))
    parts.append(el("text", {"x": 2, "y": 11, "class": "axis-label"}, y_label))
    return parts


def marker(x: float, y: float, series: int, *, size: float, kind: str = "dot", tip: str = "") -> Html:
    """Draw the shape of a series in its colour; `tip` is said when a pointer rests on it."""
    place = {"transform": f"translate({x} {y}) scale({size})", "d": SHAPES[series % len(SHAPES)]}
    return el("path", {**place, "class": f"{kind} {tint(series)}"}, el("title", None, tip) if tip else "")


def tint(series: int) -> str:
    """Name the class that gives a series its colour."""
    return f"c{series % COLOURS}"


def interval_row(figure: Figure, bounds: tuple[float, float], colour: int) -> Html:
    """Draw one dot with its interval on a line as wide as the page allows; `bounds` are its two ends."""

    def place(value: float) -> str:
        share = (value - bounds[0]) / (bounds[1] - bounds[0])
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    marks = [el("line", {"x1": place(t), "x2": place(t), "y1": 0, "y2": 28, "class": "grid"}) for t in ticks(*bounds)]
    if figure.low is not None and figure.high is not None:
        ends = {"x1": place(figure.low), "x2": place(figure.high), "y1": 14, "y2": 14}
        marks.append(el("line", {**ends, "class": f"whisker {tint(colour)}"}))
    marks.append(el("circle", {"cx": place(figure.mean), "cy": 14, "r": 5.5, "class": f"dot {tint(colour)}"}))
    return el("svg", {"width": "100%", "height": 28, "class": "dots", "aria-hidden": "true"}, marks)


def interval_axis(bounds: tuple[float, float], about: int = 4) -> Html:
    """Write the numbers under rows of dots, or bars."""
    places = ticks(*bounds, about)
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
    line = {"x1": 1, "x2": 25, "y1": 6, "y2": 6, "class": f"line {tint(colour)}", "stroke-dasharray": dashes(colour)}
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


def _frame(points: Points, band: Band) -> Frame:
    across, up = [x for x, _ in points], [y for _, y in points]
    low, high = min(up), max(up)
    reach = (high - low) or max(abs(high), 1e-6) * 0.5
    # An edge of the band that is near is worth showing; one far away would flatten the line.
    reach *= NEAR
    edges = [e for e in (band.low, band.high) if e is not None and low - reach <= e <= high + reach]
    low, high = min([low, *edges]), max([high, *edges])
    air = 0.08 * (high - low) or max(abs(high), 1e-6) * 0.1
    left, right = min(across), max(across)
    return Frame(x=(left, right if right > left else left + 1), y=(low - air, high + air))


def _shade(frame: Frame, band: Band) -> Html:
    """Fill the healthy band, if at least one of its edges can be seen."""
    bottom, top = frame.y
    low = bottom if band.low is None else max(bottom, min(top, band.low))
    high = top if band.high is None else max(bottom, min(top, band.high))
    if (low, high) == (bottom, top) or low >= high:
        return Html("")
    box = {"x": LEFT, "y": frame.down(high), "width": frame.width - LEFT - RIGHT}
    return el("rect", {**box, "height": round(frame.down(low) - frame.down(high), 1), "class": "band"})


def _line(frame: Frame, series: Series, x_label: str) -> list[Html]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in series.points:
        if math.isfinite(y):
            runs[-1].append((frame.across(x), frame.down(y)))
        elif runs[-1]:
            runs.append([])
    style = {"class": f"line {tint(series.colour)}", "stroke-dasharray": dashes(series.colour)}
    parts = [el("polyline", {**style, "points": " ".join(f"{x},{y}" for x, y in run)}) for run in runs if run]
    finite = [(x, y) for x, y in series.points if math.isfinite(y)]
    shown = finite if len(finite) <= MOST_TIPS else finite[-1:]
    for x, y in shown:
        is_last = (x, y) == finite[-1]
        spot = {"cx": frame.across(x), "cy": frame.down(y), "r": 3 if is_last else 6}
        tip = el("title", None, f"{series.name}, {x_label} {number(x)}: {number(y)}")
        parts.append(el("circle", {**spot, "class": f"dot {tint(series.colour)}" if is_last else "tip"}, tip))
    return parts


def _anchor(share: float) -> str:
    return "start" if share < 0.015 else "end" if share > 0.985 else "mid"

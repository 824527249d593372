"""Rewards over distance: the plane on which methods, their rounds and best of n meet.

The axis across is the square root of the KL, labelled in nats: there the first steps of every method look alike, and
best of n, which never gets far, can be seen beside those that do.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparring.report.charts import BOTTOM, LEFT, RIGHT, TOP, Frame, axes, dashes, drawing, marker, tint
from sparring.report.figures import Figure, interval, number
from sparring.report.html import Html, el
from sparring.report.inputs import Frontier, Rows, Trail

NATS = (0, 0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 7, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000, 2000)
APART = 34  # units of the drawing between two numbers of the axis across
LETTER = 6.4  # width of a letter of a label, about; LINE its height
LINE = 13
WIDER = 0.4  # how far an interval may widen the axis, as a share of what the points need; a few seeds' are endless
GAP = 8  # between a point and its label


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text and where it stands: `end` when it ends at x instead of beginning there."""

    x: float
    y: float
    text: str
    is_end: bool

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        wide = LETTER * len(self.text)
        left = self.x - wide if self.is_end else self.x
        return left, self.y - LINE + 3, left + wide, self.y + 3


def far(kl: float) -> float:
    """Give the distance d of a KL in nats; estimates below 0 count as 0."""
    return math.sqrt(max(0.0, kl))


def frontier_chart(found: Frontier, colours: Mapping[str, int], *, y_label: str, width: int, more: str) -> Html:
    """Draw every method with its intervals, the rounds of those that began at the start, and best of n."""
    trails = [(t.name, over_seeds(t.rows)) for t in found.trails if t.begins_at == found.start]
    spots = [(far(x), y) for _, rows in trails for x, y in rows] + [(far(r["kl"]), r["gold"]) for r in found.best_of]
    spots += [(far(p.kl.mean), p.gold.mean) for p in found.points]
    if not spots:
        return el("p", {"class": "quiet"}, "no distance was measured")
    frame = frame_of(spots, [p.gold for p in found.points], width=width, height=round(width * 0.5 + 100))
    parts = axes(frame, nats(frame), f"KL from {found.start}, nats", y_label)
    parts += _picked(frame, found.best_of)
    for name, rows in trails:
        parts += _way(frame, rows, colours[name])
    anchors = []
    for point in found.points:
        series, x, y = colours[point.name], frame.across(far(point.kl.mean)), frame.down(point.gold.mean)
        parts += _crosshair(frame, point.kl, point.gold, series)
        tip = f"{point.name}: {_said(point.gold)} at {_said(point.kl)} nats"
        parts.append(marker(x, y, series, size=5.5, tip=tip))
        anchors.append((x, y, point.name))
    for label in place_labels(anchors, right=width - RIGHT):
        where = {"x": label.x, "y": label.y, "class": "name end" if label.is_end else "name"}
        parts.append(el("text", where, label.text))
    return drawing(frame, parts, "reward of every method over its distance from the start", more)


def rounds_chart(rows: Rows, key: str, fits: Rows, series: int, *, x_label: str, y_label: str) -> Html:
    """Draw a figure of single rounds over distance, with the first of the fitted curves and where it turns."""
    spots = [(far(row["kl"]), float(row[key])) for row in rows if key in row]
    frame = frame_of(spots, [], width=360, height=190)
    parts = axes(frame, nats(frame), x_label, y_label)
    parts += [marker(frame.across(x), frame.down(y), series, size=2.6, kind="dot faint") for x, y in spots]
    for f in fits[:1]:
        points = [(frame.across(far(kl)), frame.down(reward)) for kl, reward in f["curve"]]
        inside = [(x, y) for x, y in points if TOP - 8 <= y <= frame.height - BOTTOM + 8]
        line = {"class": f"line {tint(series)}", "points": " ".join(f"{x},{y}" for x, y in inside)}
        parts.append(el("polyline", line))
        if f.get("turn") is not None and f["turn"] <= f["far"] ** 2:
            x = frame.across(far(f["turn"]))
            parts.append(el("line", {"x1": x, "x2": x, "y1": TOP, "y2": frame.height - BOTTOM, "class": "turn"}))
            is_right = x > frame.width * 0.6
            words = {"x": x - 5 if is_right else x + 5, "y": TOP + 4, "class": "tick end" if is_right else "tick"}
            parts.append(el("text", words, f"turns at {number(f['turn'])}"))
    return drawing(frame, parts, f"{y_label} by distance")


def over_seeds(rows: Rows) -> list[tuple[float, float]]:
    """Average kl and gold of each round over seeds, in order of rounds."""
    rounds: dict[float, list[Mapping[str, float]]] = {}
    for row in rows:
        rounds.setdefault(row.get("round", 0), []).append(row)
    return [(fmean(r["kl"] for r in rounds[n]), fmean(r["gold"] for r in rounds[n])) for n in sorted(rounds)]


def frame_of(spots: Sequence[tuple[float, float]], figures: Sequence[Figure], *, width: int, height: int) -> Frame:
    """Choose axes that hold all points with some air, and the intervals of figures that are not far wider."""
    right = max(x for x, _ in spots) * 1.08 or 1.0
    low, high = min(y for _, y in spots), max(y for _, y in spots)
    reach = (high - low) * WIDER
    ends = [end for figure in figures for end in _ends(figure)]
    low, high = min([low, *(max(e, low - reach) for e in ends)]), max([high, *(min(e, high + reach) for e in ends)])
    air = 0.07 * (high - low) or max(abs(high), 1e-6) * 0.1
    return Frame(x=(0.0, right), y=(low - air, high + air), width=width, height=height)


def nats(frame: Frame) -> list[tuple[float, str]]:
    """Choose numbers of nats for the axis across that do not touch."""
    found: list[tuple[float, str]] = []
    for value in NATS:
        d = far(value)
        if d <= frame.x[1] and (not found or frame.across(d) - frame.across(found[-1][0]) >= APART):
            found.append((d, f"{value:g}"))
    return found


def place_labels(anchors: Sequence[tuple[float, float, str]], *, right: float) -> list[Label]:
    """Put a name beside every point where it touches neither a point nor another name; one without room has none."""
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y, _ in anchors]
    found: list[Label] = []
    for x, y, text in anchors:
        for label in _candidates(x, y, text):
            left, top, end, _ = label.box
            if left >= LEFT and end <= right and top >= 0 and not any(_touch(label.box, box) for box in taken):
                found.append(label)
                taken.append(label.box)
                break
    return found


def _candidates(x: float, y: float, text: str) -> Iterable[Label]:
    half = LETTER * len(text) / 2
    for is_end, side in ((False, x + GAP), (True, x - GAP)):
        yield Label(x=round(side, 1), y=y + 4, text=text, is_end=is_end)
    for lift in (-9, 18, -16, 25, -24, 33):
        for start in (x - half, x + 2, x - 2 * half):
            yield Label(x=round(start, 1), y=y + lift, text=text, is_end=False)


def _touch(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _picked(frame: Frame, rows: Rows) -> list[Html]:
    """Draw the line of best of n, with the n that can be told apart."""
    spots = [(frame.across(far(row["kl"])), frame.down(row["gold"]), int(row["n"])) for row in rows]
    if len(spots) < 2:
        return []
    parts = [el("polyline", {"class": "picked", "points": " ".join(f"{x},{y}" for x, y, _ in spots)})]
    last = -math.inf
    for x, y, n in spots:
        tip = el("title", None, f"best of {n}")
        parts.append(el("circle", {"cx": x, "cy": y, "r": 2.2, "class": "picked-dot"}, tip))
        if n > 1 and x - last >= 16:
            parts.append(el("text", {"x": x, "y": y - 7, "class": "tick mid"}, str(n)))
            last = x
    return parts


def _way(frame: Frame, rows: Sequence[tuple[float, float]], series: int) -> list[Html]:
    spots = [(frame.across(far(x)), frame.down(y)) for x, y in rows]
    line = {"class": f"way {tint(series)}", "stroke-dasharray": dashes(series)}
    parts = [el("polyline", {**line, "points": " ".join(f"{x},{y}" for x, y in spots)})]
    return [*parts, *(marker(x, y, series, size=2.2, kind="dot faint") for x, y in spots)]


def _crosshair(frame: Frame, kl: Figure, gold: Figure, series: int) -> list[Html]:
    """Draw both intervals; one that leaves the drawing is cut there, and dotted."""
    x, y = frame.across(far(kl.mean)), frame.down(gold.mean)
    away, reward = [far(end) for end in _ends(kl)], _ends(gold)
    left, right = (frame.across(_within(end, frame.x)) for end in away)
    low, high = (frame.down(_within(end, frame.y)) for end in reward)
    is_cut = [any(_within(end, ends) != end for end in both) for both, ends in ((away, frame.x), (reward, frame.y))]
    across, upwards = ({"class": f"whisker thin {tint(series)}{' cut' if cut else ''}"} for cut in is_cut)
    return [
        el("line", {**across, "x1": left, "x2": right, "y1": y, "y2": y}),
        el("line", {**upwards, "x1": x, "x2": x, "y1": low, "y2": high}),
    ]


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])


def _ends(figure: Figure) -> tuple[float, float]:
    return (figure.mean, figure.mean) if figure.low is None or figure.high is None else (figure.low, figure.high)


def _said(figure: Figure) -> str:
    ends = interval(figure)
    return number(figure.mean) + (f" ({ends})" if ends else "")


def trails_with(trails: Sequence[Trail], key: str) -> list[Trail]:
    """Choose the trails whose rows have a figure."""
    return [t for t in trails if any(key in row for row in t.rows)]

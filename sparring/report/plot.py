"""The figures of a page as PNG and SVG, for papers; the only file that imports matplotlib, which is an extra.

Drawn from the same inputs as the page, in the same colours, on white.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.core.metrics import METRICS
from sparring.models.checkpoint import write_bytes
from sparring.report.charts import by_x, thin
from sparring.report.inputs import Frontier, Results, Rows, Sample, read_results, read_samples
from sparring.report.parts import FIRST, title_of
from sparring.report.plane import NATS, far, over_seeds
from sparring.report.spread import bins_of, kinds_of, means_of
from sparring.report.tables import column_of, yardstick_first

MISSING = 'no figures for papers: they need an extra, pip install "sparring[plot]"'
COLOURS = (
    "#0072b2", "#d55e00", "#008f68", "#a8508a", "#866a00", "#4d4d4d", "#b3001b", "#00838f", "#6a4fc4", "#8d4a2b",
)  # fmt: skip
MARKS = "os^DvPX"
DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (12, 3)), (0, (4, 3)), (0, (9, 2, 2, 2, 2, 2)))
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "font.size": 9, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "sparring", "figure.dpi": 200,
}  # fmt: skip

Axes = Any
Draw = Callable[[Any], None]
"""Draws on an empty matplotlib Figure."""


def write_figures(
    folder: Path, results: Mapping[str, Any], curves: Mapping[str, Rows], samples: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write every figure that there is something to draw in, as NAME.png and NAME.svg; returns what was written.

    Raises ImportError where matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    found, shown = read_results(results), read_samples(samples)
    names = list(dict.fromkeys([*(m.name for m in found.methods), *curves]))
    colours = {name: place for place, name in enumerate(names)}
    written = []
    for name, draw in _figures(found, curves, shown, colours).items():
        with matplotlib.rc_context(STYLE):
            figure = Figure(layout="constrained")
            draw(figure)
            for kind in ("png", "svg"):
                file = io.BytesIO()
                figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
                written.append(folder / f"{name}.{kind}")
                write_bytes(written[-1], file.getvalue())
    return written


def _figures(
    found: Results, curves: Mapping[str, Rows], samples: Sequence[Sample], colours: Mapping[str, int]
) -> dict[str, Draw]:
    key = next(iter(yardstick_first(found)), "")
    label = column_of(key).title if key else "reward"
    filled = {name: rows for name, rows in curves.items() if rows}
    drawn = {k for rows in filled.values() for row in rows for k in row}
    keys = [k for k in FIRST if k in drawn and any(len(by_x(rows, _clock(rows), k)) > 1 for rows in filled.values())]
    means = means_of(samples, list(colours))
    every: dict[str, tuple[bool, Draw]] = {
        "reward": (bool(key), lambda f: _reward(f, found, key, label, colours)),
        "frontier": (len(found.frontier.points) > 1, lambda f: _frontier(f, found.frontier, label, colours)),
        "overoptimisation": (
            bool(found.frontier.trails), lambda f: _overoptimisation(f, found.frontier, label, colours)
        ),
        "spread": (bool(samples), lambda f: _spread(f, samples, found.base, colours)),
        "heatmap": (len(means) > 1, lambda f: _heatmap(f, means, label)),
        "curves": (bool(keys), lambda f: _curves(f, filled, keys, colours)),
    }  # fmt: skip
    return {name: draw for name, (is_there, draw) in every.items() if is_there}


def _reward(figure: Any, found: Results, key: str, label: str, colours: Mapping[str, int]) -> None:
    rated = [(m.name, m.figures[key]) for m in found.methods if key in m.figures][::-1]
    figure.set_size_inches(5, 0.6 + 0.28 * len(rated))
    axes = figure.subplots()
    for place, (name, value) in enumerate(rated):
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [place, place], color=_colour(colours[name]), alpha=0.6)
        axes.plot([value.mean], [place], "o", color=_colour(colours[name]))
    axes.set_yticks(range(len(rated)), [name for name, _ in rated])
    axes.set_xlabel(f"{label}, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)


def _frontier(figure: Any, found: Frontier, label: str, colours: Mapping[str, int]) -> None:
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    if found.best_of:
        points = [(far(row["kl"]), row["gold"]) for row in found.best_of]
        axes.plot(*zip(*points, strict=True), ".--", color="0.2", lw=1, ms=3, label="best of n")
    for trail in found.trails:
        if trail.begins_at == found.start:
            points = [(far(kl), gold) for kl, gold in over_seeds(trail.rows)]
            axes.plot(*zip(*points, strict=True), ".-", color=_colour(colours[trail.name]), lw=0.8, ms=3, alpha=0.5)
    low, high = axes.get_ylim()
    for point in found.points:
        series, x = colours[point.name], far(point.kl.mean)
        axes.plot([x], [point.gold.mean], MARKS[series % len(MARKS)], color=_colour(series), label=point.name)
        if point.gold.low is not None and point.gold.high is not None:
            axes.plot([x, x], [point.gold.low, point.gold.high], color=_colour(series), lw=1, alpha=0.7)
    if found.best_of or found.trails:
        means = [p.gold.mean for p in found.points]
        reach = 0.4 * (max(high, *means) - min(low, *means))
        axes.set_ylim(
            max(axes.get_ylim()[0], min(low, *means) - reach), min(axes.get_ylim()[1], max(high, *means) + reach)
        )
    _nats(axes, found.start)
    axes.set_ylabel(label)
    axes.legend(fontsize=7, ncols=2)


def _overoptimisation(figure: Any, found: Frontier, label: str, colours: Mapping[str, int]) -> None:
    figure.set_size_inches(3 * len(found.trails), 4.2)
    grid = figure.subplots(2, len(found.trails), squeeze=False)
    for place, trail in enumerate(found.trails):
        colour = _colour(colours[trail.name])
        for axes, key, said in zip(grid[:, place], ("gold", "proxy"), (label, "its own judge"), strict=True):
            points = [(far(row["kl"]), row[key]) for row in trail.rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.5, ms=4)
            _nats(axes, trail.begins_at)
            axes.set_ylabel(said)
        grid[0, place].set_title(trail.name)
        fit = next((f for f in found.fits if f["name"] == trail.name), None)
        if fit is not None:
            grid[0, place].plot([far(kl) for kl, _ in fit["curve"]], [y for _, y in fit["curve"]], color=colour)
            if fit["turn"] is not None and fit["turn"] <= fit["far"] ** 2:
                grid[0, place].axvline(far(fit["turn"]), color="0.2", lw=0.8, ls=":")


def _spread(figure: Any, samples: Sequence[Sample], base: str, colours: Mapping[str, int]) -> None:
    kinds = kinds_of(samples, list(colours), base)
    names = [name for name in colours if any(values.get(name) for values in kinds.values())]
    figure.set_size_inches(2.4 * len(kinds), 0.5 + 0.6 * len(names))
    grid = figure.subplots(len(names), len(kinds), squeeze=False, sharex="col")
    for column, (title, values) in enumerate(kinds.items()):
        edges = bins_of([x for some in values.values() for x in some]).edges
        for axes, name in zip(grid[:, column], names, strict=True):
            axes.set_visible(name in values)
            axes.hist(values.get(name, []), bins=edges, color=_colour(colours[name]))
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center")
        grid[-1, column].set_xlabel(title)


def _heatmap(figure: Any, means: Mapping[str, Sequence[float]], label: str) -> None:
    figure.set_size_inches(6, 0.8 + 0.25 * len(means))
    columns = next(iter(means.values()))
    order = sorted(range(len(columns)), key=lambda i: fmean(row[i] for row in means.values()))
    names = sorted(means, key=lambda name: -fmean(means[name]))
    axes = figure.subplots()
    image = axes.imshow(
        [[means[n][i] for i in order] for n in names], aspect="auto", cmap="Blues", interpolation="none"
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"{len(order)} prompts, the hardest first")
    figure.colorbar(image, label=label)


def _curves(figure: Any, curves: Mapping[str, Rows], keys: Sequence[str], colours: Mapping[str, int]) -> None:
    wide = min(3, len(keys))
    high = -(-len(keys) // wide)
    figure.set_size_inches(2.8 * wide, 2.1 * high + 0.4)
    grid = figure.subplots(high, wide, squeeze=False).flatten()
    for axes, key in zip(grid, keys, strict=False):
        for name, rows in curves.items():
            if len(points := by_x(rows, _clock(rows), key)) > 1:
                series = colours[name]
                line = {"color": _colour(series), "ls": DASHES[series % len(DASHES)], "lw": 1.2, "label": name}
                axes.plot(*zip(*thin(points), strict=True), **line)
                axes.set_xlabel(_clock(rows))
        axes.set_title(title_of(key))
        axes.set_ylabel(METRICS[key].unit if key in METRICS else "")
    for axes in grid[len(keys) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in grid for line in axes.get_lines()}
    if len(lines) > 1:
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, fontsize=8)


def _nats(axes: Axes, start: str) -> None:
    """Label an axis of square roots in nats."""
    end = axes.get_xlim()[1]
    spots: list[float] = []
    for value in NATS:
        if far(value) <= end and (not spots or far(value) - far(spots[-1]) > end / 9):
            spots.append(value)
    axes.set_xticks([far(v) for v in spots], [f"{v:g}" for v in spots])
    axes.set_xlabel(f"KL from {start}, nats")


def _clock(rows: Rows) -> str:
    return "round" if all("round" in row for row in rows) else "step"


def _colour(series: int) -> str:
    return COLOURS[series % len(COLOURS)]

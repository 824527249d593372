"""One self-contained HTML page for a comparison of methods: it opens anywhere and fetches nothing.

Order: the verdict, the reward of every method with its interval, the tables, reward over distance, how it all spreads
over prompts, what the methods wrote side by side, the curves of training, the cost, and how to make it all again. The
page of a single run is in run.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report.browser import browser_section
from sparring.report.charts import bounds_of, interval_axis, interval_row
from sparring.report.distance import frontier_section, overoptimisation_section
from sparring.report.figures import number
from sparring.report.html import Html, el, page
from sparring.report.inputs import Results, Rows, read_results, read_samples
from sparring.report.parts import curves_section, section, settings_section
from sparring.report.spread import heat_section, spread_section
from sparring.report.tables import (
    column_of,
    costs_section,
    differences_section,
    figures_section,
    small_interval,
    yardstick_first,
)


def comparison_page(
    results: Mapping[str, Any], curves: Mapping[str, Rows], samples: Sequence[Mapping[str, Any]]
) -> str:
    """Write the page of a comparison; the three inputs are described in inputs.py.

    Raises DataError, naming the field, when an input is not as described.
    """
    found, shown = read_results(results), read_samples(samples)
    names = list(dict.fromkeys([*(m.name for m in found.methods), *curves]))
    names += [name for name in dict.fromkeys(a.method for s in shown for a in s.answers) if name not in names]
    colours = {name: place for place, name in enumerate(names)}
    y_label = _yardstick(found)
    body = [_head(found), _dots(found, colours), *differences_section(found), figures_section(found)]
    body += frontier_section(found.frontier, colours, y_label=y_label)
    body += overoptimisation_section(found.frontier, colours, _moving(curves), y_label=y_label)
    if shown:
        body += spread_section(shown, names, found.base, colours)
        body += heat_section(shown, names)
        body.append(browser_section(shown, names, found.base, colours))
    if any(curves.values()):
        body.append(curves_section(curves, colours))
    body += costs_section(found)
    body.append(settings_section(found.settings, found.command, found.machine, found.made, found.notes))
    return page(found.title, body)


def _head(found: Results) -> Html:
    facts = [f"{len(found.methods)} methods"]
    facts += [f"seeds: {found.seeds}"] if found.seeds else []
    facts += [f"held-out prompts: {found.prompts}"] if found.prompts else []
    said = [text for text in (found.headline, *found.verdict.split("\n")) if text]
    inside = [el("h1", None, found.title)]
    inside += [el("p", {"class": "verdict" if place == 0 else "reasons"}, text) for place, text in enumerate(said)]
    return el("header", None, [*inside, el("p", {"class": "quiet"}, " \N{MIDDLE DOT} ".join(facts))])


def _dots(found: Results, colours: Mapping[str, int]) -> Html:
    """Plot the figure that the comparison is about."""
    key = next(iter(yardstick_first(found)), "")
    rated = [(m.name, m.figures[key]) for m in found.methods if key in m.figures]
    if not rated:
        return Html("")
    column = column_of(key)
    bounds = bounds_of([figure for _, figure in rated])
    rows: list[Html] = []
    for name, figure in rated:
        value = [number(figure.mean, column.digits), *small_interval(figure, column.digits)]
        row = [
            el("div", {"class": "name"}, name),
            el("div", {"class": "track"}, interval_row(figure, bounds, colours[name])),
            el("div", {"class": "value"}, value),
        ]
        rows += [el("div", {"class": "row"}, row)]
    rows.append(
        el("div", {"class": "row foot"}, [el("div"), el("div", {"class": "track"}, interval_axis(bounds)), el("div")])
    )
    title = f"{column.title[:1].upper()}{column.title[1:]}"
    return section(title, "Dots are means, lines their 95 % intervals.", [el("div", {"class": "dot-plot"}, rows)])


def _yardstick(found: Results) -> str:
    """Name the figure that the comparison is about."""
    return next((column_of(key).title for key in yardstick_first(found)), "reward")


def _moving(curves: Mapping[str, Rows]) -> set[str]:
    """Find the methods whose judge learns along, so that its scores of two rounds are by two judges."""
    return {name for name, rows in curves.items() if any("judge_loss" in row for row in rows)}

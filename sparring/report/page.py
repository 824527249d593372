"""One self-contained HTML page for a comparison of methods: it opens anywhere and fetches nothing.

Order: the verdict, the reward of every method with its interval, the table, the curves, what the methods
wrote side by side, and how to make it all again. The page of a single run is in run.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.report.charts import bounds_of, interval_axis, interval_row
from sparring.report.figures import NONE, Figure, duration, interval, number
from sparring.report.html import Html, el, page
from sparring.report.inputs import MethodResult, Results, Rows, Sample, read_results, read_samples
from sparring.report.parts import Card, Entry, curves_section, samples_section, section, settings_section, title_of

COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a figure stands in the table: its heading, its decimals, its meaning."""

    title: str
    digits: int | None
    meaning: str


COLUMNS = {
    "gold": Column(title="gold reward", digits=3, meaning="mean reward by the yardstick that no method was trained on"),
    "kl": Column(title="KL", digits=1, meaning="distance from the model everything started from, nats per response"),
    "distinct_2": Column(
        title="distinct-2", digits=3, meaning="different pairs of neighbouring tokens as a share of all pairs"
    ),
    "length": Column(title="length", digits=1, meaning="mean length of a response, tokens"),
}


def comparison_page(
    results: Mapping[str, Any], curves: Mapping[str, Rows], samples: Sequence[Mapping[str, Any]]
) -> str:
    """Write the page of a comparison; the three inputs are described in inputs.py.

    Raises DataError, naming the field, when an input is not as described.
    """
    found = read_results(results)
    names = list(dict.fromkeys([*(m.name for m in found.methods), *curves]))
    shown = read_samples(samples)
    names += [a.method for sample in shown for a in sample.answers if a.method not in names]
    colours = {name: place % COLOURS for place, name in enumerate(dict.fromkeys(names))}
    body = [_head(found), _dots(found, colours), _table(found)]
    if any(curves.values()):
        body.append(curves_section(curves, colours))
    if shown:
        body.append(_samples(shown, colours))
    body.append(settings_section(found.settings, found.command, found.machine))
    return page(found.title, body)


def _head(found: Results) -> Html:
    facts = [f"{len(found.methods)} methods"]
    facts += [f"seeds: {found.seeds}"] if found.seeds else []
    facts += [f"held-out prompts: {found.prompts}"] if found.prompts else []
    inside = [el("h1", None, found.title)]
    if found.verdict:
        inside.append(el("p", {"class": "verdict"}, found.verdict))
    return el("header", None, [*inside, el("p", {"class": "quiet"}, " \N{MIDDLE DOT} ".join(facts))])


def _dots(found: Results, colours: Mapping[str, int]) -> Html:
    """Plot the first figure of the table, which is what the comparison is about."""
    key = next(iter(_keys(found)), "")
    rated = [(m.name, m.figures[key]) for m in found.methods if key in m.figures]
    if not rated:
        return Html("")
    column = _column(key)
    bounds = bounds_of([figure for _, figure in rated])
    rows: list[Html] = []
    for name, figure in rated:
        value = [number(figure.mean, column.digits), *_small(figure, column.digits)]
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


def _table(found: Results) -> Html:
    keys = _keys(found)
    has_times = any(m.seconds is not None for m in found.methods)
    heads = [el("th", {"scope": "col"}, "method")]
    heads += [el("th", {"scope": "col", "class": "num"}, _column(key).title) for key in keys]
    heads += [el("th", {"scope": "col", "class": "num"}, "time")] if has_times else []
    rows = [el("tr", None, _row(m, keys, has_times=has_times)) for m in found.methods]
    table = el("table", None, [el("thead", None, el("tr", None, heads)), el("tbody", None, rows)])
    meanings = [
        piece
        for key in keys
        if (column := _column(key)).meaning
        for piece in (el("dt", None, column.title), el("dd", None, column.meaning))
    ]
    return section("All figures", "", [el("div", {"class": "wide"}, table), el("dl", {"class": "meanings"}, meanings)])


def _row(result: MethodResult, keys: Sequence[str], *, has_times: bool) -> list[Html]:
    note = [el("small", None, result.note)] if result.note else []
    cells = [el("th", {"scope": "row"}, [result.name, *note])]
    for key in keys:
        figure, digits = result.figures.get(key), _column(key).digits
        inside: list[str] = [NONE] if figure is None else [number(figure.mean, digits), *_small(figure, digits)]
        cells.append(el("td", {"class": "num"}, inside))
    if has_times:
        cells.append(el("td", {"class": "num"}, NONE if result.seconds is None else duration(result.seconds)))
    return cells


def _samples(samples: Sequence[Sample], colours: Mapping[str, int]) -> Html:
    cards = [
        Card(
            title=sample.prompt,
            detail="",
            entries=tuple(
                Entry(who=a.method, colour=colours[a.method], text=a.text, score=a.score) for a in sample.answers
            ),
        )
        for sample in samples
    ]
    return samples_section("Side by side", "The same held-out prompt, each method's response and its reward.", cards)


def _keys(found: Results) -> list[str]:
    known = dict.fromkeys(key for m in found.methods for key in m.figures)
    return [key for key in COLUMNS if key in known] + [key for key in known if key not in COLUMNS]


def _column(key: str) -> Column:
    return COLUMNS.get(key, Column(title=title_of(key), digits=None, meaning=""))


def _small(figure: Figure, digits: int | None) -> list[Html]:
    written = interval(figure, digits)
    return [Html(" "), el("small", None, written)] if written else []

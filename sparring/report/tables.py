"""The tables of a comparison: every figure, the tested differences, and what each method cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparring.report.figures import NONE, Figure, duration, interval, number
from sparring.report.html import Html, el
from sparring.report.inputs import COSTS, MethodResult, Results, Rows
from sparring.report.parts import section, title_of


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a figure stands in the table: its heading, its decimals, its meaning."""

    title: str
    digits: int | None
    meaning: str


COLUMNS = {
    "gold": Column(title="gold reward", digits=3, meaning="mean reward by the yardstick that no method was trained on"),
    "kl": Column(title="KL", digits=1, meaning="distance from the model everything started from, nats per response"),
    "win_rate": Column(
        title="win rate", digits=3, meaning="share of prompts where it scores above the start, a tie as half"
    ),
    "distinct_2": Column(
        title="distinct-2", digits=3, meaning="different pairs of neighbouring tokens as a share of all pairs"
    ),
    "length": Column(title="length", digits=1, meaning="mean length of a response, tokens"),
    "words": Column(title="words", digits=1, meaning="mean length of a response, words"),
    "perplexity": Column(
        title="perplexity", digits=1, meaning="of the responses under the model everything started from"
    ),
    "copied_words": Column(
        title="copied words", digits=1, meaning="the longest run of a response's words that stands in the training data"
    ),
    "copied_words_max": Column(title="copied at most", digits=0, meaning="the longest such run of any response"),
}
COST_COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("time", duration),
    "tokens": ("tokens", number),
    "flops": ("operations", lambda x: f"{x:.2g}".replace("e+", "e")),
    "memory": ("memory, MB", lambda x: number(x, 0)),
    "labels": ("labels", number),
}
FAMILIES = {"with the baselines": "Against the baselines", "among themselves": "Among themselves"}


def keys_of(found: Results) -> list[str]:
    """List the figures of the table in their order, costs aside."""
    known = dict.fromkeys(key for m in found.methods for key in m.figures if key not in COSTS)
    return [key for key in COLUMNS if key in known] + [key for key in known if key not in COLUMNS]


def yardstick_first(found: Results) -> list[str]:
    """List the figures with the one that the comparison is about before the others."""
    keys = keys_of(found)
    first = next((key for m in found.methods for key in m.figures if key not in COSTS), None)
    return [*([first] if first else []), *(key for key in keys if key != first)]


def column_of(key: str) -> Column:
    """Say how a figure is written."""
    return COLUMNS.get(key, Column(title=title_of(key), digits=None, meaning=""))


def small_interval(figure: Figure, digits: int | None) -> list[Html]:
    """Write the interval of a figure in small print, if it has one."""
    written = interval(figure, digits)
    return [Html(" "), el("small", None, written)] if written else []


def figures_section(found: Results) -> Html:
    """Tabulate every figure of every method with its interval."""
    keys = yardstick_first(found)
    rows = []
    for m in found.methods:
        note = [el("small", None, m.note)] if m.note else []
        cells = [el("th", {"scope": "row"}, [m.name, *note])]
        for key in keys:
            figure, digits = m.figures.get(key), column_of(key).digits
            inside: list[str] = (
                [NONE] if figure is None else [number(figure.mean, digits), *small_interval(figure, digits)]
            )
            cells.append(el("td", {"class": "num"}, inside))
        rows.append(cells)
    meanings = [
        piece
        for key in keys
        if (column := column_of(key)).meaning
        for piece in (el("dt", None, column.title), el("dd", None, column.meaning))
    ]
    parts = [
        table_of(["method", *(column_of(key).title for key in keys)], rows),
        el("dl", {"class": "meanings"}, meanings),
    ]
    return section("All figures", "", parts)


def differences_section(found: Results) -> list[Html]:
    """Tabulate the tested differences; those of methods among themselves are one click away."""
    made = []
    for key, rows in found.tests.items():
        table = _tests(rows)
        made.append(table if not made else el("details", None, [el("summary", None, FAMILIES.get(key, key)), table]))
    lead = "Mean difference on the same prompts and seeds, its 95 % interval, and p after Holm's correction."
    return [section("What is beyond doubt", lead, made)] if made else []


def costs_section(found: Results) -> list[Html]:
    """Tabulate what each method cost; nothing when nobody counted."""
    lines = [(m, _costs(m)) for m in (*found.methods, *found.judges)]
    keys = [key for key in COSTS if any(costs.get(key) is not None for _, costs in lines)]
    if not keys:
        return []
    most = {key: max(costs.get(key) or 0.0 for _, costs in lines) for key in keys}
    rows = []
    for m, costs in lines:
        cells = [el("th", {"scope": "row"}, m.name)]
        for key in keys:
            value = costs.get(key)
            inside = [NONE] if value is None else [COST_COLUMNS[key][1](value), _bar(value, most[key])]
            cells.append(el("td", {"class": "num"}, inside))
        rows.append(cells)
    lead = (
        "Of one seed. Tokens and operations were counted before anything ran, time and memory measured; labels are the "
        "records learnt from. What a reward model cost is in each line that it pays. A method's start is in its own "
        "line only, and best of n pays when it answers."
    )
    return [section("Cost", lead, [table_of(["method", *(COST_COLUMNS[key][0] for key in keys)], rows)])]


def table_of(heads: Sequence[str], rows: Sequence[Sequence[Html]], words: int = 1) -> Html:
    """Write a table that scrolls for itself where it is wide; its first `words` columns are text."""
    head = [el("th", {"scope": "col", **({} if i < words else {"class": "num"})}, h) for i, h in enumerate(heads)]
    body = [el("tr", None, row) for row in rows]
    table = el("table", None, [el("thead", None, el("tr", None, head)), el("tbody", None, body)])
    return el("div", {"class": "wide", "tabindex": "0"}, table)


def _tests(rows: Rows) -> Html:
    made = []
    for row in rows:
        figure = Figure(mean=row["mean"], low=row.get("low"), high=row.get("high"))
        p = row.get("adjusted")
        sure = p is not None and p < 0.05
        verdict = ("better" if row["mean"] > 0 else "worse") if sure else "not to be told apart"
        if (more := row.get("seeds_needed")) is not None:
            verdict += f"; about {more} seeds would tell"
        made.append([
            el("th", {"scope": "row"}, row["name"]), el("td", None, row["rival"]),
            el("td", {"class": "num"}, [number(figure.mean, 3), *small_interval(figure, 3)]),
            el("td", {"class": "num"}, NONE if p is None else "< 0.001" if p < 0.001 else number(p, 3)),
            el("td", {"class": "sure" if sure else "unsure"}, verdict),
        ])  # fmt: skip
    return table_of(["method", "compared with", "difference", "p", ""], made, words=2)


def _costs(m: MethodResult) -> dict[str, float | None]:
    return {"seconds": m.seconds, **{key: m.figures[key].mean for key in COSTS if key in m.figures}}


def _bar(value: float, most: float) -> Html:
    line = {"x": 0, "y": 0, "height": 3, "width": f"{100 * value / most if most else 0:.1f}%"}
    return el("svg", {"class": "bar", "width": "100%", "height": 3, "aria-hidden": "true"}, el("rect", line))

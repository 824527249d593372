"""The sections about distance: what reward costs in KL, and where a judge's score stops being worth anything."""

from collections.abc import Mapping

from sparring.report.figures import number
from sparring.report.html import Html, el
from sparring.report.inputs import Frontier, Rows
from sparring.report.parts import section
from sparring.report.plane import frontier_chart, rounds_chart, trails_with
from sparring.report.tables import table_of

WIDE, NARROW = 760, 360
PICKED = "best of n"


def frontier_section(found: Frontier, colours: Mapping[str, int], *, y_label: str) -> list[Html]:
    """Draw the frontier, once for wide and once for narrow pages; nothing when fewer than two points are known."""
    if len(found.points) + len(found.best_of) + len(found.trails) < 2:
        return []
    charts = [
        frontier_chart(found, colours, y_label=y_label, width=width, more=more)
        for width, more in ((WIDE, "when-wide"), (NARROW, "when-narrow"))
    ]
    lead = (
        f"Upwards is better, to the left is cheaper: what each method reached, and how far from {found.start} it went."
    )
    said = ["Lines through the large marks are 95 % intervals over seeds, dotted where they leave the drawing."]
    if any(t.begins_at == found.start for t in found.trails):
        said.append("Small marks are rounds on the way, by the samples of training and their distance then.")
    if found.best_of:
        said.append(
            f"The dashed line is the best of 1, 2, ... {found.best_of[-1]['n']} by {_short(found.picker)}, without any "
            "training: its distance is log n - (n - 1) / n at most, its reward follows from the samples in closed form."
        )
    note = el("p", {"class": "note"}, " ".join(said))
    return [section("Reward and distance", lead, [el("figure", {"class": "frontier"}, [*charts, note])])]


def overoptimisation_section(
    found: Frontier, colours: Mapping[str, int], moving: set[str], *, y_label: str
) -> list[Html]:
    """Draw yardstick and judge of each method over distance, with the fitted curves; `moving` judges learn along."""
    shown = [(t.name, t.rows, colours[t.name], t.begins_at) for t in trails_with(found.trails, "gold")]
    if len(found.best_of) > 1:
        shown.append((PICKED, found.best_of, max(colours.values()) + 1, found.start))
    if not shown:
        return []
    lead = (
        "A judge that is optimised ends up fooled: its score goes on rising while the reward that was meant turns. "
        "Above, the yardstick; below, the judge that the method learns from. Curves are least squares over all seeds."
    )
    panels = [_panel(*one, found.fits, name in moving, y_label) for one in shown for name in [one[0]]]
    table = [_fits(found.fits)] if found.fits else []
    return [section("Over-optimisation", lead, [el("div", {"class": "charts"}, panels), *table])]


def _panel(name: str, rows: Rows, series: int, start: str, fits: Rows, is_moving: bool, y_label: str) -> Html:
    own = [fit for fit in fits if fit["name"] == name]
    x_label, is_picked = f"KL from {start}, nats", name == PICKED
    charts = [rounds_chart(rows, "gold", own, series, x_label=x_label, y_label=y_label)]
    words = [f"{own[0]['says'][:1].upper()}{own[0]['says'][1:]}."] if own else []
    if not own:
        far, cure = (
            len({row["kl"] for row in rows}),
            "best_of draws more" if is_picked else "save_every writes down more",
        )
        words.append(f"No curve: {far} {'distance is' if far == 1 else 'distances are'} too few; {cure}.")
    if any("proxy" in row for row in rows):
        judge = "the judge that picks" if is_picked else "its own judge"
        charts.append(rounds_chart(rows, "proxy", [], series, x_label=x_label, y_label=judge))
        words += ["Its judge learns along, so its scores of two rounds are by two judges."] if is_moving else []
    return el("figure", {"class": "panel"}, [el("h3", None, name), *charts, el("figcaption", None, " ".join(words))])


def _fits(fits: Rows) -> Html:
    """Tabulate all fitted curves, the other form of each as well."""
    rows = []
    for f in fits:
        turn = "" if f.get("turn") is None else number(f["turn"]) + (" (beyond)" if f["turn"] > f["far"] ** 2 else "")
        numbers = [number(f["a"]), number(f["b"]), f"{f['explained']:.0%}", turn]
        cells = [el("th", {"scope": "row"}, f["name"]), el("td", None, f["equation"])]
        rows.append([*cells, *(el("td", {"class": "num"}, text) for text in numbers)])
    table = table_of(["method", "R(d) - R(0), d = sqrt(KL)", "a", "b", "explained", "turns at, nats"], rows, words=2)
    source = (
        "Forms of Gao et al. 2022, arXiv:2210.10760: d (a - b d) for best of n, d (a - b log d) for reinforcement "
        "learning. Here R(0) is fitted as well."
    )
    return el("details", None, [el("summary", None, "The fitted curves"), table, el("p", {"class": "note"}, source)])


def _short(judge: str) -> str:
    """Name a judge without its module."""
    return judge.rpartition(":")[2].strip("{}")

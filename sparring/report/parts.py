"""The parts that pages are made of: curves, cards with samples, settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.core.metrics import METRICS, Metric
from sparring.report.charts import Band, Series, by_x, line_chart, swatch, tint
from sparring.report.figures import number
from sparring.report.html import Html, el
from sparring.report.inputs import Rows

# What is shown first, in this order; everything else is one click away.
FIRST = (
    "gold",
    "score",
    "reward",
    "reward_accuracy",
    "judge_accuracy",
    "judge_accuracy_held_out",
    "judge_loss",
    "judge_loss_real",
    "judge_loss_fake",
    "nll_oracle",
    "nll_test",
    "accuracy_d",
    "kl",
    "ref_nll",
    "entropy",
    "length",
    "eos_rate",
    "distinct_2",
    "repeated_4grams",
    "loss",
    "eval_loss",
)
COUNTERS = ("step", "round", "epoch", "seconds", "tokens")
GOLD = Metric(
    meaning="mean reward by the yardstick that the method was not trained on",
    unit="reward",
    healthy="rises; when it falls while score rises, the judge is being fooled",
)
UNKNOWN = Metric(meaning="", unit="", healthy="")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One response on a card: who wrote it, with which colour; the score is None when there is none."""

    who: str
    colour: int
    text: str
    prompt: str = ""
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Responses that belong together, and what they share."""

    title: str
    detail: str
    entries: tuple[Entry, ...]


def section(title: str, lead: str, inside: Sequence[Html], attributes: Mapping[str, str] | None = None) -> Html:
    """Write a section with its heading and, if there is one, its line of introduction."""
    opening = [el("h2", None, title), *([el("p", {"class": "lead"}, lead)] if lead else [])]
    return el("section", attributes, [*opening, *inside])


def curves_section(curves: Mapping[str, Rows], colours: Mapping[str, int]) -> Html:
    """Draw every figure that was measured during training, the telling ones first."""
    filled = {name: rows for name, rows in curves.items() if rows}
    keys = {key for rows in filled.values() for row in rows for key in row if key not in COUNTERS}
    charts = {key: chart for key in sorted(keys) if (chart := _figure(key, filled, colours))}
    first = [charts.pop(key) for key in FIRST if key in charts]
    if not first:
        first, charts = list(charts.values()), {}
    if not first:
        return section("Training", "No figure was measured more than once.", [])
    inside = [_legend(filled, colours), el("div", {"class": "charts"}, first)]
    if charts:
        more = [el("summary", None, f"{len(charts)} more figures"), el("div", {"class": "charts"}, charts.values())]
        inside.append(el("details", None, more))
    return section("Training", "Where a figure leaves the shaded band, it is worth a look.", inside)


def samples_section(title: str, lead: str, cards: Sequence[Card]) -> Html:
    """Show samples on cards, with a picker and a filter that appear when the page may run its script."""
    choices = [el("option", {"value": place}, card.title) for place, card in enumerate(cards)]
    picker = [el("span", None, "Show"), el("select", None, [el("option", {"value": ""}, "everything"), *choices])]
    asked = {"type": "search", "placeholder": "a word in a prompt or response"}
    finder = [el("span", None, "Filter"), el("input", asked)]
    count = el("span", {"class": "quiet", "data-count": "", "aria-live": "polite"})
    controls = el(
        "div", {"class": "controls", "hidden": ""}, [el("label", None, picker), el("label", None, finder), count]
    )
    return section(title, lead, [controls, *map(card, cards)], {"data-samples": ""})


def settings_section(
    settings: Mapping[str, Any],
    command: str,
    machine: str,
    made: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Html:
    """Say how to make the page again: the command, and one click away all it was made from."""
    inside = [el("h3", None, "Command"), el("pre", None, command)] if command else []
    if notes:
        said = el("ul", {"class": "notes"}, [el("li", None, note) for note in notes])
        inside.append(el("details", None, [el("summary", None, f"What the evaluations noted ({len(notes)})"), said]))
    for title, content in {**(made or {}), "settings": settings}.items():
        if content:
            written = json.dumps(content, indent=2, ensure_ascii=False, default=str)
            summary = el("summary", None, title_of(title).capitalize())
            inside.append(el("details", None, [summary, el("pre", {"tabindex": "0"}, written)]))
    if machine:
        inside.append(el("p", {"class": "quiet"}, f"Machine: {machine}"))
    return section("How this was made", "", inside, {"class": "made"})


def title_of(key: str) -> str:
    """Write the name of a figure as words."""
    return key.replace("_", " ")


def _figure(key: str, curves: Mapping[str, Rows], colours: Mapping[str, int]) -> Html | None:
    x = "round" if all("round" in row for rows in curves.values() for row in rows if key in row) else "step"
    series = [
        Series(name=name, colour=colours[name], points=points)
        for name, rows in curves.items()
        if len(points := by_x(rows, x, key)) > 1
    ]
    if not series:
        return None
    metric = GOLD if key == "gold" else METRICS.get(key, UNKNOWN)
    title = title_of(key)
    band = Band(low=metric.low, high=metric.high)
    chart = line_chart(series, label=f"{title} by {x}", x_label=x, y_label=metric.unit, band=band)
    meaning = f"{metric.meaning[:1].upper()}{metric.meaning[1:]}. " if metric.meaning else ""
    healthy = f"Healthy: {metric.healthy}." if metric.healthy else ""
    return el("figure", None, [el("h3", None, title), chart, el("figcaption", None, meaning + healthy)])


def _legend(curves: Mapping[str, Rows], colours: Mapping[str, int]) -> Html:
    entries = [el("li", None, [swatch(colours[name]), name]) for name in curves] if len(curves) > 1 else []
    band = el("li", None, [el("span", {"class": "band-key"}), "healthy"])
    return el("ul", {"class": "legend"}, [*entries, band])


def card(card: Card) -> Html:
    """Write one card."""
    detail = [" ", el("span", None, card.detail)] if card.detail else []
    answers = el("div", {"class": "answers"}, [_entry(entry) for entry in card.entries])
    return el("article", {"class": "card"}, [el("h3", None, [card.title, *detail]), answers])


def _entry(entry: Entry) -> Html:
    who = [el("span", {"class": f"mark {tint(entry.colour)}"}), el("span", None, entry.who)]
    if entry.score is not None:
        who.append(el("span", {"class": "score"}, number(entry.score, 2)))
    prompt = [el("span", {"class": "prompt"}, entry.prompt), " "] if entry.prompt else []
    text = [*prompt, entry.text or "(nothing)"]
    return el("div", {"class": "answer"}, [el("div", {"class": "who"}, who), el("p", None, text)])

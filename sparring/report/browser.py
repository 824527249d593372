"""The sample browser: every prompt, and what each method wrote, side by side.

The texts lie in the page as one block of JSON, which its script shows a prompt at a time: sorted, filtered, with the
words that the base did not write marked. Without script the first prompts are simply there.
"""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean

from sparring.report.html import Html, el
from sparring.report.inputs import Sample
from sparring.report.parts import Card, Entry, card, section

MOST_BYTES = 4_000_000  # of texts in a page; more would take long to open
PLAIN = 3  # prompts that are there without script
SORTS = {
    "data": "as in the data",
    "gain": "largest gain first",
    "loss": "largest loss first",
    "best": "highest score first",
    "worst": "lowest score first",
}


def browser_section(samples: Sequence[Sample], names: Sequence[str], base: str, colours: Mapping[str, int]) -> Html:
    """Show all samples, or as many as a page can hold, which is then said."""
    names = [name for name in names if any(a.method == name for s in samples for a in s.answers)]
    base = base if base in names else names[0]
    rows = [_row(sample, names) for sample in samples]
    kept = _fitting(rows)
    content = {
        "names": names, "colours": [colours[name] for name in names], "base": names.index(base),
        "focus": names.index(_best(samples, names, base)), "rows": rows[:kept],
    }  # fmt: skip
    block = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    title, lead = "Responses", "One response to each held-out prompt, and its score."
    if len(names) > 1:
        title = "Side by side"
        lead = "The same held-out prompt, each method's response and its score; marked is what the first did not write."
    if kept < len(rows):
        lead += f" The first {kept} of {len(rows)} prompts fit into this page; the others are in the cells' eval.json."
    cards = [
        Card(title=s.prompt, detail="", entries=tuple(
            Entry(who=a.method, colour=colours[a.method], text=a.text, score=a.score) for a in s.answers
        ))
        for s in samples[:PLAIN]
    ]  # fmt: skip
    plain = el("div", {"data-plain": ""}, map(card, cards))
    data = el("script", {"type": "application/json"}, Html(block))
    return section(title, lead, [_controls(names), plain, data], {"data-browser": "", "id": "browser"})


def _controls(names: Sequence[str]) -> Html:
    methods = [el("option", {"value": place}, name) for place, name in enumerate(names)]
    keys = [key for key in SORTS if len(names) > 1 or key not in ("gain", "loss")]
    sorts = [el("option", {"value": key}, SORTS[key]) for key in keys]
    asked = {"type": "search", "placeholder": "a word in a prompt or response", "data-filter": ""}
    controls = [
        _labelled("Filter", el("input", asked)),
        _labelled("Sort", el("select", {"data-sort": ""}, sorts)),
        *(
            [_labelled("of", el("select", {"data-focus": ""}, methods)),
             _labelled("compared with", el("select", {"data-base": ""}, methods))]
            if len(names) > 1 else []
        ),
    ]  # fmt: skip
    step = {"type": "button"}
    steps = el(
        "div",
        {"class": "steps"},
        [
            el("button", {**step, "data-step": "-1"}, "Previous"),
            el("button", {**step, "data-step": "1"}, "Next"),
            el("span", {"class": "quiet", "data-count": "", "aria-live": "polite"}),
        ],
    )
    chooser = el("select", {"size": 7, "data-list": "", "aria-label": "prompts; the arrow keys go through them"})
    shown = el("div", {"data-shown": "", "class": "card"})
    inside = [el("div", {"class": "controls"}, controls), chooser, steps, shown]
    return el("div", {"data-app": "", "hidden": ""}, inside)


def _labelled(text: str, control: Html) -> Html:
    return el("label", None, [el("span", None, text), control])


def _row(sample: Sample, names: Sequence[str]) -> list[object]:
    known = {a.method: a for a in sample.answers}
    texts = [known[name].text if name in known else None for name in names]
    scores = [None if name not in known or (x := known[name].score) is None else round(x, 4) for name in names]
    return [sample.prompt, texts, scores]


def _fitting(rows: Sequence[list[object]]) -> int:
    """Count the rows that fit into a page."""
    total = 0
    for place, row in enumerate(rows):
        total += len(json.dumps(row, ensure_ascii=False).encode())
        if total > MOST_BYTES:
            return place
    return len(rows)


def _best(samples: Sequence[Sample], names: Sequence[str], base: str) -> str:
    """Name the method with the highest mean score beside the base."""

    def mean(name: str) -> float:
        scores = [a.score for s in samples for a in s.answers if a.method == name and a.score is not None]
        return fmean(scores) if scores else float("-inf")

    return max((name for name in names if name != base), key=mean, default=base)

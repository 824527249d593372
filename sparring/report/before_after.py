"""Responses to the same prompts side by side, of the policy as it was at the start, on the way, and at the end.

The before and after of the RLGAF paper's tables 2 and 8 to 11, from RUN/before_after.jsonl, with figures that show
at a glance what its authors saw by reading: length, variety, repetition, and by a judge's score what they labelled by
hand (sentiment, in table 2). Source: arXiv:2305.06176.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.evaluation.score import score
from sparring.evaluation.text import ngrams
from sparring.report.figures import NONE, number
from sparring.report.html import Html, el
from sparring.report.inputs import Rows
from sparring.report.parts import Card, Entry, samples_section, section

SHOWN = 4  # rounds, the first and the last among them
LEAD = (
    "The policy's responses to the same prompts with the same chances, at the start, on the way, and at the end. "
    "Where they are alike, nothing was learnt."
)


def before_after_sections(rows: Rows) -> list[Html]:
    """Write what is counted and what is read; nothing when there are not two rounds to compare."""
    rounds = sorted({int(row["round"]) for row in rows if "round" in row})
    if len(rounds) < 2:
        return []
    chosen = [rounds[round(i * (len(rounds) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    shown = list(dict.fromkeys(chosen))
    prompts = list(dict.fromkeys(str(row["prompt"]) for row in rows))
    said = {(int(row["round"]), str(row["prompt"])): row for row in rows}
    cards = [
        Card(title=f"Prompt {place}", detail=prompt, entries=tuple(
            Entry(who=_who(n), colour=0, text=str(said[n, prompt]["response"]), score=_first(said[n, prompt]))
            for n in shown if (n, prompt) in said
        ))
        for place, prompt in enumerate(prompts, start=1)
    ]  # fmt: skip
    by_round = {n: [row for row in rows if row["round"] == n] for n in shown}
    counted = section("Before and after", LEAD, [el("div", {"class": "wide"}, _table(by_round))])
    return [counted, samples_section("The same prompts again", "", cards)]


def scored(rows: Rows, feedback: Sequence[str]) -> list[dict[str, Any]]:
    """Add what each judge says of a row's response, under its name; an empty response gets no score."""
    out = [dict(row) for row in rows]
    spoken = [row for row in out if str(row["response"]).strip()]
    for judge in feedback:
        found = score(judge, [str(row["prompt"]) for row in spoken], [[str(row["response"])] for row in spoken])
        for row, (value,) in zip(spoken, found, strict=True):
            row.setdefault("scores", {})[judge] = value
    return out


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Describe responses: mean words, share of different word pairs among all, repeated 4-grams, ended by itself."""
    texts = [tuple(str(row["response"]).split()) for row in rows]
    pairs = [pair for words in texts for pair in ngrams(words, 2)]
    fours = [ngrams(words, 4) for words in texts]
    total = sum(map(len, fours))
    judged: dict[str, list[float]] = {}
    for row in rows:
        for judge, value in row.get("scores", {}).items():
            judged.setdefault(judge, []).append(value)
    return {judge: sum(values) / len(values) for judge, values in judged.items()} | {
        "words": sum(map(len, texts)) / len(texts),
        "distinct pairs": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "repeated 4-grams": sum(len(found) - len(set(found)) for found in fours) / total if total else 0.0,
        "ended": sum(row.get("stop") == "eos" for row in rows) / len(rows),
    }


def _first(row: Mapping[str, Any]) -> float | None:
    """The score of a response by the first judge, if there is one."""
    return next(iter(row.get("scores", {}).values()), None)


def _who(n: int) -> str:
    return f"round {n}" if n else "at the start"


def _table(by_round: Mapping[int, Sequence[Mapping[str, Any]]]) -> Html:
    found = {n: figures_of(rows) for n, rows in by_round.items()}
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    heads = [el("th", {"scope": "col"}, ""), *(el("th", {"scope": "col", "class": "num"}, name) for name in names)]
    lines = [
        el("tr", None, [el("th", {"scope": "row"}, _who(n)),
                        *(el("td", {"class": "num"}, number(one[name]) if name in one else NONE) for name in names)])
        for n, one in found.items()
    ]  # fmt: skip
    return el("table", {"class": "narrow"}, [el("thead", None, el("tr", None, heads)), el("tbody", None, lines)])

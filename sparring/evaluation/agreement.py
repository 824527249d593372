"""How far judges agree with people, on pairs of responses that people have compared.

    agreement   = mean over pairs that people did not call equal:  [judge right] + [judge finds them equal] / 2
    three_way   = share of all pairs where the judge says what people say: the first, the second, or equal
    same_place  = share of pairs that are decided by where a response stands: shown the other way round, the judge
                  prefers the same place again. A judge that scores one response at a time cannot do that.

Pairs with one prompt count as one unit. A judge that compares is shown every pair in both orders; its verdict is the
sign of the mean of both, so one that only ever likes the first finds all equal. What it says about pairs that people
call equal is no error and no success, so they count in `three_way` alone.

Source: Lee et al. 2023, arXiv:2309.00267, sections 2.1 and 5 (labeler alignment, position bias); Zheng et al. 2023,
arXiv:2306.05685, section 4.2 (agreement with and without ties).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sparring.core.errors import DataError
from sparring.core.records import Preference, Record, right
from sparring.data.batch import Row, collate
from sparring.data.formats import to_records
from sparring.data.read import fingerprint, read_rows
from sparring.data.responses import Responses
from sparring.data.split import prompt_text
from sparring.evaluation.intervals import Estimate, ratio_of, share_of
from sparring.evaluation.load import given_rows, load_comparison, load_judge, load_reader
from sparring.evaluation.measure import MICRO_TOKENS, Tick
from sparring.evaluation.plan import Judge, Limits, judge_name
from sparring.feedback.comparison import Comparison
from sparring.feedback.protocol import Feedback
from sparring.models.machine import Machine
from sparring.models.trunk import Trunk

PARTS = 32  # pairs that a judge is shown at once

Odds = Float[np.ndarray, "n 2"]
"""How much better the first response of each pair is, shown first and shown second; the same by a judge that scores."""


def agreement(
    judges: Sequence[Judge],
    *,
    data: str,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    max_prompt: int = 512,
    max_response: int = 512,
    device: str = "auto",
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Compare judges with the choices that a file of preferences holds; a ranking counts by its best and its worst.

    A judge is whatever `evaluate` takes as feedback, a pairwise ranker's run, or a function of (prompt, first, second).
    "agreement" has a row for each judge; "agreement_by_tag" one for each tag and judge where the data has tags; "notes"
    say what was cut. Raises UserError for a judge or data that cannot be used.
    """
    device = str(Machine(device, "fp32").device)
    rows = to_records(read_rows(data, where=where), "preference", fields=fields or {})
    pairs = [r for r in rows if isinstance(r, Preference)]
    notes: list[str] = []
    limits = Limits(max_prompt=max_prompt, max_response=max_response)
    table, by_tag = [], []
    tags = list(dict.fromkeys(r.tag for r in pairs if r.tag))
    for judge in judges:
        odds = _odds(judge, pairs, limits, device, notes, tick or (lambda what, done, total: None))
        table.append({"judge": judge_name(judge), **judged(pairs, odds)})
        for tag in tags:
            own = [i for i, r in enumerate(pairs) if r.tag == tag]
            by_tag.append({"tag": tag, "judge": judge_name(judge), **judged([pairs[i] for i in own], odds[own])})
    settings = {"judges": [judge_name(j) for j in judges], "data": data, "fields": dict(fields or {})}
    settings |= {"where": list(where), "max_prompt": max_prompt, "max_response": max_response}
    out: dict[str, Any] = {"agreement": table} | ({"agreement_by_tag": by_tag} if by_tag else {})
    return out | {"notes": list(dict.fromkeys(notes)), "settings": settings | {"data_hash": fingerprint(data)}}


def judged(pairs: Sequence[Preference], odds: Odds) -> dict[str, float | None]:
    """Compare a judge's verdicts with the data's choices, of which the first response is the chosen one."""
    says = np.sign(odds.mean(1))
    is_tied = np.array([is_equal(r) for r in pairs])
    units = [prompt_text(r.prompt) for r in pairs]
    right = _share((1 + says)[~is_tied] / 2, [u for u, tied in zip(units, is_tied, strict=True) if not tied])
    same = _share((says == np.where(is_tied, 0, 1)).astype(float), units)
    placed = _share((odds[:, 0] * odds[:, 1] < 0).astype(float), units)
    return {
        "agreement": None if right is None else right.mean, "low": None if right is None else right.low,
        "high": None if right is None else right.high, "three_way": None if same is None else same.mean,
        "same_place": None if placed is None else placed.mean, "equal": float((says == 0).mean()),
        "pairs": len(pairs), "tied": int(is_tied.sum()), "prompts": len(set(units)),
    }  # fmt: skip


def is_equal(pair: Preference) -> bool:
    """Tell whether people called the two responses equally good."""
    return pair.label == 0.5


def _share(values: np.ndarray, units: Sequence[str]) -> Estimate | None:
    """Average over pairs, with an interval over prompts: Wilson's where each has one pair, else a bootstrap."""
    if not len(values):
        return None
    tops: dict[str, float] = {}
    bottoms: dict[str, float] = {}
    for value, unit in zip(values.tolist(), units, strict=True):
        tops[unit], bottoms[unit] = tops.get(unit, 0.0) + value, bottoms.get(unit, 0.0) + 1
    if len(tops) == len(values):
        return share_of(float(values.sum()), len(values))
    return ratio_of(list(tops.values()), list(bottoms.values()))


def _odds(judge: Judge, pairs: Sequence[Preference], limits: Limits, device: str, notes: list[str], tick: Tick) -> Odds:
    name, found = judge_name(judge), []
    shown = load_comparison(judge, device, MICRO_TOKENS)
    reader = None if shown is not None else load_reader(judge, device)
    feedback = None if shown is not None else load_judge(judge, reader, device=device)
    rows = written(pairs, reader, limits, notes)
    for start in range(0, len(pairs), PARTS):
        part = slice(start, start + PARTS)
        found.append(
            _compared(pairs[part], shown) if shown is not None else _scored(pairs[part], rows[part], feedback, device)
        )
        tick(f"asking {name}", min(start + PARTS, len(pairs)), len(pairs))
    return np.concatenate(found)


def _compared(pairs: Sequence[Preference], shown: Comparison) -> Odds:
    return shown([(r.prompt, r.chosen, r.rejected) for r in pairs]).double().cpu().numpy()


def _scored(pairs: Sequence[Preference], rows: Sequence[Row], judge: Feedback | None, device: str) -> Odds:
    assert judge is not None
    scores = judge.score(as_responses(pairs, rows, device)).double().cpu()
    gap = (scores[:, 0] - scores[:, 1]).numpy()
    return np.stack([gap, gap], -1)


def as_responses(records: Sequence[Record], rows: Sequence[Row], device: str) -> Responses:
    """Put records and what `written` made of them together, as a judge wants them."""
    return Responses(
        batch=collate(rows).to(torch.device(device)), prompts=tuple(prompt_text(r.prompt) for r in records),
        texts=tuple(r.responses() for r in records),
    )  # fmt: skip


def written(records: Sequence[Record], reader: Trunk | None, limits: Limits, notes: list[str]) -> list[Row]:
    """Encode records for a judge that reads tokens; one that reads text gets a token that stands for each response."""
    if not records:
        raise DataError("there is not one pair to judge")
    if reader is not None:
        return given_rows(records, reader, limits, notes)
    return [
        Row(prompt=(0,), responses=tuple((0,) for _ in r.responses()), tag=r.tag, reference=right(r)) for r in records
    ]

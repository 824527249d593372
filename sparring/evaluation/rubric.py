"""The rubric of the RLGAF paper: a response is good, average or bad, and a model improves on where it started.

    good     +1   coherent even if wrong, at most one repetition
    average   0   possibly right but not coherent, a few repetitions
    bad      -1   incoherent, irrelevant, or many repetitions

    rubric      = mean over prompts of the code, raters averaged
    improvement = mean over prompts of  code of the model - code of the base,   each of -2 .. 2

The paper prints the sum over prompts, from -2n to 2n: the table has it, by the mean over raters and by their median,
which a single rater cannot move far. How far raters agree is Kendall's W, from 0 (not at all) to 1:

    W = (12 sum_i R_i^2 - 3 m^2 n (n + 1)^2) / (m^2 n (n^2 - 1) - m sum_j T_j),   T_j = sum over ties of j (t^3 - t)

with R_i the sum over the m raters of their rank of response i; equal codes share the mean of their ranks.

Source: RLGAF (arXiv:2305.06176), tables 4 and 6; Kendall and Babington Smith 1939, doi:10.1214/aoms/1177732186.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sparring.core.errors import FeedbackError
from sparring.evaluation.intervals import Estimate, jackknifed, kept_without, mean_of
from sparring.evaluation.trust import Tables

TIERS: dict[str, int] = {"good": 1, "average": 0, "bad": -1}
STEPS = (-2, -1, 0, 1, 2)

Marks = Sequence[Mapping[str, float]]
"""For each prompt what every rater says: 1, 0 or -1, by the rater's name. Responses to one prompt count as raters."""


def rubric_figures(own: Marks, base: Marks | None) -> tuple[dict[str, Estimate], Tables]:
    """Measure the marks of a model's responses, and how far they are above those of a base to the same prompts."""
    found = {"rubric": mean_of([_mean(marks) for marks in own])}
    tables: Tables = {"rubric": [{"of": "model", **_tiers(own)}]}
    if base is None:
        return found, tables
    tables["rubric"].append({"of": "base", **_tiers(base)})
    found["improvement"] = mean_of([_mean(a) - _mean(b) for a, b in zip(own, base, strict=True)])
    middle = mean_of([_median(a) - _median(b) for a, b in zip(own, base, strict=True)])
    steps = [a[rater] - b[rater] for a, b in zip(own, base, strict=True) for rater in a.keys() & b.keys()]
    histogram = {f"{step:+d}" if step else "0": steps.count(step) for step in STEPS}
    tables["improvement"] = [
        {"raters_by": name, **_summed(estimate), **histogram, "prompts": estimate.n}
        for name, estimate in (("mean", found["improvement"]), ("median", middle))
    ]
    return found, tables


def tier_of(value: Any, where: str) -> int:
    """Read a mark: good, average or bad, or 1, 0 or -1. Raises FeedbackError for anything else, naming the place."""
    if isinstance(value, str) and value.strip().lower() in TIERS:
        return TIERS[value.strip().lower()]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number not in TIERS.values():
        raise FeedbackError(f"{where}: {value!r} is no tier of the rubric; say good, average or bad (1, 0 or -1)")
    return int(number)


def concordance(marks: Float[np.ndarray, "n m"]) -> Estimate:
    """Compute Kendall's W of m raters over n responses, which each of them has marked, with a jackknife over responses.

    Where no rater tells any two responses apart there is nothing to agree on: W is then 1. Raises ValueError for fewer
    than two raters or responses.
    """
    if min(marks.shape) < 2:
        raise ValueError("agreement needs two raters and two responses")
    return jackknifed(_kendall(marks), [_kendall(marks[kept]) for kept in kept_without(len(marks))], len(marks))


def _kendall(marks: Float[np.ndarray, "n m"]) -> float:
    n, m = marks.shape
    below, same = ((marks[None] < marks[:, None]).sum(1), (marks[None] == marks[:, None]).sum(1))
    ranks = below + (same + 1) / 2
    ties = (same.astype(float) ** 2 - 1).sum()  # each of t equal ones adds t^2 - 1, together t^3 - t
    whole = m * m * n * (n * n - 1) - m * ties
    return float((12 * (ranks.sum(1) ** 2).sum() - 3 * m * m * n * (n + 1) ** 2) / whole) if whole > 0 else 1.0


def _tiers(marks: Marks) -> dict[str, Any]:
    every = [value for one in marks for value in one.values()]
    estimate = mean_of([_mean(one) for one in marks])
    counted = {name: every.count(code) for name, code in TIERS.items()}
    return counted | {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "prompts": estimate.n}


def _summed(estimate: Estimate) -> dict[str, float | None]:
    ends = {"sum": estimate.mean, "low": estimate.low, "high": estimate.high}
    return {name: None if end is None else end * estimate.n for name, end in ends.items()}


def _mean(marks: Mapping[str, float]) -> float:
    return float(np.mean(list(marks.values())))


def _median(marks: Mapping[str, float]) -> float:
    return float(np.median(list(marks.values())))

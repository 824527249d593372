"""How far a reward model can be trusted: where it is right, and whether it knows.

By Bradley and Terry the difference d of two scores is a promise: the order is right with probability
sigmoid(|d|), a half at least. The promises are put into bins of equal width and compared with what came true;

    calibration error = sum over bins  (pairs in the bin / pairs)  |mean promise - share right|

is 0 for a model that knows what it knows, and for one that knows nothing and says so. Accuracy by margin is
about the data instead: how often the order is right where people found the one response much better, or hardly.

Pairs are neighbours in the data's order, equal marks left out. A prompt counts as one however many pairs it has.

Source: Guo et al. 2017, arXiv:1706.04599, equation 3 (calibration error); Touvron et al. 2023, arXiv:2307.09288,
table 28 (accuracy by how much better the chosen response was found).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparring.data.batch import Row
from sparring.evaluation.intervals import Estimate, mean_of, share_of, sizes_of

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PARTS = 4  # bins of margins, where the data has more different ones

Tables = dict[str, list[dict[str, Any]]]
"""Figures for parts of the data: a table's name to its rows, each a column's name to a number."""

Found = tuple[dict[str, Estimate], Tables]
"""Figures by name, and the tables that go with them."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two responses of which the first is better: the difference of their scores, and of their marks if known.

    `unit` names the prompt, `weight` makes the pairs of a prompt count as one.
    """

    unit: tuple[int, ...]
    gap: float
    margin: float | None
    weight: float = 1.0

    @property
    def right(self) -> float:
        """Whether the scores have the order of the data; half for equal scores."""
        return (1 + (self.gap > 0) - (self.gap < 0)) / 2

    @property
    def promise(self) -> float:
        """How likely the order of the scores is right, as they have it."""
        return 1 / (1 + math.exp(-min(abs(self.gap), 700)))


def pairs_of(rows: Sequence[Row], reward: Float[Tensor, "B K"]) -> list[Pair]:
    """List the neighbours of every row that are ordered, with the difference of their rewards."""
    found: dict[tuple[int, ...], list[tuple[float, float | None]]] = {}
    for row, scores in zip(rows, reward.tolist(), strict=True):
        for k in range(len(row.responses) - 1):
            margin = row.margin if row.scores is None else row.scores[k] - row.scores[k + 1]
            if row.label != 0.5 and not (row.scores is not None and margin == 0):
                found.setdefault(row.prompt, []).append((scores[k] - scores[k + 1], margin))
    return [Pair(unit=u, gap=g, margin=m, weight=1 / len(own)) for u, own in found.items() for g, m in own]


def trust(pairs: Sequence[Pair]) -> tuple[dict[str, Estimate], Tables]:
    """Measure calibration, and accuracy by margin where the data says margins; nothing when no pair is ordered."""
    if not pairs:
        return {}, {}
    off = _by_unit(pairs, lambda p: p.weight * (p.promise - p.right))
    binned = [_by_unit(pairs, lambda p, b=b: p.weight * (p.promise - p.right) * (_bin(p) == b)) for b in range(5)]
    figures = {
        "calibration_error": sizes_of(list(zip(*binned, strict=True))),
        "overconfidence": mean_of(off),
    }
    tables: Tables = {"calibration": _calibration(pairs)}
    if marked := [p for p in pairs if p.margin is not None]:
        tables["accuracy_by_margin"] = _accuracy_by_margin(marked)
    return figures, tables


def _calibration(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """What was promised and what came true, bin by bin; empty bins are left out."""
    rows = []
    for b in range(len(EDGES) - 1):
        own = [p for p in pairs if _bin(p) == b]
        if own:
            promised = sum(p.weight * p.promise for p in own) / sum(p.weight for p in own)
            rows.append({"from": EDGES[b], "to": EDGES[b + 1], "promised": promised, **_share_right(own)})
    return rows


def _accuracy_by_margin(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Accuracy for each margin that occurs, or for four parts of equally many pairs when there are more of them."""
    margins = sorted(p.margin for p in pairs if p.margin is not None)
    ends = sorted(set(margins))
    if len(ends) > PARTS:
        ends = sorted({margins[math.ceil(len(margins) * part / PARTS) - 1] for part in range(1, PARTS + 1)})
    rows, below = [], -math.inf
    for end in ends:
        own = [p for p in pairs if p.margin is not None and below < p.margin <= end]
        rows.append({"from": min(p.margin for p in own if p.margin is not None), "to": end, **_share_right(own)})
        below = end
    return rows


def _share_right(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """The share of right orders with its interval; prompts are the units."""
    rights, number = _by_unit(pairs, lambda p: p.right), _by_unit(pairs, lambda p: 1.0)
    return share_of(sum(r / n for r, n in zip(rights, number, strict=True)), len(number)).to_dict()


def _bin(pair: Pair) -> int:
    return min(int((pair.promise - EDGES[0]) / (EDGES[1] - EDGES[0])), len(EDGES) - 2)


def _by_unit(pairs: Sequence[Pair], value: Callable[[Pair], float]) -> list[float]:
    """Add up a value over the pairs of each prompt, in the order in which prompts first occur."""
    sums: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        sums[pair.unit] = sums.get(pair.unit, 0.0) + value(pair)
    return list(sums.values())

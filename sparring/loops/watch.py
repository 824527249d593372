"""Look at every round for the signs of collapse, divergence and over-optimisation; say them in words, stop in time.

The first rounds tell what is normal for this policy. A figure that moves far from there earns a warning;
one that stays where only a broken policy goes, for several rounds on end, is certain. What a judge is like, of which a
policy may come to harm or not, is never certain, and no reason to mistrust a checkpoint.

The sign of over-optimisation is `ref_nll`. A policy that gets better at what the demonstrations show gets surer, and
its reference finds its responses likelier than before. One that has found what a learnt judge overlooks writes what
the reference finds ever less likely, and there the judge has never been right about anything (docs/rlgaf.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch

FIRST = 3  # rounds that tell what is normal
PATIENCE = 3  # rounds on end that make a sign certain
MARGIN = 1.5  # times the start that a share must exceed, where the start itself is high


class Limit(Enum):
    """What the limits of a sign are measured by."""

    FIXED = "the numbers as they stand"
    TIMES_START = "multiples of the first rounds"
    ABOVE_LOWEST = "how far above the lowest mean of so many rounds on end as tell what is normal"
    ABOVE_START = "the numbers as they stand, or well above the first rounds where those are high already"


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One way to fail: the figure, where it warns and where it is certain (infinite: never).

    What is `learnt` warns only where the judge is a rule: wherever that leads is where its author wants to go.
    A figure whose standard error is another, `error`, counts as far as it surely goes: two of them less.
    """

    metric: str
    warns: float
    certain: float
    is_upper: bool
    limit: Limit
    words: str
    learnt: bool = False
    error: str = ""

    def surely(self, figures: Mapping[str, float]) -> float:
        """The figure, or where it has an error the end of its interval that is nearer to health."""
        far = 2 * figures.get(self.error, 0.0)
        return figures[self.metric] - (far if self.is_upper else -far)


SIGNS = (
    Sign(metric="identical", warns=0.25, certain=0.6, is_upper=True, limit=Limit.ABOVE_START,
         words="many responses are word for word the same: the policy is collapsing onto a few"),
    Sign(metric="distinct_2", warns=0.6, certain=0.35, is_upper=False, limit=Limit.TIMES_START,
         words="responses use ever fewer word pairs: diversity is collapsing"),
    Sign(metric="repeated_4grams", warns=0.2, certain=0.5, is_upper=True, limit=Limit.ABOVE_START,
         words="responses repeat themselves"),
    Sign(metric="entropy", warns=0.35, certain=0.1, is_upper=False, limit=Limit.TIMES_START,
         words="the policy hardly varies any more: entropy is collapsing"),
    Sign(metric="length", warns=0.5, certain=0.2, is_upper=False, limit=Limit.TIMES_START,
         words="responses are getting very short"),
    Sign(metric="kl_per_token", warns=1.0, certain=2.5, is_upper=True, limit=Limit.FIXED,
         words="the policy has gone far from its reference; a higher --kl holds it"),
    Sign(metric="ref_nll", error="ref_nll_error", warns=0.3, certain=0.5, is_upper=True, limit=Limit.ABOVE_LOWEST,
         learnt=True,
         words="responses are ever less likely to the reference, where no judge has learnt anything: it is being "
               "over-optimised; stop earlier, or raise --kl"),
    Sign(metric="judge_accuracy_held_out", warns=0.97, certain=math.inf, is_upper=True, limit=Limit.FIXED,
         words="the judge tells nearly every response from a demonstration, so its reward hardly guides"),
    Sign(metric="judge_by_heart", warns=0.9, certain=math.inf, is_upper=True, limit=Limit.FIXED,
         words="the judge knows what it learns from by heart and no other demonstrations, so its reward may be noise: "
               "ask another judge; --base, --feedback bag_of_words or more demonstrations help"),
    Sign(metric="cue_length", warns=0.7, certain=math.inf, is_upper=True, limit=Limit.FIXED,
         words="scores follow length: long responses win because they are long"),
    Sign(metric="cue_length", warns=-0.7, certain=-math.inf, is_upper=False, limit=Limit.FIXED,
         words="scores follow length: short responses win because they are short"),
    Sign(metric="cue_fluency", warns=0.8, certain=math.inf, is_upper=True, limit=Limit.FIXED,
         words="scores follow what the reference finds likely: the judge hears fluency and little else"),
)  # fmt: skip


class Seen(NamedTuple):
    """What a look at a round found, in words: about the judge, worth a warning about the policy, and certain."""

    remarks: list[str]
    warnings: list[str]
    certain: list[str]


class Watch:
    """Remembers the first rounds, the lowest ones, and how long each sign has lasted."""

    def __init__(self, *, judge_is_learnt: bool = True) -> None:
        self._judge_is_learnt = judge_is_learnt
        self._start: dict[str, list[float]] = {}
        self._last: dict[str, list[float]] = {}
        self._lowest: dict[str, float] = {}
        self._lasting: dict[str, int] = {}

    def look(self, figures: Mapping[str, float]) -> Seen:
        """Say what the figures of one round mean."""
        seen = Seen([], [], [])
        for sign in SIGNS:
            value = figures.get(sign.metric)
            if value is None or self._is_start(sign, value):
                continue
            surely = sign.surely(figures)
            is_certain = _beyond(surely, self._where(sign, sign.certain), sign.is_upper)
            is_certain &= self._judge_is_learnt or not sign.learnt
            lasting = self._lasting[sign.metric] = self._lasting.get(sign.metric, 0) + 1 if is_certain else 0
            if lasting >= PATIENCE:
                seen.certain.append(self._words(sign, value))
            elif _beyond(surely, self._where(sign, sign.warns), sign.is_upper):
                (seen.warnings if math.isfinite(sign.certain) else seen.remarks).append(self._words(sign, value))
            self._remember(sign, value)
        return seen

    def _is_start(self, sign: Sign, value: float) -> bool:
        """Take note of a figure of the first rounds, if the sign is measured by them."""
        if sign.limit is Limit.FIXED:
            return False
        first = self._start.setdefault(sign.metric, [])
        if len(first) == FIRST:
            return False
        first.append(value)
        self._remember(sign, value)
        return True

    def _remember(self, sign: Sign, value: float) -> None:
        """Take note of the lowest rounds, if the sign is measured by them."""
        if sign.limit is not Limit.ABOVE_LOWEST:
            return
        last = self._last[sign.metric] = [*self._last.get(sign.metric, []), value][-FIRST:]
        if len(last) == FIRST:
            mean = sum(last) / FIRST
            self._lowest[sign.metric] = min(mean, self._lowest.get(sign.metric, mean))

    def _where(self, sign: Sign, limit: float) -> float:
        """Where a limit lies for this policy."""
        if sign.limit is Limit.FIXED:
            return limit
        if sign.limit is Limit.ABOVE_LOWEST:
            return limit + self._lowest[sign.metric]
        first = self._start[sign.metric]
        start = sum(first) / len(first)
        return limit * start if sign.limit is Limit.TIMES_START else max(limit, MARGIN * start)

    def _words(self, sign: Sign, value: float) -> str:
        first, lowest = self._start.get(sign.metric), self._lowest.get(sign.metric)
        before = f", {sum(first) / len(first):.3g} at the start" if first else ""
        before += f" and {lowest:.3g} at its lowest" if lowest is not None else ""
        return f"{sign.words} ({sign.metric} is {value:.3g}{before})"

    def state(self) -> dict[str, Any]:
        """Return what was seen so far."""
        lists = {"start": self._start, "last": self._last}
        kept = {name: {n: list(x) for n, x in found.items()} for name, found in lists.items()}
        return kept | {"lowest": dict(self._lowest), "lasting": dict(self._lasting)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._start = {n: list(x) for n, x in state["start"].items()}
        self._last = {n: list(x) for n, x in state["last"].items()}
        self._lowest, self._lasting = dict(state["lowest"]), dict(state["lasting"])


def distinct(texts: Sequence[Sequence[int] | Sequence[str]], n: int) -> float:
    """The share of n-grams that differ, over all texts together."""
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated(texts: Sequence[Sequence[int] | Sequence[str]], n: int) -> float:
    """The share of n-grams that have occurred before in the same text."""
    total = again = 0
    for text in texts:
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        total += len(grams)
        again += len(grams) - len(set(grams))
    return again / total if total else 0.0


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's correlation of two lists of numbers; 0 when one of them does not vary."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-12 else 0.0


def _beyond(value: float, limit: float, is_upper: bool) -> bool:
    return value > limit if is_upper else value < limit

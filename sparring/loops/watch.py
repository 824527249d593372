"""Look at every round for the signs of collapse and divergence; say them in words, and stop in time.

The first rounds tell what is normal for this policy. A figure that moves far from there earns a warning;
one that stays where only a broken policy goes, for several rounds on end, is certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparring.rollout.sample import Rollout, Stop

FIRST = 3  # rounds that tell what is normal
PATIENCE = 3  # rounds on end that make a sign certain


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One way to fail: the figure, where it warns and where it is certain (relative to the start if `relative`)."""

    metric: str
    warns: float
    certain: float
    is_upper: bool
    relative: bool
    words: str


SIGNS = (
    Sign(metric="identical", warns=0.25, certain=0.6, is_upper=True, relative=False,
         words="many responses are word for word the same: the policy is collapsing onto a few"),
    Sign(metric="distinct_2", warns=0.6, certain=0.35, is_upper=False, relative=True,
         words="responses use ever fewer word pairs: diversity is collapsing"),
    Sign(metric="repeated_4grams", warns=0.2, certain=0.5, is_upper=True, relative=False,
         words="responses repeat themselves"),
    Sign(metric="entropy", warns=0.35, certain=0.1, is_upper=False, relative=True,
         words="the policy hardly varies any more: entropy is collapsing"),
    Sign(metric="length", warns=0.5, certain=0.2, is_upper=False, relative=True,
         words="responses are getting very short"),
    Sign(metric="kl_per_token", warns=1.0, certain=2.5, is_upper=True, relative=False,
         words="the policy has gone far from its reference; a higher --kl holds it"),
    Sign(metric="judge_accuracy_held_out", warns=0.97, certain=2.0, is_upper=True, relative=False,
         words="the judge tells nearly every response from a demonstration, so its reward hardly guides"),
)  # fmt: skip


class Watch:
    """Remembers the first rounds and how long each sign has lasted."""

    def __init__(self) -> None:
        self._start: dict[str, list[float]] = {}
        self._lasting: dict[str, int] = {}

    def look(self, figures: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Return what is worth a warning and what is certain, in words, for the figures of one round."""
        warnings, certain = [], []
        for sign in SIGNS:
            value = figures.get(sign.metric)
            if value is None:
                continue
            first = self._start.setdefault(sign.metric, [])
            if sign.relative and len(first) < FIRST:
                first.append(value)
                continue
            unit = sum(first) / len(first) if sign.relative else 1.0
            if _beyond(value, sign.certain * unit, sign.is_upper):
                self._lasting[sign.metric] = self._lasting.get(sign.metric, 0) + 1
            else:
                self._lasting[sign.metric] = 0
            text = f"{sign.words} ({sign.metric} is {value:.3g}" + (f", {unit:.3g} at the start)" if sign.relative else ")")
            if self._lasting[sign.metric] >= PATIENCE:
                certain.append(text)
            elif _beyond(value, sign.warns * unit, sign.is_upper):
                warnings.append(text)
        return warnings, certain

    def state(self) -> dict[str, Any]:
        """Return what was seen so far."""
        return {"start": {n: list(x) for n, x in self._start.items()}, "lasting": dict(self._lasting)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self._start = {n: list(x) for n, x in state["start"].items()}
        self._lasting = dict(state["lasting"])


def sample_figures(rollout: Rollout) -> dict[str, float]:
    """Measure a round's responses by their tokens: entropy in nats a token, length in tokens, shares otherwise."""
    mask = rollout.batch.mask
    flat = [
        tuple(rollout.batch.response_ids[b, k][mask[b, k]].tolist())
        for b in range(len(mask))
        for k in range(mask.shape[1])
    ]
    stops = [stop for row in rollout.stops for stop in row]
    return {
        "entropy": float(rollout.entropy[mask].mean()),
        "length": float(mask.sum() / len(flat)),
        "eos_rate": sum(s is Stop.EOS for s in stops) / len(stops),
        "distinct_1": distinct(flat, 1),
        "distinct_2": distinct(flat, 2),
        "repeated_4grams": repeated(flat, 4),
        "identical": 1 - len(set(flat)) / len(flat),
    }


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

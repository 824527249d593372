"""The figures of a round of samples: taken from each response first, then over all of them.

What is taken is plain numbers, so that processes can hand it to each other; every process then comes to
the same figures, and to the same decisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparring.core.credit import kl_k1, kl_k3
from sparring.core.masked import masked_sum
from sparring.loops.watch import correlation, distinct, repeated
from sparring.rollout.sample import Rollout, Stop


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one response. Sums are over its tokens, in nats; None where a method has no such signal.

    `paid` is what is left of the score after what is taken off it for not ending. `returns` and `errors` (of the
    predicted values) are given as sum and sum of squares.
    """

    tokens: tuple[int, ...]
    ended: bool
    score: float
    paid: float
    entropy: float
    kl: float | None = None
    kl_k3: float | None = None
    ref_logp: float | None = None
    returns: tuple[float, float] | None = None
    errors: tuple[float, float] | None = None


def facts(rollout: Rollout, known: Mapping[str, Tensor], scores: Tensor) -> list[list[Facts]]:
    """Take from each response what the figures need; one list for each prompt."""
    batch, mask = rollout.batch, rollout.batch.mask
    sums = {"score": scores, "paid": known["scores"], "entropy": masked_sum(rollout.entropy, mask)}
    old = known["old_token_logps"]
    if "ref_token_logps" in known:
        ref = known["ref_token_logps"]
        sums |= {"kl": masked_sum(kl_k1(old, ref), mask), "kl_k3": masked_sum(kl_k3(old, ref), mask)}
        sums["ref_logp"] = masked_sum(ref, mask)
    numbers = {n: x.tolist() for n, x in sums.items()}
    pairs = {}
    if "returns" in known:
        found = {"returns": known["returns"], "errors": known["returns"] - known["old_values"]}
        pairs = {n: (masked_sum(x, mask).tolist(), masked_sum(x**2, mask).tolist()) for n, x in found.items()}
    return [
        [
            Facts(
                tokens=tuple(batch.response_ids[b, k][mask[b, k]].tolist()),
                ended=stop is Stop.EOS,
                score=numbers["score"][b][k],
                paid=numbers["paid"][b][k],
                entropy=numbers["entropy"][b][k],
                kl=numbers["kl"][b][k] if "kl" in numbers else None,
                kl_k3=numbers["kl_k3"][b][k] if "kl_k3" in numbers else None,
                ref_logp=numbers["ref_logp"][b][k] if "ref_logp" in numbers else None,
                returns=(pairs["returns"][0][b][k], pairs["returns"][1][b][k]) if pairs else None,
                errors=(pairs["errors"][0][b][k], pairs["errors"][1][b][k]) if pairs else None,
            )
            for k, stop in enumerate(stops)
        ]
        for b, stops in enumerate(rollout.stops)
    ]


def describe(found: Sequence[Facts], price: float) -> dict[str, float]:
    """Give the figures of a round, before it is learnt from; `price` is what a nat of KL costs now."""
    texts = [f.tokens for f in found]
    scores, lengths = np.array([f.score for f in found]), np.array([len(t) for t in texts], dtype=float)
    row = {
        "score": float(scores.mean()),
        "score_std": float(scores.std()),
        "entropy": sum(f.entropy for f in found) / float(lengths.sum()),
        "length": float(lengths.mean()),
        "eos_rate": sum(f.ended for f in found) / len(found),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "repeated_4grams": repeated(texts, 4),
        "identical": 1 - len(set(texts)) / len(texts),
        "cue_length": _correlation(scores, lengths),
        "kl_price": price,
    }
    kl = np.array([f.kl for f in found if f.kl is not None])
    if len(kl):
        row |= {"kl": float(kl.mean()), "kl_per_token": float(kl.sum() / lengths.sum())}
        row["ref_nll"] = row["entropy"] + row["kl_per_token"]  # with less noise than the mean of what was drawn
        off = kl + np.array([f.entropy for f in found]) - row["ref_nll"] * lengths
        row["ref_nll_error"] = float(np.linalg.norm(off) / lengths.sum())  # as of a ratio of two means
        row["kl_k3"] = float(np.mean([f.kl_k3 for f in found if f.kl_k3 is not None]))
        row["reward"] = float((np.array([f.paid for f in found]) - price * kl).mean())
        row["cue_fluency"] = _correlation(scores, np.array([f.ref_logp or 0.0 for f in found]) / lengths.clip(min=1))
    returns, errors = ([x for f in found if (x := getattr(f, n)) is not None] for n in ("returns", "errors"))
    if returns:
        row["value_explained"] = 1 - _variance(errors, lengths.sum()) / max(_variance(returns, lengths.sum()), 1e-8)
    return row


def _variance(sums: Sequence[tuple[float, float]], count: float) -> float:
    """The variance of numbers that are known by their sums and sums of squares."""
    mean, square = (sum(x) / count for x in zip(*sums, strict=True))
    return max(square - mean**2, 0.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return correlation(torch.from_numpy(a), torch.from_numpy(b))

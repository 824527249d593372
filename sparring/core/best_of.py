"""Best-of-n in numbers: what picking the best of n samples does to a distribution, and how far away that is.

Picking the best of n needs no training, so it is the yardstick for everything that does: the score that it
reaches, at the distance log n - (n - 1) / n at most, is known before a single weight moves.
"""

import math
from collections.abc import Sequence

from sparring.core.errors import SettingError


def best_of(probs: Sequence[float], scores: Sequence[float], n: int) -> list[float]:
    """Give the probability of each response to be the best of n independent samples.

    P_n(y) = F(y)^n - F(below y)^n, F being the chance to score at most so much; responses of equal score share
    theirs as they do in a single sample.
    """
    if len(probs) != len(scores) or n < 1:
        raise SettingError(f"{len(probs)} probabilities, {len(scores)} scores and n {n} describe no best of n")
    levels: dict[float, float] = {}
    for p, score in zip(probs, scores, strict=True):
        levels[score] = levels.get(score, 0.0) + p
    below, share = 0.0, {}
    for score in sorted(levels):
        upto = below + levels[score]
        share[score] = (upto**n - below**n) / levels[score] if levels[score] else 0.0
        below = upto
    return [p * share[s] for p, s in zip(probs, scores, strict=True)]


def kl_bound(n: int) -> float:
    """Bound the distance of best-of-n from what it samples, in nats; reached when no two samples score the same."""
    return math.log(n) - (n - 1) / n


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """Compute the distance KL(p | q) of two tables of probabilities, in nats; infinite where q rules p out."""
    if any(a > 0 and b <= 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """Estimate, without bias, the value of the best of n from N scored samples: all subsets of n, in closed form.

    The i-th lowest score (from 1) is the best of C(i-1, n-1) of the C(N, n) subsets. `values` are what another
    judge says of the same samples (the scores themselves when None): what best-of-n by a proxy is worth by gold.
    Samples of equal score are each as likely to be taken. Raises SettingError when n is larger than N.
    """
    N = len(scores)
    if not 1 <= n <= N:
        raise SettingError(f"the best of {n} cannot be estimated from {N} samples; take n between 1 and {N}")
    gold = scores if values is None else values
    order = sorted(range(N), key=lambda i: scores[i])
    weights = [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)]
    total, start = 0.0, 0
    while start < N:
        stop = start
        while stop < N and scores[order[stop]] == scores[order[start]]:
            stop += 1
        mean = math.fsum(gold[i] for i in order[start:stop]) / (stop - start)
        total += mean * math.fsum(weights[start:stop])
        start = stop
    return total

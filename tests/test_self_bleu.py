"""Self-BLEU against NLTK's own arithmetic, written out with plain loops."""

import math
from collections import Counter

import numpy as np
import pytest

from sparring.evaluation.self_bleu import self_bleu


def bleu(hypothesis: tuple, references: list[tuple]) -> float:
    """Sentence BLEU-4 as NLTK computes it with its first smoothing method (Chen and Cherry 2014)."""
    total = 0.0
    for n in (1, 2, 3, 4):
        grams = lambda words, n=n: Counter(words[i : i + n] for i in range(len(words) - n + 1))  # noqa: E731
        own = grams(hypothesis)
        most = {g: max(grams(r)[g] for r in references) for g in own}
        hits = sum(min(count, most[g]) for g, count in own.items())
        if n == 1 and hits == 0:
            return 0.0
        total += 0.25 * math.log((hits or 0.1) / max(1, sum(own.values())))
    near = min((abs(len(r) - len(hypothesis)), len(r)) for r in references)[1]
    return math.exp(total) * (1.0 if len(hypothesis) > near else math.exp(1 - near / len(hypothesis)))


def texts(n: int, seed: int = 0) -> list[tuple]:
    draw = np.random.default_rng(seed)
    return [tuple(f"w{i}" for i in draw.integers(0, 6, draw.integers(1, 12))) for _ in range(n)]


def test_self_bleu_is_the_mean_of_every_response_s_bleu_with_all_others():
    said = texts(30)
    want = sum(100 * bleu(t, said[:i] + said[i + 1 :]) for i, t in enumerate(said)) / 30
    for units in ([[t] for t in said], [said[i : i + 3] for i in range(0, 30, 3)]):
        got = self_bleu(units)
        assert got.mean == pytest.approx(want, rel=1e-9) and got.n == len(units)
        assert got.low < got.mean < got.high


def test_the_interval_is_a_jackknife_over_prompts():
    said = texts(8, seed=1)
    whole = lambda own: sum(100 * bleu(t, own[:i] + own[i + 1 :]) for i, t in enumerate(own)) / len(own)  # noqa: E731
    without = np.array([whole(said[:i] + said[i + 1 :]) for i in range(8)])
    error = math.sqrt(7 / 8 * ((without - without.mean()) ** 2).sum())
    got = self_bleu([[t] for t in said])
    assert got.high == pytest.approx(min(100.0, whole(said) + 2.364624 * error), rel=1e-6)  # Student's, 7 degrees


def test_equal_responses_are_a_hundred_and_responses_without_a_common_word_nothing():
    assert self_bleu([[("a", "b", "c", "d")]] * 5).mean == pytest.approx(100)
    assert self_bleu([[(f"{i}", f"{i}x", f"{i}y", f"{i}z")] for i in range(5)]).mean == 0
    assert self_bleu([[()], [("a",)]]) is None

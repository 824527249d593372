"""Intervals that are made of others, or by a jackknife: 95 in 100 of them hold the truth, by simulation.

Means, ratios, shares, seeds and distinct things are in test_evaluate, the calibration error in test_trust.
"""

import math

import numpy as np
import pytest

from sparring.compare.verdict import paired
from sparring.core.records import Preference
from sparring.evaluation import intervals
from sparring.evaluation.agreement import judged
from sparring.evaluation.intervals import difference, mean_of
from sparring.evaluation.ratings import POINTS, bradley_terry
from sparring.evaluation.rubric import concordance
from sparring.evaluation.self_bleu import self_bleu
from sparring.evaluation.wins import at_equal_length

TRIALS = 200


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 300)


def is_about_95(found: list, truth: float, above: float = 0.97) -> bool:
    """Whether 93 to 97 % hold the truth, give or take two standard errors of so few trials."""
    share = sum(e.low <= truth <= e.high for e in found) / len(found)
    errors = [2 * math.sqrt(limit * (1 - limit) / len(found)) for limit in (0.93, 0.97)]
    return 0.93 - errors[0] <= share <= above + errors[1]


def test_of_a_paired_difference():
    draw = np.random.default_rng(0)
    found = []
    for i in range(TRIALS):
        easy, noise = draw.normal(0, 5, 40), draw.exponential(1, 40)  # of mean 1, skewed
        found.append(difference(mean_of((easy + noise).tolist()), mean_of(easy.tolist()), seed=i))
    assert is_about_95(found, 1.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("by_seed", "by_prompt"), [(0.0, 0.0), (0.1, 0.3), (0.3, 0.3), (0.0, 1.0)])
def test_of_a_difference_between_methods(seeds, by_seed, by_prompt):
    # Never less than promised; more where seeds do not matter, which few of them cannot know.
    draw, found = np.random.default_rng(3), []
    zero = {s: [0.0] * 100 for s in range(seeds)}
    for _ in range(2000):
        same = draw.normal(1, by_prompt, 100)
        a = {s: (draw.normal(0, by_seed) + same + draw.normal(0, 1, 100)).tolist() for s in range(seeds)}
        found.append(paired("A", "SFT", a, zero))
    assert is_about_95(found, 1.0, above=1.0)


def test_of_a_win_rate_at_equal_length():
    draw, found = np.random.default_rng(1), []
    for i in range(TRIALS):
        d = draw.normal(0.5, 1, (60, 1))  # the model is longer, and the judge likes that
        chance = 1 / (1 + np.exp(-(0.3 + 0.8 * d)))
        found.append(at_equal_length((draw.random((60, 1)) < chance).astype(float), d, seed=i))
    assert is_about_95(found, 1 / (1 + math.exp(-0.3)))


def test_of_a_rating():
    strengths = np.array([0.8, 0.0, -0.8])
    chance = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
    draw, found = np.random.default_rng(2), []
    for i in range(TRIALS):
        wins = np.triu((draw.random((60, 3, 3)) < chance), 1).astype(float)
        wins += np.tril(1 - wins.swapaxes(1, 2), -1)
        found.append(bradley_terry(wins, seed=i)[0])
    assert is_about_95(found, 1000 + POINTS * 0.8)


def test_of_the_agreement_of_a_judge_that_is_right_seven_times_in_ten():
    draw = np.random.default_rng(3)
    pairs = [Preference(prompt=str(i % 60), chosen="a", rejected="b") for i in range(90)]  # some prompts have two
    found = []
    for _ in range(TRIALS):
        odds = np.where(draw.random(90) < 0.7, 1.0, -1.0)[:, None].repeat(2, 1)
        row = judged(pairs, odds)
        found.append(intervals.Estimate(mean=row["agreement"], low=row["low"], high=row["high"], n=60))
    assert is_about_95(found, 0.7)


def test_of_self_bleu_and_of_kendall_s_w_around_what_they_are_on_average():
    draw = np.random.default_rng(4)
    chances = 1 / np.arange(1, 31)
    said = draw.choice(30, (100, 40, 8), p=chances / chances.sum())
    bleus = [self_bleu([[tuple(map(str, text))] for text in one]) for one in said]
    # A jackknife never says less than the truth about the spread on average, so it may cover a little more.
    assert is_about_95(bleus, float(np.mean([e.mean for e in bleus])), above=0.995)
    marks = np.clip(np.rint(draw.normal(0, 1, (150, 30, 1)) + draw.normal(0, 0.7, (150, 30, 3))), -1, 1)
    ws = [concordance(one) for one in marks]
    assert is_about_95(ws, float(np.mean([e.mean for e in ws])), above=0.995)

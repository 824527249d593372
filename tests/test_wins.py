"""Win rates: counted by hand, fitted as scipy fits them, and with intervals that hold in simulations."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from sparring.evaluation import intervals
from sparring.evaluation.labels import read_labels
from sparring.evaluation.wins import at_equal_length, shares, win_figures, win_rate


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 250)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def played(draw, n: int, N: int, a: float, b: float):
    """Wins and log length differences of pairs that follow the equation of the fit; prompts differ in length."""
    longer = draw.normal(0.5, 0.6, (n, 1)) + draw.normal(0, 0.3, (n, N))
    return (draw.random((n, N)) < sigmoid(a + b * longer)).astype(float), longer


def test_wins_ties_and_losses_are_counted_and_a_tie_is_half():
    won = np.array([[1.0, 0.5], [0.0, 0.0], [1.0, 1.0]])
    assert shares(won) == {"won": 3 / 6, "tied": 1 / 6, "lost": 2 / 6}
    got = win_rate(won)
    assert got.mean == pytest.approx((0.75 + 0 + 1) / 3) and got.n == 3 and got.values == (0.75, 0.0, 1.0)


def test_a_judge_who_knows_gives_all_wins_and_the_interval_still_knows_that_prompts_are_few():
    got = win_figures("gold", np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 1)))
    for one in got.values():
        # Wilson's lower end at a share of 1 is 1 / (1 + z^2 / n).
        assert one.mean == one.high == 1 and one.low == pytest.approx(1 / (1 + 1.959964**2 / 20))


@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_a_judge_who_tosses_a_coin_gives_a_half_within_the_interval(ties):
    draw = np.random.default_rng(1)
    won = np.where(draw.random((400, 2)) < ties, 0.5, draw.integers(0, 2, (400, 2)))
    for one in win_figures("coin", won, draw.normal(size=(400, 2))).values():
        assert one.low < 0.5 < one.high and one.high - one.low < 0.12


def test_the_fit_is_the_maximum_of_the_likelihood_as_scipy_finds_it():
    won, longer = played(np.random.default_rng(2), 60, 3, 0.4, 1.0)
    won[:5] = 0.5
    y, d = won.ravel(), longer.ravel() / longer.std()

    def nats(theta):
        p = sigmoid(theta[0] + theta[1] * d)
        own = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() / 3  # the three pairs of a prompt count as one
        q = [sigmoid(theta[0] + s * theta[1]) for s in (1, -1)]
        return own - sum(math.log(x) + math.log(1 - x) for x in q) / 4

    a = optimize.minimize(nats, [0.0, 0.0], tol=1e-12).x[0]
    assert at_equal_length(won, longer).mean == pytest.approx(sigmoid(a), abs=1e-6)


def level_by_hand(won: list[float], longer: list[float]) -> float:
    """The equation of the fit in plain floats: a thousand small steps up the likelihood, one pair to a prompt."""
    mean = sum(longer) / len(longer)
    std = math.sqrt(sum((x - mean) ** 2 for x in longer) / len(longer))
    points = [(y, x / std, 1.0) for y, x in zip(won, longer, strict=True)]
    points += [(y, x, 0.25) for y in (1.0, 0.0) for x in (1.0, -1.0)]
    a = b = 0.0
    for _ in range(1000):
        off = [(w * (y - 1 / (1 + math.exp(-(a + b * x)))), x) for y, x, w in points]
        a += 2 * sum(o for o, _ in off) / len(points)
        b += 2 * sum(o * x for o, x in off) / len(points)
    return 1 / (1 + math.exp(-a))


def test_the_fit_is_that_of_plain_floats_and_annotations_are_read_so_too(tmp_path):
    words = [(3, 9, 2.0), (8, 4, 1.0), (5, 5, 1.5), (12, 3, 1.0), (2, 7, 1.0), (6, 5, 2.0), (0, 2, 1.8), (7, 21, 2.0)]
    longer = [math.log(b) - math.log(max(1, a)) for a, b, _ in words]
    won = [preference - 1 for _, _, preference in words]
    want = level_by_hand(won, longer)
    assert at_equal_length(np.array(won)[:, None], np.array(longer)[:, None]).mean == pytest.approx(want, abs=1e-6)
    rows = [
        {"instruction": f"q{i}", "output_1": "w " * a, "output_2": "w " * b, "generator_1": "base", "generator_2": "m",
         "preference": preference} for i, (a, b, preference) in enumerate(words)
    ]  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (row,) = read_labels(str(tmp_path / "annotations.json"))[0]["wins"]
    assert row["win_rate_lc"] == pytest.approx(want, abs=1e-6) and row["lc_low"] < want < row["lc_high"]
    assert row["win_rate"] == pytest.approx(sum(won) / len(won)) and want < row["win_rate"]
    for bare in rows:
        del bare["output_1"]
    (tmp_path / "bare.json").write_text(json.dumps(rows))
    assert "win_rate_lc" not in read_labels(str(tmp_path / "bare.json"))[0]["wins"][0]


@pytest.mark.parametrize(("shift", "spread"), [(0.4, 0.5), (-0.8, 1.0)])
def test_a_judge_of_quality_alone_keeps_its_win_rate_at_equal_length(shift, spread):
    draw = np.random.default_rng(7)
    won = (draw.random((2000, 1)) < 0.7).astype(float)
    plain, level = win_rate(won), at_equal_length(won, draw.normal(shift, spread, (2000, 1)))
    assert level.mean == pytest.approx(plain.mean, abs=0.02) and level.low < 0.7 < level.high


def test_a_model_that_wins_by_length_alone_is_no_better_at_equal_length():
    won, longer = played(np.random.default_rng(3), 800, 1, 0.0, 2.0)
    plain, level = win_rate(won), at_equal_length(won, longer)
    assert plain.low > 0.6 and level.low < 0.5 < level.high


def test_where_length_decides_every_pair_the_figure_is_still_finite():
    longer = np.linspace(-1, 2, 30)[:, None]
    got = at_equal_length((longer > 0).astype(float), longer)
    assert 0 < got.low < 0.5 < got.high < 1


def test_units_of_length_and_a_second_call_change_nothing():
    won, longer = played(np.random.default_rng(4), 40, 2, 0.3, 0.5)
    a, b = at_equal_length(won, longer), at_equal_length(won, longer * 7)
    assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high)) and a == at_equal_length(won, longer)


def test_the_intervals_cover_the_truth_about_95_times_in_100(few_draws):
    draw, trials, hits = np.random.default_rng(5), 300, np.zeros(2)
    x = np.random.default_rng(6).normal(0.5, math.hypot(0.6, 0.3), 1_000_000)
    truth = [sigmoid(0.5 + 0.8 * x).mean(), sigmoid(0.5)]
    for i in range(trials):
        won, longer = played(draw, 60, 2, 0.5, 0.8)
        found = (win_rate(won, seed=i), at_equal_length(won, longer, seed=i))
        hits += [one.low <= t <= one.high for one, t in zip(found, truth, strict=True)]
    # 93 to 97 %, give or take two standard errors of 300 trials
    low, high = (p + s * 2 * math.sqrt(p * (1 - p) / trials) for p, s in ((0.93, -1), (0.97, 1)))
    assert all(low <= share <= high for share in hits / trials)

"""Ratings: known strengths are found again, and judges that know nothing rate all alike."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from sparring.cli.main import main
from sparring.core.errors import SettingError
from sparring.evaluation import intervals
from sparring.evaluation.ratings import bradley_terry, elo, rate, wins_of
from sparring.models.backbone import save_trunk, tiny_model

STRENGTHS = np.array([150.0, 40.0, -60.0, -130.0])  # points, about their mean


def chance(strengths=STRENGTHS):
    return 1 / (1 + 10 ** ((strengths[None] - strengths[:, None]) / 400))


def played(draw, n: int, p) -> np.ndarray:
    """Results of all against all on n prompts; p says how likely the first wins."""
    upper = np.triu((draw.random((n, *p.shape)) < p).astype(float), 1)
    return upper + np.tril(1 - upper.swapaxes(1, 2), -1)


def test_known_strengths_are_found_again():
    for found in (bradley_terry(played(np.random.default_rng(0), 3000, chance())), elo_of_many()):
        assert [one.mean - 1000 for one in found] == pytest.approx(STRENGTHS, abs=15)
        assert sum(one.low - 1000 <= s <= one.high - 1000 for one, s in zip(found, STRENGTHS, strict=True)) >= 3


def elo_of_many():
    return elo(played(np.random.default_rng(1), 600, chance()))


def test_the_ratings_are_the_maximum_of_the_likelihood_as_scipy_finds_it():
    wins = played(np.random.default_rng(2), 40, chance())
    total = wins.sum(0) + (1 - np.eye(4)) / 2  # one tie more between every two

    def nats(theta):
        return -sum(
            total[i, j] * -math.log1p(math.exp(theta[j] - theta[i])) for i in range(4) for j in range(4) if i != j
        )

    theta = optimize.minimize(nats, np.zeros(4), tol=1e-12).x
    want = 1000 + 400 / math.log(10) * (theta - theta.mean())
    assert [one.mean for one in bradley_terry(wins)] == pytest.approx(want, abs=1e-3)


def test_two_models_differ_by_the_log_odds_of_their_wins():
    wins = np.zeros((20, 2, 2))
    wins[:15, 0, 1], wins[15:, 1, 0] = 1, 1
    first, second = bradley_terry(wins)
    assert first.mean - second.mean == pytest.approx(400 * math.log10(15.5 / 5.5))  # 15 to 5, and a tie


def test_who_wins_every_time_has_a_finite_rating_above_all_others():
    draw = np.random.default_rng(3)
    p = np.full((3, 3), 0.5)
    p[0], p[:, 0] = 1.0, 0.0
    found = bradley_terry(played(draw, 50, p))
    assert all(math.isfinite(x) for one in found for x in (one.mean, one.low, one.high))
    assert found[0].low > max(found[1].high, found[2].high)


@pytest.mark.parametrize("judge", ["random", "always a tie"])
def test_a_judge_that_knows_nothing_rates_all_alike(judge):
    wins = (
        played(np.random.default_rng(5), 200, np.full((3, 3), 0.5)) if judge == "random" else np.full((50, 3, 3), 0.5)
    )
    for found in (bradley_terry(wins), elo(wins)):
        assert all(one.low - 1e-6 <= 1000 <= one.high + 1e-6 for one in found)


def test_the_intervals_cover_the_truth_about_95_times_in_100(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 250)
    draw, trials = np.random.default_rng(6), 200
    hits = np.zeros(4)
    for i in range(trials):
        found = bradley_terry(played(draw, 80, chance()), seed=i)
        hits += [one.low - 1000 <= s <= one.high - 1000 for one, s in zip(found, STRENGTHS, strict=True)]
    # 93 to 97 %, give or take two standard errors of 200 trials: the four ratings of a trial are not independent
    low, high = (p + s * 2 * math.sqrt(p * (1 - p) / trials) for p, s in ((0.93, -1), (0.97, 1)))
    assert low <= hits.mean() / trials <= high


def test_the_higher_score_wins_a_prompt_and_equal_ones_tie():
    assert wins_of([[1.0, 2.0], [0.0, 2.0]])[:, 0, 1].tolist() == [1.0, 0.5]
    found = {"a": {"values": {"score x": [0.0, 0.0, 1.0]}}, "b": {"values": {"score x": [1.0, 1.0, 0.0]}}}
    rows = rate(found)
    assert [(row["judge"], row["model"]) for row in rows] == [("x", "b"), ("x", "a")]
    assert rows[0]["rating"] - rows[1]["rating"] == pytest.approx(400 * math.log10(2.5 / 1.5))
    with pytest.raises(SettingError, match="several models are rated by what a judge says"):
        rate({"a": {"values": {}}, "b": {"values": {}}})


def test_the_command_rates_several_models_and_writes_it_down(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        save_trunk(tiny_model(["good", "bad"], width=16, layers=1, heads=2, context=32, seed=seed), tmp_path / name)
    (tmp_path / "d.jsonl").write_text('{"prompt": "good"}\n{"prompt": "bad"}\n')
    flags = ["--data", "d.jsonl", "--feedback", "length", "--max-tokens", "4"]
    assert main(["evaluate", "a", "b", *flags, "--ratings", "out.json"]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["ratings"]
    assert sorted(row["model"] for row in rows) == ["a", "b"] and sum(row["rating"] for row in rows) == pytest.approx(
        2000
    )
    out, err = capsys.readouterr()
    assert "ratings" in out and "wrote out.json" in err
    assert main(["evaluate", "a", "a", *flags]) == 2 and "a is named twice" in capsys.readouterr().err

"""The fitted curves against curves whose numbers are known, and best of n against all subsets."""

import math
import random
from itertools import combinations

import pytest
import torch

from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.evaluation.overoptimisation import best_of_table, fit, sizes
from sparring.evaluation.suite import evaluate
from tests.small import world

DISTANCES = [0.1 * i for i in range(60)]


def bent(a: float, b: float, d: float) -> float:
    return 0.25 + d * (a - b * d)


def logged(a: float, b: float, d: float) -> float:
    return 0.25 + (d * (a - b * math.log(d)) if d else 0.0)


@pytest.mark.parametrize(
    ("form", "curve", "a", "b", "turn"),
    [
        ("best of n", bent, 0.4, 0.05, 0.4 / 0.1),
        ("reinforcement learning", logged, 0.3, 0.25, math.exp(0.3 / 0.25 - 1)),
    ],
)
def test_a_form_is_recovered_from_its_own_points_and_turns_where_its_slope_is_zero(form, curve, a, b, turn):
    found = fit(form, [d * d for d in DISTANCES], [curve(a, b, d) for d in DISTANCES])
    assert found is not None and found.turn is not None
    assert (found.start, found.a, found.b) == pytest.approx((0.25, a, b))
    assert found.turn == pytest.approx(turn**2)
    step = 1e-4  # no point of the curve beside the turn is higher
    assert curve(a, b, turn) > max(curve(a, b, turn - step), curve(a, b, turn + step))
    assert found.at(1.7) == pytest.approx(curve(a, b, 1.7))
    kl, reward = zip(*found.to_dict()["curve"], strict=True)
    assert reward == pytest.approx([curve(a, b, math.sqrt(x)) for x in kl])


def test_noise_without_a_curve_claims_no_turn():
    draw = random.Random(1)
    for _ in range(20):
        found = fit("reinforcement learning", [d * d for d in DISTANCES], [draw.gauss(0, 1) for _ in DISTANCES])
        assert found is not None and found.turn is None and "no turn is claimed" in found.sentence()


def test_a_reward_that_only_rises_has_no_turn_where_it_was_measured():
    draw = random.Random(2)
    rising = [0.3 * d + draw.gauss(0, 0.02) for d in DISTANCES]
    found = fit("best of n", [d * d for d in DISTANCES], rising)
    assert found is not None and found.sentence().startswith("no turn")


def test_few_distances_are_not_fitted_and_estimates_below_zero_count_as_zero():
    assert fit("best of n", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]) is None
    assert fit("best of n", [1.0] * 50, [0.1] * 50) is None
    kl = [d * d for d in DISTANCES]
    straight = fit("best of n", [-0.3, *kl[1:]], [bent(0.4, 0.05, d) for d in DISTANCES])
    assert straight is not None and straight.a == pytest.approx(0.4)


class Lookup:
    """Scores a response by the number that it is."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def score(self, responses):
        return torch.tensor([[self.sign * float(text) for text in texts] for texts in responses.texts])


def drawn(scores):
    rows = [Row(prompt=(3,), responses=tuple((4,) for _ in own)) for own in scores]
    return Responses(batch=collate(rows), prompts=("x",) * len(rows), texts=tuple(tuple(map(str, s)) for s in scores))


def test_best_of_n_is_the_mean_over_all_subsets_at_its_known_distance():
    scores = [[0.5, 2.0, -1.0, 3.0], [1.0, 0.0, 4.0, 2.5]]
    rows = best_of_table(drawn(scores), Lookup(), {"gold": Lookup(-1.0)})["best_of"]
    assert [row["n"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        n = row["n"]
        best = [max(some) for own in scores for some in combinations(own, n)]
        assert row["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
        assert row["picked by"] == pytest.approx(sum(best) / len(best))
        assert row["score gold"] == pytest.approx(-sum(best) / len(best))


def test_without_a_picker_the_first_judge_picks_and_one_response_makes_no_table():
    rows = best_of_table(drawn([[1.0, 5.0]]), None, {"gold": Lookup()})["best_of"]
    assert [row["score gold"] for row in rows] == [3.0, 5.0]
    assert best_of_table(drawn([[1.0]]), None, {"gold": Lookup()}) == {}
    assert best_of_table(drawn([[1.0, 5.0]]), Lookup(), {}) == {}
    assert sizes(3) == [1, 2, 3] and sizes(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]


def test_an_evaluation_measures_a_second_distance_keeps_more_responses_and_tells_best_of_n():
    model, data = str(world() / "model"), str(world() / "pairs.jsonl")
    found = evaluate(
        model, data=data, feedback=["length"], base=model, reference=model, judge="length", best_of=2, K=2,
        max_tokens=3, prompts=3, shown=2,
    )  # fmt: skip
    assert "kl_reference" not in found  # picked responses are no samples of the policy
    assert [row["n"] for row in found["tables"]["best_of"]] == [1, 2, 3, 4]
    assert len(found["samples"]) == 2 * 2
    plain = evaluate(model, data=data, reference=model, max_tokens=3, prompts=3)
    assert plain["kl_reference"]["mean"] == pytest.approx(0, abs=1e-5) and "tables" not in plain

"""How far a reward model can be trusted: calibration, and accuracy by margin."""

import json
import math

import numpy as np
import pytest
import torch

from sparring.cli.main import main
from sparring.data.batch import Row
from sparring.evaluation import intervals
from sparring.evaluation.intervals import sizes_of
from sparring.evaluation.suite import evaluate
from sparring.evaluation.trust import Pair, pairs_of, trust
from tests.small import quick, world, write


def pair(unit, promise, *, right, margin=None):
    """A pair whose order is promised with a probability of at least a half."""
    gap = math.log(promise / (1 - promise))
    return Pair(unit=(unit,), gap=gap if right else -gap, margin=margin)


def test_calibration_is_the_promise_beside_what_came_true():
    # 0.65: promised twice, true once; 0.9 and 0.95: promised four times, true three times.
    pairs = [pair(0, 0.65, right=True), pair(1, 0.65, right=False)]
    pairs += [pair(2, 0.92, right=True), pair(3, 0.92, right=True), pair(4, 0.96, right=True)]
    pairs += [pair(5, 0.96, right=False)]
    figures, tables = trust(pairs)
    low, high = tables["calibration"]
    assert (low["from"], low["to"], low["mean"], low["n"]) == (0.6, 0.7, 0.5, 2)
    assert low["promised"] == pytest.approx(0.65)
    assert (high["from"], high["to"], high["mean"], high["n"]) == (0.9, 1.0, 0.75, 4)
    assert high["promised"] == pytest.approx(0.94)
    assert figures["calibration_error"].mean == pytest.approx((2 * 0.15 + 4 * 0.19) / 6)
    assert figures["overconfidence"].mean == pytest.approx((2 * 0.15 + 4 * 0.19) / 6)


def test_errors_in_both_directions_add_up_in_one_figure_and_cancel_in_the_other():
    pairs = [pair(0, 0.75, right=True), pair(1, 0.95, right=False)]
    figures, _ = trust(pairs)
    assert figures["calibration_error"].mean == pytest.approx((0.25 + 0.95) / 2)
    assert figures["overconfidence"].mean == pytest.approx((-0.25 + 0.95) / 2)


def test_equal_scores_promise_a_half_and_are_half_right():
    figures, tables = trust([Pair(unit=(i,), gap=0.0, margin=None) for i in range(3)])
    assert figures["calibration_error"].mean == 0 and tables["calibration"][0]["mean"] == 0.5


def test_a_prompt_counts_as_one_however_many_pairs_it_has():
    many = Row(prompt=(1,), responses=((3,), (4,), (5,)), scores=(3.0, 2.0, 1.0))
    one = Row(prompt=(2,), responses=((3,), (4,)))
    pairs = pairs_of([many, one], torch.tensor([[0.0, 9.0, 18.0], [9.0, 0.0, 0.0]]).double())
    assert [(p.unit, p.gap, p.margin, p.weight) for p in pairs] == [
        ((1,), -9.0, 1.0, 0.5), ((1,), -9.0, 1.0, 0.5), ((2,), 9.0, None, 1.0)
    ]  # fmt: skip
    figures, tables = trust(pairs)
    sure = 1 / (1 + math.exp(-9))
    assert figures["calibration_error"].mean == pytest.approx(sure - 0.5)
    assert tables["calibration"][0]["mean"] == 0.5 and tables["calibration"][0]["n"] == 2


def test_pairs_that_nobody_ordered_are_left_out():
    tied = Row(prompt=(1,), responses=((3,), (4,)), scores=(2.0, 2.0))
    tossed = Row(prompt=(2,), responses=((3,), (4,)), label=0.5)
    hair = Row(prompt=(3,), responses=((3,), (4,)), margin=0.0)  # negligibly better is better all the same
    assert [p.unit for p in pairs_of([tied, tossed, hair], torch.zeros(3, 2))] == [(3,)]
    assert trust([]) == ({}, {})


def test_few_margins_have_a_row_each_and_many_are_put_into_quarters():
    degrees = [pair(i, 0.7, right=i % 4 > 0, margin=(0, 1, 2, 3)[i // 4]) for i in range(16)]
    table = trust(degrees)[1]["accuracy_by_margin"]
    assert [(r["from"], r["to"], r["mean"], r["n"]) for r in table] == [(m, m, 0.75, 4) for m in range(4)]
    graded = [pair(i, 0.7, right=i >= 10, margin=i / 10) for i in range(20)]
    table = trust(graded)[1]["accuracy_by_margin"]
    assert [(r["from"], r["to"], r["mean"], r["n"]) for r in table] == [
        (0.0, 0.4, 0.0, 5), (0.5, 0.9, 0.0, 5), (1.0, 1.4, 1.0, 5), (1.5, 1.9, 1.0, 5)
    ]  # fmt: skip


@pytest.mark.parametrize(("slope", "truth"), [(1.0, 0.0), (0.0, None)])
def test_the_interval_of_the_calibration_error_covers_it(monkeypatch, slope, truth):
    # One model keeps its promises; for the other every order is a coin toss, so it is off by its mean promise - 1/2.
    monkeypatch.setattr(intervals, "DRAWS", 300)
    draw, hits = np.random.default_rng(1), 0
    for _ in range(100):
        gaps = draw.normal(0, 1.5, 150)
        promised = 1 / (1 + np.exp(-np.abs(gaps)))
        right = draw.random(150) < np.where(slope, promised, 0.5)
        pairs = [Pair(unit=(i,), gap=float(g if r else -g), margin=None)
                 for i, (g, r) in enumerate(zip(np.abs(gaps), right, strict=True))]  # fmt: skip
        got = trust(pairs)[0]["calibration_error"]
        wide = np.abs(draw.normal(0, 1.5, 100_000)) if truth is None else None
        true = truth if wide is None else float((1 / (1 + np.exp(-wide))).mean() - 0.5)
        hits += got.low <= true <= got.high
    assert hits >= 91  # 95 less two standard errors of 100 trials; it is meant to cover more


def test_sizes_are_taken_of_means_and_not_of_rows():
    got = sizes_of([[1.0, -2.0], [-1.0, -2.0]])
    assert got.mean == 2.0 and got.low is not None and got.low >= 0
    assert sizes_of([[1.0]]).low is None
    with pytest.raises(ValueError, match="nothing"):
        sizes_of([])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reward model of pairs whose margins are given in words; it never learns from half of them."""
    place = tmp_path_factory.mktemp("trust")
    words = ["significantly better", "better", "slightly better", "unsure"]
    raw = [json.loads(line) for line in (world() / "pairs.jsonl").read_text().splitlines()]
    file = write(place / "pairs.jsonl", [r | {"margin": words[i % 4]} for i, r in enumerate(raw)])
    return quick("reward_model", place / "rm", data=str(file), settings={"margins": "large"}), file


def test_an_evaluation_of_a_reward_model_says_how_far_it_can_be_trusted(run):
    folder, file = run
    got = evaluate(str(folder), data=str(file))
    assert {"reward_accuracy", "reward_margin", "score_best", "calibration_error", "overconfidence"} <= got.keys()
    assert [r["from"] for r in got["tables"]["accuracy_by_margin"]] == [0.0, 1 / 3, 2 / 3, 1.0]
    level = json.loads((folder / "model" / "score.json").read_text())["mean"]
    assert any(f"when it was trained, {level:.4g}," in note for note in got["notes"])
    assert json.loads((folder / "eval.json").read_text()) == got


def test_the_command_prints_the_tables(run, capsys):
    folder, file = run
    assert main(["evaluate", str(folder), "--data", str(file)]) == 0
    out = capsys.readouterr().out
    assert "accuracy by margin" in out and "calibration_error" in out and "promised" in out

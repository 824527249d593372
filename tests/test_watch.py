import json
import math

import pytest
import torch

from sparring.loops.watch import FIRST, PATIENCE, SIGNS, Watch, correlation, distinct, repeated

HEALTHY = {
    "identical": 0.0,
    "distinct_2": 0.8,
    "repeated_4grams": 0.02,
    "entropy": 3.0,
    "length": 20.0,
    "kl_per_token": 0.1,
    "ref_nll": 3.1,
    "judge_accuracy_held_out": 0.7,
}


QUIET = ([], [], [])


def begun(**start):
    """A watch that has seen the first rounds of a healthy run."""
    watch = Watch()
    for _ in range(FIRST):
        assert watch.look(HEALTHY | start) == QUIET
    return watch


def test_a_healthy_run_is_left_in_peace():
    watch = begun()
    assert all(watch.look(HEALTHY) == QUIET for _ in range(10))


@pytest.mark.parametrize(
    ("metric", "warns", "certain"),
    [
        ("identical", 0.3, 0.7),
        ("distinct_2", 0.8 * 0.5, 0.8 * 0.3),
        ("repeated_4grams", 0.3, 0.6),
        ("entropy", 3.0 * 0.3, 3.0 * 0.05),
        ("length", 20 * 0.4, 20 * 0.1),
        ("kl_per_token", 1.5, 3.0),
        ("ref_nll", 3.1 + 0.35, 3.1 + 0.6),
    ],
)
def test_a_sign_warns_first_and_is_certain_only_when_it_lasts(metric, warns, certain):
    watch = begun()
    seen = watch.look(HEALTHY | {metric: warns})
    assert len(seen.warnings) == 1 and metric in seen.warnings[0] and not seen.certain
    for _ in range(PATIENCE - 1):
        seen = watch.look(HEALTHY | {metric: certain})
        assert len(seen.warnings) == 1 and not seen.certain
    seen = watch.look(HEALTHY | {metric: certain})
    assert not seen.warnings and len(seen.certain) == 1 and f"{metric} is" in seen.certain[0]


def test_one_good_round_in_between_starts_the_count_again():
    watch, broken = begun(), HEALTHY | {"identical": 0.9}
    seen = [
        watch.look(figures).certain for figures in [broken] * (PATIENCE - 1) + [HEALTHY] + [broken] * (PATIENCE - 1)
    ]
    assert not any(seen)
    assert watch.look(broken).certain


@pytest.mark.parametrize(
    ("metric", "value"),
    [("judge_accuracy_held_out", 1.0), ("judge_by_heart", 1.0), ("cue_length", -0.9), ("cue_fluency", 0.9)],
)
def test_what_a_judge_is_like_is_worth_a_remark_and_neither_stops_a_run_nor_spoils_a_checkpoint(metric, value):
    watch = begun()
    for _ in range(3 * PATIENCE):
        seen = watch.look(HEALTHY | {metric: value})
        assert len(seen.remarks) == 1 and metric in seen.remarks[0] and not seen.warnings and not seen.certain


def test_a_rule_may_lead_away_from_the_reference_with_a_warning_and_a_learnt_judge_may_not():
    for is_learnt in (True, False):
        watch = Watch(judge_is_learnt=is_learnt)
        for _ in range(FIRST):
            watch.look(HEALTHY)
        seen = [watch.look(HEALTHY | {"ref_nll": 4.0}) for _ in range(2 * PATIENCE)]
        assert all(one.warnings or one.certain for one in seen)
        assert any(one.certain for one in seen) is is_learnt


def test_what_the_reference_finds_unlikely_is_measured_from_the_lowest_rounds():
    fallen = [3.0, 2.4, 2.3, 2.2]  # the lowest mean of three is 2.3
    for start, risen, warns in ((9.0, 9.2, False), (3.1, 2.55, False), (3.1, 2.65, True)):
        watch = begun(ref_nll=start)
        for value in fallen if start < 9 else ():
            assert watch.look(HEALTHY | {"ref_nll": value}) == QUIET
        later = Watch()
        later.load(json.loads(json.dumps(watch.state())))
        assert bool(later.look(HEALTHY | {"ref_nll": risen}).warnings) is warns


def test_a_figure_counts_as_far_as_it_surely_goes():
    # 0.9 above the lowest; with a standard error of 0.25 surely 0.4, with one of 0.35 only 0.2.
    for error, warns, stops in ((0.0, True, True), (0.25, True, False), (0.35, False, False)):
        watch = begun()
        seen = [watch.look(HEALTHY | {"ref_nll": 4.0, "ref_nll_error": error}) for _ in range(PATIENCE)]
        assert (bool(seen[0].warnings), bool(seen[-1].certain)) == (warns, stops)


def test_answers_that_are_alike_from_the_start_are_the_task_and_no_collapse():
    # One-word answers: 70 percent of them equal another one when training starts.
    watch = begun(identical=0.7)
    assert watch.look(HEALTHY | {"identical": 0.8}) == QUIET
    watch = begun(identical=0.3)
    assert watch.look(HEALTHY | {"identical": 0.5}).warnings


def test_a_run_that_shows_no_such_figure_is_watched_by_the_others():
    watch = Watch()
    for _ in range(FIRST):
        assert watch.look({"length": 10.0}) == QUIET
    assert watch.look({"length": 4.0}).warnings


def test_a_restored_watch_says_what_the_first_one_says():
    first, second = begun(), Watch()
    first.look(HEALTHY | {"identical": 0.9})
    second.load(first.state())
    for figures in [HEALTHY | {"identical": 0.9, "length": 3.0}] * PATIENCE:
        assert first.look(figures) == second.look(figures)
    assert first.state() == second.state()


def test_every_sign_is_a_metric_and_its_certain_limit_lies_beyond_its_warning():
    from sparring.core.metrics import METRICS

    for sign in SIGNS:
        assert sign.metric in METRICS
        assert (sign.certain > sign.warns) == sign.is_upper


def test_distinct_and_repeated_count_as_by_hand():
    # a b a b a: pairs ab ba ab ba, two of four different; with "b c" one more pair, all in all 3 of 5
    assert distinct([list("ababa")], 2) == 2 / 4
    assert distinct([list("ababa"), list("bc")], 2) == 3 / 5
    assert repeated([list("ababa")], 2) == 2 / 4
    # the same pair in two texts is no repetition within one
    assert repeated([list("ab"), list("ab")], 2) == 0.0
    assert distinct([[1]], 2) == repeated([[1]], 2) == 0.0


def test_correlation_is_pearsons():
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 1.0, 9.0])
    # means 7/3 and 4; centred a: -4/3 -1/3 5/3, b: -2 -3 5; products sum to 12; squares to 42/9 and 38
    assert correlation(a, b) == pytest.approx(12 / math.sqrt(42 / 9 * 38))
    assert correlation(a, torch.ones(3)) == 0.0

"""What a comparison shows beyond doubt: against numbers made by hand, and plain-float arithmetic."""

import random
import statistics
from dataclasses import replace

import pytest

from sparring.compare.verdict import headline, holm, judge, paired, seeds_needed, sentences
from sparring.evaluation.intervals import t_tails


def scores(mean, *, by_seed=(0.0, 0.0, 0.0), spread=0.1, prompts=50, salt=0):
    """Scores of prompts under seeds: a mean, a shift of each seed, and noise of its own everywhere."""
    draw = random.Random(salt)
    return {s: [mean + shift + draw.gauss(0, spread) for _ in range(prompts)] for s, shift in enumerate(by_seed)}


def verdicts(findings):
    return {(t.name, t.rival): t.verdict for t in findings}


def test_a_clear_winner_a_clear_loser_and_a_tie_are_told():
    means = {"SFT": 0.5, "SFT + best of 4": 0.6, "A": 0.9, "B": 0.2, "C": 0.5}
    table = {name: scores(mean, by_seed=(0.0,) * 5, salt=i) for i, (name, mean) in enumerate(means.items())}
    against, among = judge(table, ["SFT", "SFT + best of 4"])
    found = verdicts(against)
    assert [found[n, "SFT"] for n in "ABC"] == ["better", "worse", "unclear"]
    assert [found[n, "SFT + best of 4"] for n in "AB"] == ["better", "worse"]
    said = " ".join(sentences(against, among))
    assert "Better than SFT beyond doubt: A (+0.3" in said and "Worse than SFT beyond doubt: B (-0.3" in said
    assert "Not to be told apart from SFT: C (" in said and "A beats B" in said and "C beats B" in said


def test_the_headline_names_the_best_its_equals_and_no_one_when_nothing_helped():
    def told(**means):
        table = {n: scores(m, by_seed=(0.0,) * 5, salt=i) for i, (n, m) in enumerate(means.items())}
        return headline(*judge(table, ["SFT"]), "SFT")

    assert told(SFT=0.5, A=0.9, B=0.7, C=0.5).startswith("A helped most: +0.")
    assert told(SFT=0.5, A=0.9, B=0.7, C=0.5).endswith(").")
    assert told(SFT=0.5, A=0.9, B=0.9, C=0.5).endswith(
        ("it cannot be told apart from B.", "it cannot be told apart from A.")
    )
    assert told(SFT=0.5, A=0.5, B=0.2) == "No method is better than SFT beyond doubt."
    assert told(SFT=0.5) == ""


def test_prompts_in_plenty_do_not_hide_that_seeds_disagree():
    steady = scores(0.6, spread=0.05, prompts=400, salt=1)
    moody = scores(0.6, by_seed=(-0.25, 0.05, 0.2), spread=0.05, prompts=400, salt=1)
    start = scores(0.5, spread=0.05, prompts=400, salt=2)
    assert paired("A", "SFT", steady, start).p < 1e-2
    assert paired("A", "SFT", moody, start).p > 0.2


def test_with_seeds_that_alone_vary_it_is_the_t_test_over_seeds():
    gaps = (0.1, 0.3, 0.2)
    found = paired("A", "SFT", {s: [g] * 10 for s, g in enumerate(gaps)}, {s: [0.0] * 10 for s in range(3)})
    t = statistics.mean(gaps) / (statistics.stdev(gaps) / 3**0.5)  # 3.4641
    half = 4.302653 * statistics.stdev(gaps) / 3**0.5  # the 97.5 % quantile of t with 2 degrees of freedom
    assert found.p == pytest.approx(1 - t / (2 + t * t) ** 0.5)  # that t's distribution in closed form
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), rel=1e-5)


def test_with_prompts_that_alone_vary_it_is_the_t_test_over_prompts():
    gaps = [0.1, 0.2, -0.05, 0.3, 0.15]
    found = paired("A", "SFT", dict.fromkeys(range(3), gaps), dict.fromkeys(range(3), [0.0] * 5))
    t = statistics.mean(gaps) / (statistics.stdev(gaps) / 5**0.5)
    assert found.p == pytest.approx(t_tails(t, 4)) and (found.seeds, found.prompts) == (3, 5)


def test_tails_of_student_t_are_those_of_the_tables():
    # 97.5 % and 99.5 % quantiles for 4, 9 and 100 degrees of freedom
    for t, freedom, p in ((2.776445, 4, 0.05), (-3.249836, 9, 0.01), (1.983972, 100, 0.05), (0.0, 3, 1.0)):
        assert t_tails(t, freedom) == pytest.approx(p, rel=1e-5)


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_one_doubtful_method_among_many_is_not_called_better():
    start = {s: [0.0] * 6 for s in range(3)}
    gaps = [0.32, -0.03, 0.27, 0.04, 0.3, 0.12]  # mean 0.17, t = 2.8 over six prompts: p is about 0.04
    table = {"SFT": start, "A": dict.fromkeys(range(3), gaps)}
    alone, _ = judge(table, ["SFT"])
    assert 0.02 < alone[0].p < 0.05 and alone[0].verdict == "better"
    others = {f"N{i}": scores(0.0, spread=0.5, prompts=6, salt=i) for i in range(3)}
    many, _ = judge(table | others, ["SFT"])
    assert many[0].p == alone[0].p and many[0].verdict == "unclear"
    assert many[0].adjusted == pytest.approx(4 * many[0].p)  # the smallest of four


def test_as_many_seeds_as_are_said_to_be_needed_show_the_difference_four_times_in_five():
    def drawn(seeds, salt, gap):
        draw = random.Random(salt)
        shifts = [draw.gauss(gap, 0.2) for _ in range(seeds)]
        return {s: [shift + draw.gauss(0, 0.3) for _ in range(40)] for s, shift in enumerate(shifts)}

    def found(seeds, salt, gap=0.2):
        zero = {s: [0.0] * 40 for s in range(seeds)}
        return paired("A", "SFT", drawn(seeds, salt, gap), zero)

    # From the true variances, so that only the promise itself is tried, and not how well three seeds guess them.
    few = replace(found(3, 0), mean=0.2, variances=((0.04 + 0.09 / 40) / 3, 0.09 / 120, 0.09 / 120))
    for tests, level in ((1, 0.05), (5, 0.01)):
        needed = seeds_needed(few, tests)
        assert needed is not None and needed > 3
        shown = sum(found(needed, salt).p < level for salt in range(400)) / 400
        fewer = sum(found(needed - 2, salt).p < level for salt in range(400)) / 400
        assert 0.75 < shown < 0.9 and fewer < shown - 0.03
    assert seeds_needed(replace(few, mean=0.02), 5) is None


def test_an_unclear_difference_says_how_many_seeds_would_tell():
    moody = scores(0.7, by_seed=(-0.1, 0.05, 0.05), spread=0.05, prompts=400, salt=1)
    against, among = judge({"SFT": scores(0.5, spread=0.05, prompts=400, salt=2), "A": moody}, ["SFT"])
    (only,) = against
    assert only.verdict == "unclear" and only.seeds_needed in range(4, 9)
    said = " ".join(sentences(against, among))
    assert "Not to be told apart from SFT: A (+0.2" in said and f"; about {only.seeds_needed} seeds)" in said
    clear, _ = judge({"SFT": scores(0.5, salt=2), "A": scores(0.9, salt=1)}, ["SFT"])
    assert clear[0].verdict == "better" and clear[0].seeds_needed is None


def test_what_one_seed_one_prompt_or_no_common_seed_cannot_tell_is_not_told():
    one = paired("A", "SFT", {0: [1.0, 2.0]}, {0: [0.0, 0.5]})
    assert (one.mean, one.p, one.verdict) == (1.25, None, "unclear")
    assert sentences([one], []) == ["One seed cannot tell from SFT: A (+1.250)."]
    assert paired("A", "SFT", {0: [1.0], 1: [2.0]}, {0: [0.0], 1: [0.0]}).p is None
    assert paired("A", "SFT", {0: [1.0]}, {1: [1.0]}) is None
    same = paired("A", "SFT", {0: [1.0, 1.0], 1: [1.0, 1.0]}, {0: [1.0, 1.0], 1: [1.0, 1.0]})
    assert (same.mean, same.p) == (0.0, 1.0)
    (equal,), _ = judge({"SFT": scores(0.5), "A": scores(0.5)}, ["SFT"])
    assert equal.mean == 0 and equal.seeds_needed is None  # no number of seeds tells what is the same

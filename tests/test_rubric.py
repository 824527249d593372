"""Good, average, bad: tiers from labels and from judges, the improvement on the base, and how far raters agree."""

import json

import numpy as np
import pytest

from sparring.core.errors import DataError, FeedbackError
from sparring.evaluation.labels import read_labels
from sparring.evaluation.rubric import concordance, rubric_figures, tier_of
from sparring.evaluation.suite import evaluate
from sparring.models.backbone import save_trunk, tiny_model


def test_the_improvement_is_the_mean_of_paired_differences_and_its_sum_is_the_paper_s_score():
    own = [{"a": 1, "b": 1, "c": -1}, {"a": 0, "b": 1, "c": 1}, {"a": -1, "b": -1, "c": -1}]
    base = [{"a": 0, "b": -1, "c": -1}, {"a": 0, "b": 0, "c": 0}, {"a": 1, "b": -1, "c": -1}]
    found, tables = rubric_figures(own, base)
    means = [1 / 3 + 2 / 3, 2 / 3 - 0, -1 + 1 / 3]
    assert found["rubric"].values == pytest.approx((1 / 3, 2 / 3, -1)) and found["rubric"].n == 3
    assert found["improvement"].values == pytest.approx(means)
    by_mean, by_median = tables["improvement"]
    assert by_mean["sum"] == pytest.approx(sum(means))
    assert by_median["sum"] == pytest.approx((1 - -1) + (1 - 0) + (-1 - -1))
    assert by_mean["low"] <= by_mean["sum"] <= by_mean["high"]
    # Rater by rater: a 1, 0, -2; b 2, 1, 0; c 0, 1, 0.
    assert {k: by_mean[k] for k in ("-2", "-1", "0", "+1", "+2")} == {"-2": 1, "-1": 0, "0": 4, "+1": 3, "+2": 1}
    model, before = tables["rubric"]
    assert (model["good"], model["average"], model["bad"]) == (4, 1, 4) and before["bad"] == 4


def test_a_tier_is_a_word_or_its_number_and_nothing_else():
    assert [tier_of(x, "x") for x in ("Good", " bad ", "average", 1, -1.0, "0")] == [1, -1, 0, 1, -1, 0]
    for wrong in ("fine", 2, 0.5, None, ""):
        with pytest.raises(FeedbackError, match=r"f:3: .* is no tier of the rubric"):
            tier_of(wrong, "f:3")


def kendall(table: list[list[float]]) -> float:
    """Kendall's W from its definition: the variance of rank sums over the largest that ties allow, in plain floats."""
    n, m = len(table), len(table[0])
    sums, ties = [0.0] * n, 0.0
    for j in range(m):
        column = [row[j] for row in table]
        for i in range(n):
            below = sum(x < column[i] for x in column)
            same = sum(x == column[i] for x in column)
            sums[i] += below + (same + 1) / 2
        ties += sum(column.count(x) ** 3 - column.count(x) for x in set(column))
    spread = sum((r - m * (n + 1) / 2) ** 2 for r in sums)
    return 12 * spread / (m * m * (n**3 - n) - m * ties)


def test_kendall_s_w_is_that_of_its_formula_with_ties():
    draw = np.random.default_rng(0)
    for m in (2, 3, 5):
        marks = draw.integers(-1, 2, (25, m)).astype(float)
        got = concordance(marks)
        assert got.mean == pytest.approx(kendall(marks.tolist()), abs=1e-12) and got.low <= got.mean <= got.high
    # Siegel and Castellan's kind of example: three raters, six things, no ties; 12 * 25.5 / (9 * 210).
    ranks = np.array([[1, 1, 6], [6, 5, 3], [3, 6, 2], [2, 4, 5], [5, 2, 4], [4, 3, 1]], dtype=float)
    assert concordance(ranks).mean == pytest.approx(12 * 25.5 / (9 * 210))
    same = np.arange(10.0)[:, None].repeat(3, 1)
    assert concordance(same).mean == pytest.approx(1) and concordance(same).low == pytest.approx(1)
    with pytest.raises(ValueError, match="two raters"):
        concordance(same[:, :1])


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_labels_in_a_file_give_tiers_improvement_harmless_rate_and_agreement_of_raters(tmp_path):
    tiers = {"base": ["bad", "average", "bad", "good"], "tuned": ["good", "average", "bad", "good"]}
    rows = [
        {"model": model, "prompt": f"p{i}", "rater": rater, "tier": tier, "harmless": model == "base" or i > 0}
        for model, own in tiers.items()
        for i, tier in enumerate(own)
        for rater in ("ann", "bob")
    ]
    tables, notes = read_labels(write(tmp_path / "l.jsonl", rows), "base")
    by_model = {row["model"]: row for row in tables["rubric"]}
    assert by_model["tuned"]["good"] == 4 and by_model["tuned"]["mean"] == pytest.approx(1 / 4) and notes == []
    (row, _) = tables["improvement"]
    assert row["model"] == "tuned" and row["sum"] == pytest.approx(2) and row["+2"] == 2 and row["prompts"] == 4
    assert {row["model"]: row["rate"] for row in tables["harmless"]} == {"base": 1.0, "tuned": 0.75}
    assert tables["raters"][0]["kendalls_w"] == pytest.approx(1) and tables["raters"][0]["responses"] == 8
    with pytest.raises(DataError, match="no model is called 'bsae'"):
        read_labels(str(tmp_path / "l.jsonl"), "bsae")
    with pytest.raises(DataError, match="neither labels nor judgments"):
        read_labels(write(tmp_path / "x.jsonl", [{"prompt": "p"}]))


def tier(text: str) -> int:
    return 1 if "good" in text else -1 if "bad" in text else 0


def test_a_judge_says_the_tiers_of_the_model_and_its_start_and_another_one_what_is_harmless(tmp_path):
    for seed, name in enumerate(("model", "start")):
        made = tiny_model(["good", "bad", "film"], width=16, layers=1, heads=2, context=32, seed=seed)
        made.lm.get_input_embeddings().weight.data.mul_(8)
        save_trunk(made, tmp_path / name)
    data = write(
        tmp_path / "d.jsonl", [{"prompt": " ".join(p)} for p in (("good",), ("bad",), ("film",), ("film", "good"))]
    )
    answers = tmp_path / "answers.jsonl"
    run = {"data": data, "max_tokens": 4, "K": 2, "base": str(tmp_path / "start")}
    got = evaluate(str(tmp_path / "model"), rubric=tier, harmless=lambda text: "bad" not in text,
                   answers=str(answers), **run)  # fmt: skip
    said = [json.loads(line)["response"] for line in answers.read_text().splitlines()]
    assert len(said) == 8 and got["rubric"]["mean"] == pytest.approx(sum(map(tier, said)) / 8)
    assert got["harmless"]["mean"] == pytest.approx(sum("bad" not in text for text in said) / 8)
    start = evaluate(str(tmp_path / "start"), rubric=tier, **run)
    assert got["improvement"]["mean"] == pytest.approx(got["rubric"]["mean"] - start["rubric"]["mean"])
    assert start["improvement"]["mean"] == 0 and {row["of"] for row in got["tables"]["rubric"]} == {"model", "base"}
    with pytest.raises(FeedbackError, match="no tier of the rubric"):
        evaluate(str(tmp_path / "model"), rubric="length", **run)

"""Judges beside people: how often they agree, whether a place decides, and what ties are counted as."""

import json
import random

import numpy as np
import pytest
import yaml

from sparring.cli.main import main
from sparring.core.errors import FeedbackError
from sparring.core.records import Preference
from sparring.evaluation.agreement import agreement, judged
from sparring.evaluation.intervals import share_of
from sparring.models.backbone import save_trunk, tiny_model
from sparring.models.heads import scalar_head
from sparring.models.roles import Network
from sparring.models.scorers import save_scorer

N = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two hundred different prompts; the chosen response says so, and is the longer one three times out of four."""
    rows = [
        {"prompt": f"p{i}", "chosen": "right one" + " too" * (2 * (i % 4 > 0)), "rejected": "wrong one too"}
        for i in range(N)
    ]
    file = tmp_path_factory.mktemp("agreement") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def first(prompt: str, a: str, b: str) -> int:
    return 1


def oracle(prompt: str, a: str, b: str) -> int:
    return 1 if a.startswith("right") else -1


def one(data: str, judge, **more) -> dict:
    return agreement([judge], data=data, **more)["agreement"][0]


def test_a_judge_that_always_says_first_agrees_half_of_the_time_and_is_found_out(data):
    got = one(data, first)
    assert got["agreement"] == 0.5 and got["equal"] == 1 and got["same_place"] == 1 and got["prompts"] == N


def test_a_judge_that_draws_lots_agrees_half_of_the_time_within_the_interval(data):
    draw = random.Random(1)
    got = one(data, lambda prompt, a, b: draw.choice([-1, 1]))
    assert got["low"] < 0.5 < got["high"] and got["agreement"] != 0.5
    # Two independent draws name the same place half of the time; three standard errors around that.
    assert abs(got["same_place"] - 0.5) < 3 * (0.25 / N) ** 0.5


def test_an_oracle_agrees_always_and_with_wilsons_interval(data):
    got = one(data, oracle)
    want = share_of(N, N)
    assert (got["agreement"], got["low"], got["high"]) == (1.0, want.low, want.high) and got["same_place"] == 0


def test_a_rule_that_scores_one_response_at_a_time_agrees_as_often_as_its_scores_do(data):
    got = one(data, "length")
    # Three quarters are longer by a word; the last quarter is shorter by one.
    assert got["agreement"] == 0.75 and got["same_place"] == 0 and got["equal"] == 0


def test_what_people_call_equal_is_left_out_of_agreement_and_counts_in_three_way():
    pair = lambda name, label=None: Preference(prompt=name, chosen="a", rejected="b", label=label)  # noqa: E731
    pairs = [pair("1"), pair("2"), pair("3"), pair("4", 0.5), pair("5", 0.5)]
    odds = np.array([[1, 1], [-1, -1], [1, -1], [0, 0], [2, 1]], dtype=float)
    got = judged(pairs, odds)
    assert got["agreement"] == pytest.approx((1 + 0 + 0.5) / 3) and got["tied"] == 2
    assert got["three_way"] == pytest.approx(2 / 5)  # the first, and the fourth, which both call equal
    assert got["same_place"] == pytest.approx(1 / 5) and got["equal"] == pytest.approx(2 / 5)


def test_pairs_of_one_prompt_are_one_unit():
    same = [Preference(prompt="1", chosen="a", rejected="b")] * 3 + [Preference(prompt="2", chosen="a", rejected="b")]
    got = judged(same, np.array([[1, 1]] * 3 + [[-1, -1]], dtype=float))
    assert got["agreement"] == 0.75 and got["prompts"] == 2 and got["pairs"] == 4


def test_a_file_says_by_a_column_which_pairs_are_tied_and_by_another_where_they_are_from(tmp_path):
    rows = [{"prompt": "1", "chosen": "a b", "rejected": "c", "tie": False, "source": "x"},
            {"prompt": "2", "chosen": "a b", "rejected": "c", "tie": True, "source": "y"},
            {"prompt": "3", "chosen": "a", "rejected": "c d", "tie": False, "source": "y"}]  # fmt: skip
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = agreement(["length", oracle], data=str(tmp_path / "d.jsonl"), fields={"tag": "source"})
    assert got["agreement"][0]["tied"] == 1 and got["agreement"][0]["agreement"] == 0.5
    by_tag = {(row["tag"], row["judge"]): row for row in got["agreement_by_tag"]}
    assert by_tag["x", "length"]["agreement"] == 1 and by_tag["y", "length"]["agreement"] == 0
    assert by_tag["y", "oracle"]["pairs"] == 2 and got["settings"]["judges"] == ["length", "oracle"]


def test_a_judge_that_reads_tokens_is_asked_by_its_own_tokenizer(data, tmp_path):
    made = tiny_model(["right", "wrong", "one", "too"], width=16, layers=1, heads=2, context=32, seed=0)
    save_trunk(made, tmp_path / "ranker" / "model")
    content = {"method": "pairwise_ranker", "model": str(tmp_path / "none"), "data": "none", "settings": {}}
    (tmp_path / "ranker" / "run.yaml").write_text(yaml.safe_dump(content))
    save_scorer(Network(trunk=made, head=scalar_head(made, 1)), tmp_path / "scorer")
    names = [str(tmp_path / "scorer"), f"0.5*{tmp_path / 'scorer'}+0*length".replace("+0*length", ""), "length"]
    rows = agreement(names, data=data, where=["prompt=p1"])["agreement"]
    assert rows[0]["agreement"] == rows[1]["agreement"] in (0.0, 0.5, 1.0)  # half of the same score: the same order


def test_the_command_prints_a_row_for_each_judge_writes_the_table_and_refuses_what_would_do_nothing(
    data, tmp_path, capsys
):
    table = tmp_path / "table.json"
    said = ["evaluate", "length", "--agreement", "--data", data]
    assert main([*said, "--table", str(table)]) == 0
    out = capsys.readouterr().out
    assert "agreement" in out and "0.75" in out
    assert json.loads(table.read_text())["agreement"][0]["agreement"] == 0.75
    assert main([*said, "--feedback", "vader"]) == 2
    assert "--feedback does nothing with --agreement" in capsys.readouterr().err
    assert main(["evaluate", "m", "--data", data, "--table", "x"]) == 2
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"model": "m", "prompt": "p", "tier": "good"}\n')
    assert main(["evaluate", str(labels), "--K", "3"]) == 2
    assert "--K does nothing with a FILE" in capsys.readouterr().err
    assert main(["evaluate", str(labels), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"]["rubric"][0]["good"] == 1


def test_a_judge_that_says_no_number_is_refused(data):
    with pytest.raises(FeedbackError, match="returned 'A'; above 0 means"):
        agreement([lambda prompt, a, b: "A"], data=data)
    with pytest.raises(FeedbackError, match="no feedback called 'lenght'"):
        agreement(["lenght"], data=data)

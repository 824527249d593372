"""The pairwise ranker: how it is asked, what it learns, and how it judges."""

import itertools
import json
import math

import pytest
import torch

from sparring.core.errors import DataError, FeedbackError, SettingError
from sparring.core.records import Demonstration, Message, Preference
from sparring.data.batch import collate
from sparring.data.compare import LETTERS, question, questions
from sparring.data.encode import encode
from sparring.data.responses import read_out
from sparring.evaluation.suite import evaluate
from sparring.feedback.ranker import Ranker, better, load_ranker
from sparring.loops.train import train
from sparring.methods import get
from sparring.models.backbone import load_trunk, save_trunk, tiny_model
from sparring.models.roles import Network
from tests.bandit import REWARD
from tests.small import OFFLINE, quick, rows, same, weights, world, write

PAIRS = [
    Preference(prompt=f"p{i}", chosen=f" good {i}", rejected=f" bad {i}", label=0.8, where=f"f:{i}") for i in range(400)
]


def test_the_question_holds_prompt_and_both_responses_and_ends_where_the_letter_stands():
    want = "[PROMPT] Sum up.\n[RESPONSE A] short\n[RESPONSE B] long and so on\n[BETTER RESPONSE]"
    assert question("Sum up. ", " short", "long and so on\n") == want
    talk = (Message(role="user", content="Hi"),)
    assert question(talk, "a", "b").startswith("[PROMPT] user: Hi\n")
    assert (
        question("{first}", "{second}", "b")
        == "[PROMPT] {first}\n[RESPONSE A] {second}\n[RESPONSE B] b\n[BETTER RESPONSE]"
    )


def test_the_better_response_stands_at_either_place_half_of_the_time_and_its_letter_says_so():
    asked = questions(PAIRS, 0, "train")
    assert [a.where for a in asked] == [p.where for p in PAIRS] and {a.label for a in asked} == {0.8}
    first = 0
    for a, p in zip(asked, PAIRS, strict=True):
        is_first = f"[RESPONSE A] {p.chosen.strip()}\n" in a.prompt
        assert (a.chosen, a.rejected) == (LETTERS if is_first else LETTERS[::-1])
        first += is_first
    assert abs(first - 200) < 3 * math.sqrt(400 / 4)  # three standard deviations of a fair coin


def test_the_order_is_drawn_from_the_seed_alone():
    assert questions(PAIRS, 3, "train") == questions(PAIRS, 3, "train")
    assert questions(PAIRS, 3, "train") != questions(PAIRS, 4, "train") != questions(PAIRS, 4, "held out")
    with pytest.raises(DataError, match=r"f:1: a demonstration is no choice"):
        questions([Demonstration(prompt="p", response="r", where="f:1")], 0, "train")


def test_golden():
    # log rho(A) = log 0.7, log rho(B) = log 0.2: with label 1 the loss is -log 0.7, with 3/4 a mixture
    x = {"token_logps": torch.tensor([[[0.7], [0.2]]]).double().log(), "mask": torch.ones(1, 2, 1).bool()}
    ranker = get("pairwise_ranker")()
    assert ranker.loss(**x).total.item() == pytest.approx(0.356675, abs=1e-6)
    mixed = ranker.loss(**x, label=torch.tensor([0.75]).double()).total.item()
    assert mixed == pytest.approx(-0.75 * math.log(0.7) - 0.25 * math.log(0.2))


ARMS = ["x", "y", "z"]
LEARNT = [*ARMS, "ask", "A", "B", "[PROMPT]", "[RESPONSE", "A]", "B]", "[BETTER", "RESPONSE]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ranker that has seen all pairs of three answers in all orders, each with the label of Bradley and Terry."""
    place = tmp_path_factory.mktemp("ranker")
    start = tiny_model(LEARNT, width=32, layers=1, heads=4, context=32, seed=0)
    # Small random weights look at nothing in particular, and learn to read the second response only after long.
    start.lm.get_input_embeddings().weight.data.mul_(5)
    for name, weight in start.lm.named_parameters():
        weight.data.mul_(8 if "proj" in name else 1)
    save_trunk(start, place / "start")
    pairs = [
        {"prompt": "ask", "chosen": ARMS[i], "rejected": ARMS[j], "label": float((REWARD[i] - REWARD[j]).sigmoid())}
        for i, j in itertools.permutations(range(3), 2)
    ]
    # Each pair often enough that both of its orders are drawn.
    file = write(place / "pairs.jsonl", [pair for pair in pairs for _ in range(3)])
    settings = {"batch": 18, "steps": 100, "lr": 1e-2, "held_out": 0.0, "eval_every": 1000, "save_every": 1000}
    run = train(
        "pairwise_ranker", model=str(place / "start"), data=str(file), run=place / "run",
        settings=OFFLINE | settings | {"precision": "fp32", "keep_best": "last"}, quiet=True,
    )  # fmt: skip
    write(place / "baseline.jsonl", [{"prompt": "ask", "response": " y"}])
    return place, run


def test_its_log_odds_end_at_the_difference_of_the_rewards(trained):
    # The minimum of the expected loss is rho = sigmoid(r_i - r_j) for every pair and order.
    _, run = trained
    network = Network(trunk=load_trunk(str(run)))
    pairs = list(itertools.permutations(range(3), 2))
    odds = better(network, [("ask", ARMS[i], ARMS[j]) for i, j in pairs])
    assert odds.tolist() == pytest.approx([float(REWARD[i] - REWARD[j]) for i, j in pairs], abs=0.05)


def answers(trunk, *texts):
    """One prompt, and an answer of one word each, in a batch with a shorter row."""
    records = [
        Preference(prompt="ask", chosen=texts[0], rejected=texts[1]),
        Demonstration(prompt="ask", response=texts[0]),
    ]
    return read_out(collate(encode(records, trunk.tokenizer)), trunk.tokenizer)


def test_against_a_baseline_it_scores_by_how_much_better_a_response_is(trained):
    place, run = trained
    trunk = load_trunk(str(place / "start"))
    judge = load_ranker(f"ranker({run},baseline={place}/baseline.jsonl)", trunk, device="cpu")
    first, second = judge.score(answers(trunk, " x", " z")).tolist()
    assert first == pytest.approx([float(REWARD[0] - REWARD[1]), float(REWARD[2] - REWARD[1])], abs=0.05)
    assert second == [pytest.approx(first[0], abs=1e-5), 0.0]  # the second row has one response
    assert judge.score(answers(trunk, " y", " y"))[0].tolist() == [0.0, 0.0]  # the baseline itself, exactly


def test_either_order_of_a_pair_gives_opposite_odds_for_any_model():
    network = Network(trunk=tiny_model(LEARNT, width=16, layers=1, heads=1, context=64, seed=2))
    one, other = better(network, [("ask", "x", "y z"), ("ask", "y z", "x")], limit=1).tolist()
    assert one == -other != 0


def test_a_prompt_that_lost_its_beginning_is_known_by_its_end_and_others_are_refused(trained):
    place, run = trained
    trunk = load_trunk(str(place / "start"))
    network = Network(trunk=load_trunk(str(run)))
    judge = Ranker(network, {"x y ask": ("x y ask", " y")}, "base.jsonl")
    whole = better(network, [("x y ask", " x", " y"), ("x y ask", " z", " y")])
    assert judge.score(answers(trunk, " x", " z"))[0].tolist() == pytest.approx(whole.tolist())
    with pytest.raises(FeedbackError, match=r"base\.jsonl: no baseline response to the prompt 'ask'"):
        Ranker(network, {"x": ("x", " y")}, "base.jsonl").score(answers(trunk, " x", " z"))


@pytest.mark.parametrize(
    "name", ["ranker(RUN)", "ranker(baseline=F)", "ranker(RUN,OTHER,baseline=F)", "ranker(RUN,base=F)"]
)
def test_a_ranker_needs_a_run_and_a_baseline(name):
    with pytest.raises(FeedbackError, match=r"write ranker\(RUN,baseline=FILE\)"):
        load_ranker(name, load_trunk(str(world() / "model")), device="cpu")


def test_an_online_run_learns_from_it_and_an_evaluation_names_it(trained, tmp_path):
    place, run = trained
    spec = f"0.5*ranker({run},baseline={place}/baseline.jsonl)"
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "ask"}])
    settings = {"held_out": 0.0, "rounds": 1, "K": 4, "max_tokens": 3}
    made = quick(
        "rloo", tmp_path / "rloo", model=str(place / "start"), data=str(prompts), feedback=[spec], settings=settings
    )
    assert math.isfinite(rows(made)[0]["score"])
    got = evaluate(str(made), data=str(prompts), feedback=[spec], max_tokens=3)
    assert f"score {spec}" in got


def test_an_evaluation_measures_it_by_the_data_s_own_choices(trained, tmp_path):
    _, run = trained
    pairs = [{"prompt": "ask", "chosen": ARMS[i], "rejected": ARMS[j]} for i, j in ((0, 1), (1, 2), (0, 2), (2, 0))]
    got = evaluate(str(run), data=str(write(tmp_path / "pairs.jsonl", pairs)))
    assert got["reward_accuracy"]["mean"] == 0.75
    assert got["reward_margin"]["mean"] == pytest.approx((1 + 1 + 2 - 2) / 4, abs=0.05)
    assert got["tables"]["calibration"] and (run / "eval.json").is_file()
    with pytest.raises(SettingError, match="preferences"):
        evaluate(str(run), data=str(write(tmp_path / "asks.jsonl", [{"prompt": "ask"}])))


def test_responses_that_do_not_fit_in_one_prompt_are_said(tmp_path, capsys):
    few = {"steps": 1, "max_response": 8, "held_out": 0.0}
    assert "of the first response" not in _said(tmp_path / "wide", few | {"max_prompt": 30}, capsys)
    said = _said(tmp_path / "narrow", few | {"max_prompt": 13}, capsys)
    # [PROMPT] [RESPONSE A] x [RESPONSE B] y [BETTER RESPONSE]: seven words, and those of both responses.
    pairs = [json.loads(line) for line in (world() / "pairs.jsonl").read_text().splitlines()]
    number = sum(7 + len((p["chosen"] + p["rejected"]).split()) > 13 for p in pairs)
    assert 0 < number < 24 and f"of {number} of 24 preferences a part of the first response is cut" in said


def _said(run, settings, capsys):
    quick("pairwise_ranker", run, data=world() / "pairs.jsonl", settings=settings, quiet=False)
    return capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, monkeypatch):
    from sparring.loops.run import Run

    settings = {"max_prompt": 20}
    whole = quick("pairwise_ranker", tmp_path / "whole", data=str(world() / "pairs.jsonl"), settings=settings)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "is_asked_to_end", property(lambda run: True))
        with pytest.raises(Exception, match="saved after step 1"):
            quick("pairwise_ranker", tmp_path / "half", data=str(world() / "pairs.jsonl"), settings=settings)
    again = quick(
        "pairwise_ranker", tmp_path / "half", data=str(world() / "pairs.jsonl"), settings=settings, resume=True
    )
    assert same(weights(whole), weights(again)) and rows(whole) == rows(again)

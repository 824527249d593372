import json
import math
import random

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import sparring
from sparring.core.errors import ModelError
from sparring.data.batch import Row, collate
from sparring.data.responses import read_out
from sparring.feedback.adversary import Demonstrations
from sparring.feedback.bag_of_words import FILE, BagOfWords, features, load_bag_of_words
from sparring.feedback.logistic import area, fit
from sparring.feedback.protocol import LearningFeedback
from sparring.feedback.saved import load_saved
from sparring.loops.settings import JudgeSettings, WordsSettings
from sparring.models.backbone import tiny_model
from tests.small import WORDS, machine, quick, rows, world

EOS = 1
PROMPTS = [(i,) for i in range(3, 13)]
GOOD, BAD = range(10, 18), range(18, 26)  # what experts write, and what the policy writes


@pytest.fixture(scope="module")
def trunk():
    return tiny_model(WORDS, width=8, layers=1, heads=1, context=16, seed=0)


def demonstrations(tokens=GOOD, prompts=PROMPTS, seed=0):
    draw = random.Random(seed)
    return [Row(prompt=p, responses=((*draw.choices(tokens, k=4), EOS),), where=str(p)) for p in prompts]


def responses(trunk, texts, prompts=PROMPTS):
    return read_out(collate([Row(prompt=p, responses=texts) for p in prompts]), trunk.tokenizer)


def judge(trunk, *, unwanted=(), real=None, ridge=0.01, reward="logit", share=0.5):
    data = Demonstrations(real=demonstrations() if real is None else real, held_out=(), unwanted=unwanted)
    terms = JudgeSettings(reward=reward, negatives_share=share)
    how = WordsSettings(words_ridge=ridge)
    return BagOfWords(data, how, terms, machine(), vocabulary=len(trunk.tokenizer), seed=0)


def test_a_fit_on_one_feature_is_where_its_slope_is_zero():
    # x = 1 for a of the real and b of the fake; without a ridge the weights are the log-odds: w = logit a - logit b
    a, b, n = 0.8, 0.3, 10
    column = [1.0] * 8 + [0.0] * 2 + [1.0] * 3 + [0.0] * 7
    rows, is_real = csr_array(np.array(column)[:, None]), np.array([1.0] * n + [0.0] * n)
    found = fit(rows, is_real, np.full(2 * n, 0.05), 1e-12)
    # P(real | x = 1) = a / (a + b), P(real | x = 0) = (1 - a) / (2 - a - b)
    assert found.score(rows)[0] == pytest.approx(math.log(a / b), abs=1e-4)
    assert found.score(rows)[8] == pytest.approx(math.log((1 - a) / (1 - b)), abs=1e-4)


def test_a_ridge_pulls_the_weight_to_the_root_of_its_equation():
    # x = 5 and -5 with spread 5 (and a hundredth): in units of the spread the loss is log(1 + e^-z) + 0.1 z^2
    rows, is_real = csr_array(np.array([[5.0], [-5.0]])), np.array([1.0, 0.0])
    z = 5.01 * float(fit(rows, is_real, np.array([0.5, 0.5]), 0.1).weights[0])
    assert 0.2 * z == pytest.approx(5 / 5.01 / (1 + math.exp(z * 5 / 5.01)), abs=1e-6)


def test_area_counts_pairs_and_halves_ties():
    assert area(np.array([2.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_features_are_which_tokens_there_are_and_the_length():
    rows = features([(4, 4, 2), ()], 6).toarray()
    assert rows.tolist() == [[0, 0, 1, 0, 1, 0, pytest.approx(math.log(4))], [0, 0, 0, 0, 0, 0, 0]]


def test_it_pays_nothing_before_it_learns_and_tells_words_apart_after(trunk):
    d, batch = judge(trunk), responses(trunk, ((18, 19, 20, EOS), (10, 11, 12, EOS)))
    assert isinstance(d, LearningFeedback) and d.score(batch).eq(0).all()
    d.learn(responses(trunk, ((18, 19, 20, EOS), (21, 22, 25, EOS))))
    assert (d.score(batch)[:, 1] > d.score(batch)[:, 0] + 1).all()
    figures = d.learn(responses(trunk, ((18, 21, 20, EOS),)))
    assert figures["judge_accuracy"] > 0.9 and figures["judge_loss"] < math.log(2)


def test_unwanted_texts_are_fakes_of_their_own_weight(trunk):
    # the policy writes 18 and 19 as often as experts do; only the unwanted texts have 25
    real = [Row(prompt=p, responses=((10, 18, 19, EOS),), where="") for p in PROMPTS]
    unwanted = [Row(prompt=(3,), responses=((10, 18, 25, EOS),), where="")] * 3
    own = ((10, 18, 19, EOS),)
    seen = {}
    for share in (0.0, 0.5):
        d = judge(trunk, real=real, unwanted=unwanted, share=share)
        d.learn(responses(trunk, own))
        good, bad = d.score(responses(trunk, ((10, 18, 19, EOS), (10, 18, 25, EOS))))[0]
        seen[share] = float(good - bad)
    assert seen[0.0] == pytest.approx(0.0, abs=1e-3) and seen[0.5] > 0.5


def test_it_goes_on_exactly_from_its_state(trunk):
    first, second = judge(trunk), judge(trunk)
    rounds = [responses(trunk, ((18 + i, 19, EOS), (10, 20 + i, EOS))) for i in range(4)]
    for one in rounds[:2]:
        first.learn(one)
    second.load(first.state())
    assert [first.learn(one) for one in rounds[2:]] == [second.learn(one) for one in rounds[2:]]
    assert torch.equal(first.score(rounds[0]), second.score(rounds[0]))


def test_updates_of_zero_only_remember(trunk):
    d = judge(trunk)
    d.learn(responses(trunk, ((18, 19, EOS),)), updates=0)
    assert d.score(responses(trunk, ((18, 19, EOS),))).eq(0).all()


def test_what_it_leaves_scores_alike_and_can_be_read(trunk, tmp_path):
    d = judge(trunk)
    d.learn(responses(trunk, ((18, 19, EOS), (20, 21, EOS))))
    d.save(trunk.tokenizer, tmp_path)
    batch = responses(trunk, ((18, 10, EOS), (11, EOS)), prompts=[(14,)])
    torch.testing.assert_close(load_bag_of_words(str(tmp_path), trunk).score(batch), d.logits(batch))
    told = json.loads((tmp_path / FILE).read_text())["tokens"]
    weights = [abs(t["weight"]) for t in told]
    assert weights == sorted(weights, reverse=True)
    giveaways = {t["text"] for t in told if t["weight"] < 0}
    assert {trunk.tokenizer.decode([v]) for v in (18, 19, 20, 21)} <= giveaways


def test_a_file_of_words_that_is_damaged_or_anothers_is_refused(trunk, tmp_path):
    d = judge(trunk)
    d.learn(responses(trunk, ((18, 19, EOS),)))
    d.save(trunk.tokenizer, tmp_path)
    other = tiny_model([*WORDS, "more"], width=8, layers=1, heads=1, context=16, seed=0)
    with pytest.raises(ModelError, match="read other words"):
        load_bag_of_words(str(tmp_path), other)
    (tmp_path / FILE).write_text('{"vocabulary": 3')
    with pytest.raises(ModelError, match="does not hold the words"):
        load_saved(str(tmp_path), trunk, device="cpu")


def test_beside_a_language_model_its_figures_have_names_of_their_own(tmp_path):
    last = rows(quick("rlgaf", tmp_path / "run", feedback=["bag_of_words+discriminator"]))[-1]
    assert {"words_loss", "words_accuracy", "judge_loss", "judge_accuracy", "judge_accuracy_held_out"} <= last.keys()
    alone = rows(quick("rlgaf", tmp_path / "alone", feedback=["bag_of_words"]))[-1]
    assert "judge_accuracy" in alone and "words_accuracy" not in alone


def test_a_run_trains_with_it_and_leaves_it_for_others(tmp_path):
    run = quick("rlgaf", tmp_path / "run", feedback=["bag_of_words"], settings={"judge_warmup": 5, "rounds": 2})
    seen = rows(run)
    assert len(seen) == 3 and all("judge_loss" in row for row in seen)
    found = sparring.evaluate(str(run), feedback=[str(run)], data=str(world() / "texts.jsonl"), max_tokens=8)
    assert math.isfinite(found[f"score {run}"]["mean"])

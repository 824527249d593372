import copy
import math
import random
from dataclasses import replace

import pytest
import torch

from sparring.data.batch import Row, collate
from sparring.data.responses import read_out
from sparring.feedback.adversary import REWARDS, Demonstrations
from sparring.feedback.discriminator import BUFFER, Discriminator
from sparring.feedback.judge_loss import judge_loss, standing
from sparring.feedback.protocol import LearningFeedback
from sparring.feedback.recent import Recent
from sparring.loops.judges import _keep_from_judge
from sparring.loops.settings import DiscriminatorSettings, JudgeSettings
from sparring.models.backbone import tiny_model
from sparring.models.roles import new_scorer
from sparring.models.update import Updater
from tests.small import WORDS, machine

PROMPTS = [(i,) for i in range(3, 9)]
GOOD, BAD = range(10, 18), range(18, 26)  # two halves of the vocabulary: what people write, and what the policy writes
EOS = 1
SETTINGS = {
    "judge_loss": "bce", "judge_steps": 1, "judge_batch": 6, "gate": 1.0, "label_smoothing": 0.0,
    "replay": 0.5, "judge_sees": "one", "judge_spoilt": 0.0,
}  # fmt: skip


def text(tokens, draw):
    return (*draw.choices(list(tokens), k=draw.randint(2, 4)), EOS)


def demonstrations(prompts, name, seed=0, tokens=GOOD):
    draw = random.Random(f"{name}{seed}")
    return [Row(prompt=p, responses=(text(tokens, draw),), where=f"{name} {i}") for i, p in enumerate(prompts)]


def responses(tokens=BAD, prompts=PROMPTS, K=2, seed=0):
    draw = random.Random(seed)
    rows = [Row(prompt=p, responses=tuple(text(tokens, draw) for _ in range(K))) for p in prompts]
    return read_out(collate(rows), tiny_model(WORDS, width=8, layers=1, heads=1, context=16, seed=0).tokenizer)


def judge(*, unwanted=(), held_out=True, lr=1e-2, micro_tokens=8192, reward="logit", negatives_share=0.5, **changed):
    trunk = tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=0)
    network = new_scorer(trunk, "judge", 0)
    settings = replace(DiscriminatorSettings(), **SETTINGS | changed)
    kept = demonstrations(PROMPTS[4:] * 3, "kept") if held_out else []
    data = Demonstrations(real=demonstrations(PROMPTS[:4] * 3, "real"), held_out=kept, unwanted=unwanted)
    updater = Updater(network.trainable(), machine(), lr=lr, total=1)
    terms = JudgeSettings(reward=reward, negatives_share=negatives_share)
    return Discriminator(network, updater, data, settings, terms, seed=0, micro_tokens=micro_tokens)


def spied(judge):
    """Every text that is ever in an update, by name."""
    seen, backward = [], judge.updater.backward

    def spy(loss, where=()):
        seen.extend(where)
        backward(loss, where)

    judge.updater.backward = spy
    return seen


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


REAL, FAKE = [0.3, -1.2, 2.0], [-0.5, 0.7, 0.1]


@pytest.mark.parametrize("e", [0.0, 0.1])
def test_all_losses_are_their_formulas(e):
    # smoothing e: the target is 1 - e for real and e for fake
    bce = [((1 - e) * softplus(-r) + e * softplus(r) + (1 - e) * softplus(f) + e * softplus(-f)) / 2
           for r, f in zip(REAL, FAKE, strict=True)]  # fmt: skip
    bt = [(1 - e) * softplus(f - r) + e * softplus(r - f) for r, f in zip(REAL, FAKE, strict=True)]
    # least squares towards 1 and -1, where the least loss is at s = 1 for real and s = -1 for fake
    ls = [((r - 1 + 2 * e) ** 2 + (f + 1 - 2 * e) ** 2) / 4 for r, f in zip(REAL, FAKE, strict=True)]
    for form, want in (("bce", bce), ("bt", bt), ("ls", ls)):
        loss = judge_loss(torch.tensor(REAL), torch.tensor(FAKE), form, e)
        assert loss.total.tolist() == pytest.approx(want, abs=1e-6)
        assert loss.weight.tolist() == [1.0, 1.0, 1.0]


def test_a_judge_that_cannot_tell_has_a_loss_of_log_two():
    for form in ("bce", "bt"):
        assert judge_loss(torch.zeros(1), torch.zeros(1), form, 0.1).total.tolist() == pytest.approx([math.log(2)])


def test_rewards_are_their_formulas():
    for s in (-30.0, -1.0, 0.0, 2.5, 30.0):
        want = {"logit": s, "norm": 1 / (1 + math.exp(-s)) - 0.5, "logsig": -softplus(-s)}
        for form, value in want.items():
            assert float(REWARDS[form](torch.tensor(s))) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("form", REWARDS)
def test_scores_are_logits_in_the_form_that_was_asked_for(form):
    d, batch = judge(reward=form), responses()
    assert torch.equal(d.score(batch), REWARDS[form](d.logits(batch)))
    assert isinstance(d, LearningFeedback)


@pytest.mark.parametrize("form", ["bce", "bt"])
def test_it_learns_to_tell_what_can_be_told(form):
    d = judge(judge_loss=form, judge_steps=15)
    assert d.held_out_accuracy == 0.5
    for round_ in range(4):
        figures = d.learn(responses(seed=round_))
    real, fake = d.logits(responses(GOOD, seed=99)), d.logits(responses(seed=98))
    assert float(real.mean() - fake.mean()) > 2.0
    assert figures["judge_accuracy"] == 1.0 and figures["judge_accuracy_held_out"] > 0.8
    assert figures["judge_score_real"] > figures["judge_score_fake"]


def test_where_pairs_alone_are_learnt_zero_may_lie_anywhere():
    real, fake = torch.tensor([0.3, -0.1]) - 30, torch.tensor([-0.5, 0.7]) - 30
    assert standing(real, fake, "bce") == (real, fake)
    found, other = standing(real, fake, "bt")
    assert found.tolist() == pytest.approx([0.4, -0.4], abs=1e-5) and torch.equal(found, -other)


def test_a_held_out_demonstration_is_watched_beside_responses_to_its_own_prompt():
    d, seen = judge(judge_steps=0), []
    inner = d._logits
    d._logits = lambda pairs: seen.extend(pairs) or inner(pairs)
    for round_ in range(3):
        d.learn(responses(seed=round_))
    assert seen and {r.prompt for r, _ in seen} == set(PROMPTS[4:])
    assert all(real.prompt == fake.prompt for real, fake in seen)


def test_held_out_demonstrations_and_responses_to_their_prompts_are_never_learnt_from():
    d = judge(judge_steps=20, replay=0.5)
    seen = spied(d)
    for round_ in range(3):
        d.learn(responses(seed=round_))
    joined = " ".join(seen)
    assert "real" in joined and "kept" not in joined
    names = {
        tuple(p): read_out(collate([Row(prompt=p, responses=())]), d.network.trunk.tokenizer).prompts[0]
        for p in PROMPTS
    }
    assert all(repr(names[p]) in joined for p in PROMPTS[:4])
    assert not any(f"to {names[p]!r}" in joined for p in PROMPTS[4:])


def test_unwanted_texts_to_prompts_that_are_kept_out_are_not_learnt_either():
    d = judge(judge_steps=20, unwanted=demonstrations(PROMPTS, "unwanted", tokens=BAD))
    seen = spied(d)
    d.learn(responses())
    joined = " ".join(seen)
    assert all((f"unwanted {i}" in joined) == (i < 4) for i in range(len(PROMPTS)))
    d = judge(judge_steps=20, unwanted=demonstrations(PROMPTS[4:], "unwanted", tokens=BAD))
    seen = spied(d)
    d.learn(responses())
    assert seen and "unwanted" not in " ".join(seen), "with none left there are fresh ones"


def test_every_fake_is_set_against_a_demonstration_of_its_own_prompt():
    d = judge(judge_steps=10)
    pairs = []
    d._logits, scored = lambda part: pairs.extend(part) or scored(part), d._logits
    d.learn(responses())
    learnt = [(real, fake) for real, fake in pairs if real.where.startswith("real")]
    assert len(learnt) == 60 and all(real.prompt == fake.prompt for real, fake in learnt)


def test_scoring_changes_nothing():
    d = judge()
    before = copy.deepcopy(d.state())
    d.score(responses())
    assert all(torch.equal(a, b) for a, b in zip(before["updater"]["weights"].values(),
                                                 d.state()["updater"]["weights"].values(), strict=True))  # fmt: skip
    assert (before["buffer"], before["calls"], before["right"]) == (d.state()["buffer"], 0, d.state()["right"])


def test_it_rests_while_it_tells_too_well():
    d = judge(judge_steps=15, gate=0.8)
    steps = [d.learn(responses(seed=r))["judge_steps"] for r in range(6)]
    assert steps[0] == 15.0 and steps[-1] == 0.0
    # A policy that writes like people brings it back to work: what it scored right falls below the gate.
    again = [d.learn(responses(GOOD, seed=r))["judge_steps"] for r in range(6)]
    assert again[-1] == 15.0


def test_a_number_of_updates_can_be_asked_for():
    assert judge(judge_steps=1).learn(responses(), updates=3)["judge_steps"] == 3.0


def test_older_responses_are_mixed_in_as_often_as_asked():
    for replay, low, high in ((0.0, 0, 0), (0.5, 35, 85), (1.0, 120, 120)):
        d = judge(judge_steps=20, replay=replay)
        d.learn(responses(seed=1), updates=0)
        fakes = []
        d._logits, scored = lambda part, fakes=fakes: fakes.extend(part) or scored(part), d._logits  # noqa: B023
        old = {tuple(y) for _, y, _ in d.state()["buffer"]}
        fresh = responses(BAD, seed=2)
        d.learn(fresh)
        learnt = [f for r, f in fakes if r.where.startswith("real")]
        assert len(learnt) == 120 and low <= sum(f.responses[0] in old for f in learnt) <= high


def test_no_more_than_so_many_responses_are_remembered():
    d = judge(held_out=False, judge_steps=0)
    for round_ in range(3):
        d.learn(responses(prompts=PROMPTS, K=32, seed=round_))
    assert len(d.state()["buffer"]) == BUFFER
    before = {y for _, y, _ in d.state()["buffer"]}
    d.learn(responses(prompts=PROMPTS, K=32, seed=3))
    assert {y for _, y, _ in d.state()["buffer"]} != before  # the old make room for the new
    assert len(d.state()["buffer"]) == BUFFER


def test_unwanted_texts_join_the_fakes_by_their_share():
    unwanted = demonstrations(PROMPTS[:4], "unwanted", tokens=BAD)
    d = judge(unwanted=unwanted, judge_steps=20, negatives_share=0.5)
    seen = spied(d)
    d.learn(responses())
    count = sum("against unwanted" in name for name in seen)
    assert len(seen) == 120 and 40 <= count <= 80
    d = judge(unwanted=unwanted, judge_steps=5, negatives_share=1.0)
    seen = spied(d)
    d.learn(responses())
    assert all("against unwanted" in name for name in seen)


def test_a_restored_judge_goes_on_bit_for_bit():
    first, second = judge(judge_steps=3), judge(judge_steps=3)
    for round_ in range(2):
        first.learn(responses(seed=round_))
    second.load(copy.deepcopy(first.state()))
    for round_ in range(2, 4):
        assert first.learn(responses(seed=round_)) == second.learn(responses(seed=round_))
    assert torch.equal(first.logits(responses()), second.logits(responses()))
    assert first.state()["buffer"] == second.state()["buffer"]


def test_small_micro_batches_give_the_same_judge():
    first, second = judge(lr=1e-4), judge(lr=1e-4, micro_tokens=1)
    a, b = (d.learn(responses(), updates=2) for d in (first, second))
    assert a == pytest.approx(b, abs=1e-5)
    assert torch.allclose(first.logits(responses()), second.logits(responses()), atol=1e-5)


def test_without_held_out_demonstrations_nothing_is_claimed_about_them():
    d = judge(held_out=False, gate=0.6)
    figures = d.learn(responses(), updates=30)
    assert figures["judge_accuracy_held_out"] == 0.5 and figures["judge_steps"] == 30.0
    assert "judge_score_real" not in figures


def test_demonstrations_are_kept_by_prompt_and_one_by_one_where_they_share_one():
    rows = demonstrations(PROMPTS * 5, "text")
    real, kept = _keep_from_judge(rows, 0.34, 0)
    assert {r.prompt for r in kept} & {r.prompt for r in real} == set() and len({r.prompt for r in kept}) == 2
    alike = [replace(r, prompt=(3,)) for r in rows]
    real, kept = _keep_from_judge(alike, 0.2, 0)
    assert len(kept) == 6 and len(real) == 24
    assert _keep_from_judge(rows, 0.0, 0) == (rows, [])


def test_where_all_share_a_prompt_responses_are_learnt_from_and_watched():
    d = judge(judge_steps=5)
    prompt = PROMPTS[0]
    d = Discriminator(
        d.network, d.updater,
        Demonstrations(real=demonstrations([prompt] * 8, "real"), held_out=demonstrations([prompt] * 4, "kept")),
        d.settings, d.terms, seed=0, micro_tokens=8192,
    )  # fmt: skip
    figures = d.learn(responses(prompts=[prompt] * 3))
    assert figures["judge_steps"] == 5.0 and {"judge_score_real", "judge_loss"} <= figures.keys()


def test_by_heart_is_what_is_known_of_the_learnt_where_the_rest_is_a_guess():
    recent = Recent()
    assert (recent.held_out, recent.by_heart) == (0.5, 0.0)
    recent.add("learnt", 1.0, 1.0)
    recent.add("learnt", 0.5, 1.0)
    recent.add("real", 4.0, 8.0), recent.add("fake", 4.0, 8.0)
    assert (recent.held_out, recent.by_heart) == (0.5, 0.0), "of so few nothing is known"
    recent.add("real", 4.0, 8.0), recent.add("fake", 4.0, 8.0)
    assert recent.by_heart == pytest.approx((0.8 + 0.5) / 1.8)
    other = Recent()
    other.load(recent.state())
    assert other.state() == recent.state()
    recent.add("real", 8.0, 8.0), recent.add("fake", 5.0, 8.0)
    # real: 0.64 x 4 + 0.8 x 4 + 8 of 0.64 x 8 + 0.8 x 8 + 8; fake: 5 in place of 8
    assert recent.held_out == pytest.approx((13.76 + 10.76) / 2 / 19.52)
    assert recent.held_out > 0.6 and recent.by_heart == 0.0


def test_a_judge_that_learns_chance_by_heart_says_so():
    d, told = judge(judge_steps=40), judge(judge_steps=40)
    for _ in range(6):
        figures, sound = d.learn(responses(GOOD, seed=1)), told.learn(responses(seed=1))
    assert figures["judge_by_heart"] > 0.95, "real and fake have the same words: only which is which can be known"
    assert sound["judge_by_heart"] == 0.0 and sound["judge_accuracy_held_out"] > 0.8
    assert judge(judge_steps=40, held_out=False).learn(responses(GOOD))["judge_by_heart"] == 0.0

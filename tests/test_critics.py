"""Judges that see every prefix of a response, or it beside a demonstration with ties; and spoilt demonstrations."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from sparring.core.credit import token_by_token
from sparring.core.errors import DataError, SettingError
from sparring.data.batch import Row, collate
from sparring.feedback.adversary import REWARDS, Demonstrations, spoilt
from sparring.feedback.beside import ahead
from sparring.feedback.combine import build, judged
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.judge_loss import judge_loss, loss_so_far
from sparring.feedback.rule import load_rule
from sparring.loops.job import make_job
from sparring.methods import get
from sparring.models.signals import score, score_prefixes
from tests.small import quick, rows, same, weights
from tests.test_discriminator import BAD, EOS, GOOD, PROMPTS, demonstrations, judge, responses, softplus, spied
from tests.test_resume import unfinished

SEES = {"prefix": {"judge_loss": "bce"}, "pair": {"judge_loss": "tie"}}
PAIR = {"judge_sees": "pair", "judge_loss": "tie"}


def told(sees="prefix", **more):
    """A judge of this kind after a few lessons, so that it has something to say."""
    d = judge(judge_sees=sees, **SEES[sees] | more)
    d.learn(responses(seed=1), updates=4)
    return d


def words(m):
    """P(real), P(fake) and P(tie) of Rao and Kupper for texts of strengths e^m and 1, their threshold being 2."""
    real, fake = math.exp(m) / (math.exp(m) + 2), 1 / (1 + 2 * math.exp(m))
    return real, fake, 1 - real - fake


@pytest.mark.parametrize("e", [0.0, 0.2])
def test_the_loss_with_ties_is_its_formula(e):
    real, fake = [0.3, -1.2, 2.0, 9.0], [-0.5, 0.7, 0.1, -8.0]
    want = []
    for r, f in zip(real, fake, strict=True):
        right, wrong, tie = words(r - f)
        want.append(-(1 - e) * math.log(right + 0.55 * tie) - e * math.log(wrong + 0.55 * tie))
    loss = judge_loss(torch.tensor(real), torch.tensor(fake), "tie", e)
    assert loss.total.tolist() == pytest.approx(want, rel=1e-4) and loss.weight.tolist() == [1.0] * 4


def test_a_tie_is_worth_a_little_more_than_a_guess():
    # Nobody can tell: the best answer of a critic that earns 0.55 for a tie is not to be ahead either way.
    costs = [sum(judge_loss(torch.tensor([m]), torch.zeros(1), "tie", 0.5).total.tolist()) for m in (-1.0, 0.0, 1.0)]
    assert costs[1] < costs[0] == pytest.approx(costs[2])
    assert costs[1] == pytest.approx(-math.log(1 / 3 + 0.55 / 3), abs=1e-6)
    with_guess = judge_loss(torch.zeros(1), torch.zeros(1), "bt", 0.5).total.item()
    assert costs[1] < with_guess == pytest.approx(math.log(2))


@pytest.mark.parametrize("form", ["bce", "ls", "bt", "tie"])
def test_losses_stay_finite_when_a_judge_is_very_sure_and_very_wrong(form):
    for sign in (-1e4, 1e4):
        s = torch.tensor([sign], requires_grad=True)
        loss = judge_loss(s, torch.zeros(1), form, 0.1).total
        assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), s)[0].isfinite().all()


def test_what_a_verdict_earns_the_policy():
    for m in (-30.0, -1.0, 0.0, 2.5, 30.0):
        real, _, tie = words(m)
        assert float(REWARDS["tie"](torch.tensor(m))) == pytest.approx(real + 0.6 * tie, abs=1e-6)


@pytest.mark.parametrize("reads", ["mean", "last"])
def test_a_prefix_scores_as_the_text_that_ends_there(reads):
    d = judge(judge_sees="prefix")
    network = type(d.network)(trunk=d.network.trunk, head=d.network.head, reads=reads)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    rows = [Row(prompt=(3, 4), responses=((5, 6, 7, 8), (9, 10))), Row(prompt=(5,), responses=((11, 12, 13),))]
    found = score_prefixes(network, collate(rows))
    for b, row in enumerate(rows):
        for k, y in enumerate(row.responses):
            cut = [score(network, collate([Row(prompt=row.prompt, responses=(y[:t],))])) for t in range(1, len(y) + 1)]
            assert found[b, k, : len(y)].tolist() == pytest.approx(torch.cat(cut)[:, 0].tolist(), abs=1e-5)
            assert not found[b, k, len(y) :].any()


def test_the_loss_of_prefixes_gives_every_text_its_mean():
    real, fake = torch.tensor([[0.5, -1.0, 9.0]]), torch.tensor([[2.0, 9.0, 9.0]])
    masks = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
    want = ((softplus(-0.5) + softplus(1.0)) / 2 + softplus(2.0)) / 2
    assert loss_so_far(real, fake, masks, "bce", 0.0).total.tolist() == pytest.approx([want], abs=1e-6)
    want = ((0.5**2 + 2.0**2) / 4 + 3.0**2 / 2) / 2
    assert loss_so_far(real, fake, masks, "ls", 0.0).total.tolist() == pytest.approx([want], abs=1e-6)


@pytest.mark.parametrize("form", REWARDS)
def test_tokens_earn_what_they_change_and_together_the_score(form):
    d, asked = told(reward=form), responses(seed=5)
    scores, earned = d.score_tokens(asked)
    assert torch.allclose(scores, d.score(asked), atol=1e-6)
    with torch.no_grad():
        s = score_prefixes(d.network, asked.batch)
    for b, k in itertools.product(range(len(asked)), range(2)):
        n = int(asked.batch.mask[b, k].sum())
        worth = [float(REWARDS[form](x)) for x in [torch.zeros(()), *s[b, k, :n]]]
        steps = [after - before for before, after in itertools.pairwise(worth)]
        assert earned[b, k, :n].tolist() == pytest.approx(steps, abs=1e-5) and not earned[b, k, n:].any()
        assert float(scores[b, k]) == pytest.approx(worth[-1], abs=1e-5)


def test_a_judge_of_whole_responses_says_nothing_of_tokens_and_a_sum_adds_up_what_is_known():
    asked = responses(seed=5)
    assert judged(judge(), asked)[1] is None and judged(load_rule("length"), asked)[1] is None
    d = told()
    both = build(["0.5*dense+length"], {"dense": d, "length": load_rule("length")}.__getitem__)
    scores, earned = judged(both, asked)
    assert torch.allclose(earned, 0.5 * d.score_tokens(asked)[1])
    assert torch.allclose(scores, 0.5 * d.score(asked) + load_rule("length").score(asked), atol=1e-6)


def expected_gradient(pay):
    """What reinforce_value's credit makes of two-token responses, three choices each, all of them enumerated.

    `pay` maps the tokens to the parts that they earned; the policy is a table, and its score another.
    """
    g = torch.Generator().manual_seed(3)
    first = torch.randn(3, generator=g, dtype=torch.double, requires_grad=True)
    second = torch.randn(3, 3, generator=g, dtype=torch.double, requires_grad=True)
    score_of = torch.randn(3, 3, generator=g, dtype=torch.double)
    both = torch.tensor(list(itertools.product(range(3), repeat=2)))
    logps = torch.stack([first.log_softmax(-1)[both[:, 0]], second.log_softmax(-1)[both[:, 0], both[:, 1]]], -1)
    scores, mask = score_of[both[:, 0], both[:, 1]][:, None], torch.ones(9, 1, 2, dtype=torch.bool)
    old = logps.detach()[:, None]
    credit = get("reinforce_value")(kl=0.0).credit(
        scores=scores, old_token_logps=old, ref_token_logps=old, old_values=torch.zeros(9, 1, 2).double(), mask=mask,
        token_scores=torch.tensor([pay(*y) for y in both.tolist()], dtype=torch.double)[:, None],
    )["advantages"]  # fmt: skip
    likely = old.sum((-1, -2)).exp()
    found = torch.autograd.grad((likely[:, None] * credit[:, 0] * logps).sum(), [first, second], retain_graph=True)
    true = torch.autograd.grad((logps.sum(-1).exp() * scores[:, 0]).sum(), [first, second])
    return torch.cat([x.flatten() for x in found]), torch.cat([x.flatten() for x in true])


def test_what_tokens_earned_turns_no_gradient_as_long_as_no_token_is_paid_for_later_ones():
    found, true = expected_gradient(lambda a, b: (2.0 * a - 1.0, 0.7 * b * a))
    assert torch.allclose(found, true, atol=1e-12)
    found, true = expected_gradient(lambda a, b: (3.0 * b, 0.0))  # the trap: the first token is paid for the second
    assert not torch.allclose(found, true, atol=1e-2)


def test_whatever_tokens_earned_the_response_is_paid_its_score():
    mask = torch.tensor([[[True, True, True], [True, False, False]]])
    earned = torch.tensor([[[1.0, 2.0, 3.0], [4.0, math.nan, 9.0]]])
    paid = token_by_token(torch.tensor([[10.0, -1.0]]), earned, mask)
    assert paid.tolist() == [[[1.0, 2.0, 7.0], [-1.0, 0.0, 0.0]]]
    assert token_by_token(torch.tensor([[10.0, -1.0]]), None, mask).tolist() == [[[0.0, 0.0, 10.0], [-1.0, 0.0, 0.0]]]


def test_two_responses_are_read_together_and_change_their_sign_with_their_places():
    d = told("pair")
    a, b = (Row(prompt=PROMPTS[0], responses=(y,)) for y in ((10, 11, 1), (18, 19, 20, 1)))
    found = ahead(d.network, [(a, b), (b, a), (a, a)])
    x, (ya,), (yb,) = PROMPTS[0], a.responses, b.responses
    # By hand: one text after the other, each after the prompt, the head on the mean of the second one's states.
    last_a, last_b = (
        score(d.network, collate([Row(prompt=(*x, *one, *x), responses=(two,))])).item()
        for one, two in ((yb, ya), (ya, yb))
    )
    assert found.tolist() == pytest.approx([(last_a - last_b) / 2, (last_b - last_a) / 2, 0.0], abs=1e-5)
    assert abs(last_a - last_b) > 1e-3


def test_all_responses_to_a_prompt_stand_beside_the_same_demonstration_of_it():
    d, asked = told("pair"), responses(seed=7, K=3)
    seen = {}
    for row in [*d.data.real, *d.data.held_out]:
        seen.setdefault(row.prompt, []).append(row)
    s = d.logits(asked)
    assert torch.equal(s, d.logits(asked))
    for b, prompt in [(0, PROMPTS[0]), (5, PROMPTS[5])]:  # of one the judge learns, the other is kept from it
        ys = [tuple(asked.batch.response_ids[b, k][asked.batch.mask[b, k]].tolist()) for k in range(3)]
        rows = [Row(prompt=prompt, responses=(y,)) for y in ys]
        options = [ahead(d.network, [(row, demo) for row in rows]).tolist() for demo in seen[prompt]]
        assert any(s[b].tolist() == pytest.approx(option, abs=1e-5) for option in options)


def test_where_all_share_a_prompt_a_response_may_stand_beside_any_demonstration():
    d = told("pair")
    learnt, kept = demonstrations([PROMPTS[0]] * 6, "real"), demonstrations([PROMPTS[0]], "kept")
    data = Demonstrations(real=learnt, held_out=kept)
    d = Discriminator(d.network, d.updater, data, d.settings, d.terms, seed=0, micro_tokens=8192)
    assert d._beside[PROMPTS[0]] == [*learnt, *kept]


@pytest.mark.parametrize("sees", SEES)
def test_they_learn_to_tell_what_can_be_told(sees):
    d = judge(judge_sees=sees, judge_steps=12, **SEES[sees])
    for round_ in range(3):
        figures = d.learn(responses(seed=round_))
    good, bad = d.logits(responses(GOOD, seed=99)), d.logits(responses(BAD, seed=98))
    assert float(good.mean() - bad.mean()) > 1.0
    assert figures["judge_accuracy"] > 0.9 and figures["judge_accuracy_held_out"] > 0.8


@pytest.mark.parametrize("sees", SEES)
def test_small_micro_batches_give_the_same_judge(sees):
    first, second = (judge(lr=1e-4, judge_sees=sees, micro_tokens=n, **SEES[sees]) for n in (8192, 1))
    a, b = (d.learn(responses(), updates=2) for d in (first, second))
    assert a == pytest.approx(b, abs=1e-5)
    assert torch.allclose(first.logits(responses()), second.logits(responses()), atol=1e-5)


def test_a_spoilt_demonstration_differs_a_little_and_keeps_its_end():
    draw, others = np.random.default_rng(0), [Row(prompt=(3,), responses=((20, 21, 22, EOS),))]
    real = Row(prompt=(3,), responses=((10, 11, 12, 13, 14, 15, EOS),), where="demonstration 1")
    kinds = Counter()
    for _ in range(300):
        row = spoilt(real, others, draw)
        old, new = real.responses[0], row.responses[0]
        assert new[-1] == EOS and row.prompt == (3,) and row.where == "spoilt demonstration 1"
        if len(new) == len(old) - 1:  # one is missing, the others are as they were
            kinds["shorter"] += any(new == old[:i] + old[i + 1 :] for i in range(len(old) - 1))
        elif sorted(new) == sorted(old):
            assert sum(a != b for a, b in zip(old, new, strict=True)) <= 4
            kinds["swapped"] += 1
        else:
            strange = [b for a, b in zip(old, new, strict=True) if a != b]
            assert len(strange) <= 2 and set(strange) <= {20, 21, 22}
            kinds["foreign"] += 1
    assert min(kinds.values()) > 60 and kinds.total() == 300
    short = Row(prompt=(3,), responses=((10, 11, EOS),))
    assert spoilt(short, others, draw) is None


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 8, 36), (1.0, 20, 48)])
def test_a_share_of_the_fakes_are_spoilt_demonstrations_if_they_are_long_enough(share, low, high):
    d = judge(judge_spoilt=share)
    seen = spied(d)
    d.learn(responses(), updates=8)
    assert len(seen) == 48 and low <= sum("against spoilt" in names for names in seen) <= high


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"judge_sees": "pair"}, "set tie or bt"),
        ({"judge_sees": "prefix", "judge_loss": "bt"}, "set bce or ls"),
    ],
)
def test_a_loss_that_does_not_fit_what_is_seen_is_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        make_job("rlgaf", model="m", data="d", run="r", settings=settings)


@pytest.mark.parametrize("settings", [PAIR, {"judge_sees": "prefix"}])
def test_who_differentiates_through_the_judge_takes_it_as_it_is(settings):
    with pytest.raises(SettingError, match="leave judge_sees at one"):
        make_job("rlgaf_gumbel", model="m", data="d", run="r", settings=settings)


def test_two_responses_must_fit_into_what_the_model_reads(tmp_path):
    # 32 positions, prompts of up to 3 words and 14 new tokens: two of those are too long, one is not.
    with pytest.raises(DataError, match=r"reads two responses in 3\d tokens"):
        quick("rlgaf", tmp_path / "run", settings=PAIR | {"max_tokens": 14})


@pytest.mark.parametrize("sees", SEES)
def test_a_run_with_such_a_judge_goes_on_exactly(tmp_path, sees):
    settings = {"judge_sees": sees, "judge_spoilt": 0.5, "rounds": 3, **SEES[sees]}
    whole = quick("rlgaf", tmp_path / "whole", settings=settings)
    again = quick("rlgaf", unfinished(whole, tmp_path / "cut", 4), settings=settings, resume=True)
    assert same(weights(whole), weights(again)) and rows(whole) == rows(again)
    # A judge of pairs cannot score a response by itself, so none is left behind.
    assert (again / "judge").exists() == (sees == "prefix")
    if sees == "prefix":
        assert same(weights(whole, "judge"), weights(again, "judge"))

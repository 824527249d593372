"""Methods that learn from pairs, rankings and marks end where their documentation says, with exact expectations.

Those that claim the KL-regularised optimum reach it; the others reach their own documented end.
"""

import itertools

import pytest
import torch

from sparring.methods import get
from tests import traps
from tests.bandit import BETA, OPTIMUM, REF, REWARD, lowest, mean, tokens
from tests.laws import asked

PAIRS = torch.tensor([(i, j) for i in range(3) for j in range(3) if i != j])
CHOICE = torch.sigmoid(REWARD[PAIRS[:, 0]] - REWARD[PAIRS[:, 1]])  # Bradley-Terry: how often the first one wins
ORDERS = torch.tensor(list(itertools.permutations(range(3))))
# Plackett-Luce: the probability of each order, drawing by softmax of the reward from what is left
LEFT = torch.stack([torch.stack([REWARD[order[k:]].logsumexp(0) for k in range(3)]) for order in ORDERS])
ORDER_PROBS = (REWARD[ORDERS] - LEFT).sum(-1).exp()


def known(arms, **more):
    return {"ref_token_logps": tokens(REF.log(), arms), "mask": torch.ones(*arms.shape, 1, dtype=torch.bool)} | more


def policy_of(method, arms, weight=None, **more):
    """The policy at the least expected loss over groups of arms; `weight` is how likely each group is."""
    x = {n: v for n, v in known(arms, **more).items() if n in asked(method.loss)}
    weight = torch.ones(len(arms), dtype=torch.double) if weight is None else weight

    def expected(logits):
        return (weight * method.loss(token_logps=tokens(logits.log_softmax(-1), arms), **x).total).sum() / weight.sum()

    return lowest(expected).softmax(-1)


def normalised(weight):
    return (weight / weight.sum()).tolist()


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("rso", {"gamma": BETA}),
        ("cpl_kl", {"alpha": BETA, "lam": 1.0}),
    ],
)
def test_pairwise_methods_that_claim_the_optimum_reach_it(name, knobs):
    assert policy_of(get(name)(**knobs), PAIRS, label=CHOICE).tolist() == pytest.approx(OPTIMUM, abs=1e-3)


@pytest.mark.parametrize("mode", ["full", "top_1"])
def test_listwise_dpo_ends_at_the_optimum_and_its_misprint_elsewhere(mode):
    got = policy_of(get("listwise_dpo")(beta=BETA, mode=mode), ORDERS, ORDER_PROBS)
    assert got.tolist() == pytest.approx(OPTIMUM, abs=1e-3)
    misprint = traps.TRAPS["PrintsTheFirstForTheKth"][0](beta=BETA)
    assert policy_of(misprint, ORDERS, ORDER_PROBS).tolist() == pytest.approx([0.939828, 0.056618, 0.003554], abs=1e-3)


@pytest.mark.parametrize("form", ["pairs", "plackett_luce", "top_1"])
def test_ranking_reward_model_recovers_the_reward_up_to_a_constant(form):
    method, mask = get("ranking_reward_model")(form=form), torch.ones(6, 3, 1, dtype=torch.bool)
    scores = lowest(lambda s: (ORDER_PROBS * method.loss(scores=s[ORDERS], mask=mask).total).sum())
    assert (scores - scores[1]).tolist() == pytest.approx(REWARD.tolist(), abs=1e-5)


def test_rso_with_another_gamma_than_the_samplers_ends_at_that_temperature():
    got = policy_of(get("rso")(gamma=1.3), PAIRS, label=CHOICE)
    assert got.tolist() == pytest.approx(normalised(REF * (REWARD / 1.3).exp()), abs=1e-3)


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_the_hinge_stops_at_its_margin_however_sure_the_label_is(p):
    # between -1 and 1 the slope is 1 - 2p, whatever p above 1/2: the least is at gamma times the gap = 1
    gap = torch.linspace(-4, 4, 801).double()
    x = torch.stack([gap, torch.zeros_like(gap)], -1)[..., None]
    method, zero = get("rso")(gamma=0.5, form="hinge_norm"), torch.zeros_like(x)
    loss = method.loss(token_logps=x, ref_token_logps=zero, mask=x == x, label=torch.full_like(gap, p))
    assert float(gap[loss.total.argmin()]) == pytest.approx(2.0)


def test_ipo_ends_where_the_mean_gap_is_what_the_labels_say():
    # Each pair aims at (2p - 1) / (2 beta); over three arms the least squares give each arm the mean of its three aims.
    aim = (2 * torch.sigmoid(REWARD[:, None] - REWARD[None, :]) - 1) / (2 * BETA)
    got = policy_of(get("ipo")(beta=BETA), PAIRS, label=CHOICE)
    assert got.tolist() == pytest.approx(normalised(REF * aim.mean(-1).exp()), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "knobs"), [("simpo", {"beta": BETA, "gamma": 0.0}), ("cpl", {"alpha": BETA, "lam": 1.0})]
)
def test_without_a_reference_the_end_is_the_softmax_of_the_reward(name, knobs):
    got = policy_of(get(name)(**knobs), PAIRS, label=CHOICE)
    assert got.tolist() == pytest.approx(normalised((REWARD / BETA).exp()), abs=1e-3)


def test_pro_without_temperatures_and_imitation_ends_at_the_softmax_of_the_reward():
    got = policy_of(get("pro")(sharpness="none", nll_weight=0.0), ORDERS, ORDER_PROBS)
    assert got.tolist() == pytest.approx(normalised(REWARD.exp()), abs=1e-3)


def test_orpo_without_its_odds_ratio_ends_at_the_shares_of_the_chosen():
    # an arm is chosen as often as it wins: the label is 1 for pairs that are weighted by how often they go that way
    got = policy_of(get("orpo")(beta=0.0), PAIRS, CHOICE)
    wins = torch.stack([CHOICE[PAIRS[:, 0] == i].sum() for i in range(3)])
    assert got.tolist() == pytest.approx(normalised(wins), abs=1e-3)


@pytest.mark.parametrize(("name", "knobs"), [("slic", {"nll_weight": 1.0}), ("rrhf", {}), ("pro", {"nll_weight": 1.0})])
def test_with_one_certain_order_nothing_is_left_but_the_best_arm(name, knobs):
    got = policy_of(get(name)(**knobs), torch.tensor([[0, 1, 2]]))
    assert got[0] > 0.999


def test_kto_ends_on_the_arms_that_are_good():
    # Nothing bounds it where marks are certain, so it is followed for a while.
    arms = torch.tensor([[0], [1], [2]])
    marks, still = torch.tensor([[1.0], [1.0], [0.0]]).double(), torch.zeros(3).double()
    method, logits = get("kto")(beta=BETA), REF.log().clone().requires_grad_()
    for _ in range(2000):
        x = known(arms, ratings=marks, batch_kl=still)
        (grad,) = torch.autograd.grad(
            mean(method.loss(token_logps=tokens(logits.log_softmax(-1), arms), **x)), [logits]
        )
        with torch.no_grad():
            logits -= grad
    assert float(logits.detach().softmax(-1)[2]) < 0.02

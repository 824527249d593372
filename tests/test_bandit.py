"""Methods find the optimum of a world in which it is known, and the adversarial pair its own fixed point."""

import math

import pytest
import torch

from sparring.feedback.adversary import REWARDS
from sparring.feedback.judge_loss import judge_loss as learnt_loss
from sparring.methods import get
from tests.bandit import (
    BETA,
    OPTIMUM,
    OPTIMUM_VALUE,
    REF,
    REWARD,
    climb,
    grpo_end,
    lowest,
    mean,
    ptx_end,
    sample_and_climb,
    tokens,
)

PAIRS = torch.tensor([(i, j) for i in range(3) for j in range(3) if i != j])
CHOICE = torch.sigmoid(REWARD[PAIRS[:, 0]] - REWARD[PAIRS[:, 1]])  # Bradley-Terry: how often the first one wins
ALL = torch.ones(6, 2, 1, dtype=torch.bool)


def fixed(score):
    return lambda probs: score


def test_the_optimum_is_what_the_formula_says():
    weight = REF * (REWARD / BETA).exp()
    assert (weight / weight.sum()).tolist() == pytest.approx(OPTIMUM, abs=1e-6)
    assert BETA * math.log(weight.sum()) == pytest.approx(OPTIMUM_VALUE, abs=1e-6)


def test_sft_ends_at_the_empirical_distribution():
    arms = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)[:, None]
    mask = torch.ones(10, 1, 1, dtype=torch.bool)
    logits = lowest(lambda x: mean(get("sft")().loss(token_logps=tokens(x.log_softmax(-1), arms), mask=mask)))
    assert logits.softmax(-1).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-6)


def test_reward_model_recovers_the_reward_up_to_a_constant():
    scores = lowest(lambda x: mean(get("reward_model")().loss(scores=x[PAIRS], label=CHOICE)))
    assert (scores - scores[1]).tolist() == pytest.approx(REWARD.tolist(), abs=1e-5)


def test_centring_takes_the_constant_away():
    # sum over ordered pairs of (s_i + s_j)^2 is least, at given differences, when the scores add up to zero
    method = get("reward_model")(centring=1e-4)
    shifted = lowest(lambda x: mean(method.loss(scores=(x + 3.0)[PAIRS], label=CHOICE))) + 3.0
    assert float(shifted.sum()) == pytest.approx(0.0, abs=1e-3)
    assert shifted.tolist() == pytest.approx(REWARD.tolist(), abs=5e-3)


def test_dpo_ends_at_the_optimum():
    ref, method = tokens(REF.log(), PAIRS), get("dpo")(beta=BETA)
    logits = lowest(
        lambda x: mean(
            method.loss(token_logps=tokens(x.log_softmax(-1), PAIRS), ref_token_logps=ref, mask=ALL, label=CHOICE)
        )
    )
    assert logits.softmax(-1).tolist() == pytest.approx(OPTIMUM, abs=1e-3)


def test_dpo_with_another_beta_ends_elsewhere():
    ref, method = tokens(REF.log(), PAIRS), get("dpo")(beta=2 * BETA)
    logits = lowest(
        lambda x: mean(
            method.loss(token_logps=tokens(x.log_softmax(-1), PAIRS), ref_token_logps=ref, mask=ALL, label=CHOICE)
        )
    )
    weight = REF * (REWARD / (2 * BETA)).exp()
    assert logits.softmax(-1).tolist() == pytest.approx((weight / weight.sum()).tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "K", "knobs"),
    [
        ("reinforce", 1, {"baseline": "none"}),
        ("reinforce", 1, {"baseline": "batch"}),
        ("reinforce", 2, {"baseline": "leave_one_out"}),
        ("rloo", 2, {}),
    ],
)
def test_policy_gradient_with_kl_ends_at_the_optimum(name, K, knobs):
    policy, _ = climb(get(name)(kl=BETA, **knobs), fixed(REWARD), rates=[10.0] * 400, K=K)
    assert policy.tolist() == pytest.approx(OPTIMUM, abs=1e-3)


@pytest.mark.parametrize(
    ("knobs", "temperature"),
    # A share b ends at ref exp((1-b)/b r): at b = 1/3 that is the temperature of the world, at b = 0.05 it is 1/19.
    [({"kl": BETA}, BETA), ({"kl": 1 / 3, "objective": "share"}, BETA), ({"kl": 0.05, "objective": "share"}, 1 / 19)],
)
def test_reinforce_with_a_learned_baseline_ends_at_the_optimum_of_its_objective(knobs, temperature):
    # With this weight a step of the policy's size takes the value to the mean return at once: 2 * 0.05 * 10 = 1.
    method = get("reinforce_value")(**knobs, value_weight=0.05)
    policy, value = climb(method, fixed(REWARD), rates=[10.0] * 400, critic=True)
    weight = REF * (REWARD / temperature).exp()
    assert policy.tolist() == pytest.approx((weight / weight.sum()).tolist(), abs=1e-3)
    worth = temperature * math.log(weight.sum())  # of the optimum, in units of the score
    assert value == pytest.approx(worth * (1 - knobs["kl"] if "objective" in knobs else 1), abs=1e-2)


@pytest.mark.parametrize("K", [2, 3])
def test_grpo_with_k2_and_no_standard_deviation_ends_at_the_optimum(K):
    # Its advantages are (K-1)/K of the score's, so that is the share of KL's price that means the same.
    method = get("grpo")(kl=BETA * (K - 1) / K, scale="none", estimator="k2")
    policy, _ = climb(method, fixed(REWARD), rates=[10.0] * 400, K=K)
    assert policy.tolist() == pytest.approx(OPTIMUM, abs=1e-3)


@pytest.mark.parametrize("K", [2, 3])
def test_grpo_with_k3_ends_where_the_other_kl_holds_it(K):
    end = grpo_end(BETA, K)
    assert sum(end) == pytest.approx(1) and abs(end[0] - OPTIMUM[0]) > 0.1
    policy, _ = climb(get("grpo")(kl=BETA, scale="none"), fixed(REWARD), rates=[4.0] * 400, K=K)
    assert policy.tolist() == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(
    ("estimator", "pull"), [("k3", lambda p, ref: p - ref), ("k2", lambda p, ref: p * (p / ref).log())]
)
def test_grpo_as_it_comes_ends_where_its_two_forces_are_equal(estimator, pull):
    # By enumeration: the mean of A over the pairs that an arm is part of, against the slope of its KL in the logits.
    policy, _ = climb(get("grpo")(kl=BETA, estimator=estimator), fixed(REWARD), rates=[2.0] * 800, K=2)
    p = policy.tolist()
    sign = [[(REWARD[i] > REWARD[j]).item() - (REWARD[i] < REWARD[j]).item() for j in range(3)] for i in range(3)]
    gain = [p[i] * sum(p[j] * sign[i][j] for j in range(3)) for i in range(3)]  # two responses: A is 1, -1 or 0
    slope = BETA * pull(policy, REF)
    slope = slope - policy * slope.sum()
    assert gain == pytest.approx(slope.tolist(), abs=1e-3)


@pytest.mark.parametrize(("name", "knobs"), [("reinforce", {"baseline": "none"}), ("reinforce", {}), ("rloo", {})])
def test_the_expected_gradient_is_what_the_policy_gradient_theorem_says(name, knobs):
    # one step of size 1 from the reference moves the logits by pi(y) (r(y) - E r); at the reference KL costs nothing
    policy, _ = climb(get(name)(kl=BETA, **knobs), fixed(REWARD), rates=[1.0], K=2 if name == "rloo" else 1)
    moved = (policy.log() - REF.log()) - (policy.log() - REF.log())[1]
    step = REF * (REWARD - (REF * REWARD).sum())
    assert moved.tolist() == pytest.approx((step - step[1]).tolist(), abs=1e-12)


def test_ppo_with_kl_ends_at_the_optimum_and_its_value_at_the_optimal_value():
    # Whitened advantages keep their size until the very end, so the step size has to shrink.
    rates = [1.0] * 60 + [0.95**i for i in range(150)]
    method = get("ppo")(kl=BETA, value_weight=1.0)
    policy, value = climb(method, fixed(REWARD), rates=rates, epochs=2, critic=True)
    assert policy.tolist() == pytest.approx(OPTIMUM, abs=1e-3)
    assert value == pytest.approx(OPTIMUM_VALUE, abs=1e-2)


def test_sampled_rloo_ends_within_an_interval_around_the_optimum():
    # At the optimum every response is worth the same, so the noise of sampling dies out on the way there.
    method, seeds = get("rloo")(kl=BETA), range(5)
    ends = torch.stack([sample_and_climb(method, fixed(REWARD), rates=[6.0] * 200, B=32, K=4, seed=s) for s in seeds])
    # 99 percent t-interval over five seeds: 4.604 standard errors on each side, and 1e-3 for what is left to climb
    half = 4.604 * ends.std(0) / math.sqrt(5)
    assert (half < 1e-2).all()
    assert (abs(ends.mean(0) - torch.tensor(OPTIMUM).double()) <= half + 1e-3).all()


def test_pre_training_text_pulls_the_optimum_towards_itself():
    text = torch.tensor([0.1, 0.3, 0.6], dtype=torch.double)
    assert ptx_end(1e3, text) == pytest.approx(text.tolist(), abs=1e-3)
    # The maximum of the two sums, found as such and not by its slope.
    w, r, ref = 0.5, REWARD, REF

    def loss(x):
        pi = x.softmax(-1)
        return -(pi * (r - BETA * (pi / ref).log())).sum() - w * (text * x.log_softmax(-1)).sum()

    assert ptx_end(w, text) == pytest.approx(lowest(loss).softmax(-1).tolist(), abs=1e-4)


# The adversarial world: demonstrations follow DATA, and the discriminator is the best there is.
DATA = torch.tensor([0.6, 0.3, 0.1], dtype=torch.double)
START = torch.tensor([0.2, 0.3, 0.5], dtype=torch.double)
FORMS = {"logit": lambda s: s, "norm": lambda s: s.sigmoid() - 0.5, "logsig": torch.nn.functional.logsigmoid}


def judge(probs):
    return (DATA / probs).log()


def judge_loss(s, probs):
    real, fake = torch.nn.functional.softplus(-s), torch.nn.functional.softplus(s)
    return ((DATA * real).sum() + (probs * fake).sum()) / 2


def test_the_best_discriminator_is_the_log_ratio():
    assert torch.allclose(lowest(lambda s: judge_loss(s, START)), judge(START), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_the_adversarial_pair_ends_at_the_demonstrations(name, form):
    policy, _ = climb(
        get(name)(kl=0.0), lambda p: FORMS[form](judge(p)), rates=[4.0] * 120, K=2 if name == "rloo" else 1, ref=START
    )
    assert policy.tolist() == pytest.approx(DATA.tolist(), abs=1e-3)
    assert float(judge_loss(judge(policy), policy)) == pytest.approx(math.log(2), abs=1e-6)
    assert FORMS["norm"](judge(policy)).abs().max() < 1e-3


def test_with_the_logit_reward_the_policy_descends_the_kl_to_the_demonstrations():
    policy, _ = climb(get("reinforce")(kl=0.0), judge, rates=[1.0], ref=START)
    logits = START.log().clone().requires_grad_()
    probs = logits.softmax(-1)
    (slope,) = torch.autograd.grad((probs * (probs / DATA).log()).sum(), [logits])
    moved, want = (policy / START).log(), -slope
    assert (moved - moved[0]).tolist() == pytest.approx((want - want[0]).tolist(), abs=1e-12)


MIXTURE = [0.469008, 0.338213, 0.192779]  # DATA^(1/1.5) START^(.5/1.5), normalised


def test_the_mixture_is_what_the_formula_says():
    weight = DATA ** (1 / 1.5) * START ** (0.5 / 1.5)
    assert (weight / weight.sum()).tolist() == pytest.approx(MIXTURE, abs=1e-6)


@pytest.mark.parametrize(("name", "K"), [("reinforce", 1), ("rloo", 2)])
def test_with_kl_the_adversarial_pair_ends_between_demonstrations_and_reference(name, K):
    policy, _ = climb(get(name)(kl=0.5), judge, rates=[2.0] * 100, K=K, ref=START)
    assert policy.tolist() == pytest.approx(MIXTURE, abs=1e-3)


@pytest.mark.parametrize(("kl", "end"), [(0.0, DATA.tolist()), (0.5, MIXTURE)])
def test_rlgaf_with_ppo_ends_at_the_same_places(kl, end):
    rates = [0.3] * 40 + [0.3 * 0.93**i for i in range(80)]
    method = get("ppo")(kl=kl, value_weight=1.0)
    policy, _ = climb(method, judge, rates=rates, ref=START, epochs=2, critic=True)
    assert policy.tolist() == pytest.approx(end, abs=1e-3)


# A share a of the score is what the judge said of whoever answered in its warm-up, here START.
ANCHORED = {
    (0.5, 0.0): [0.849057, 0.141509, 0.009434],  # DATA^2 / START, normalised
    (0.5, 0.5): [0.6, 0.3, 0.1],  # what the price pulls back, the anchor pushes on
    (0.25, 0.5): [0.523745, 0.326222, 0.150033],  # (DATA START^0.25)^0.8, normalised
}


@pytest.mark.parametrize(("share", "kl"), ANCHORED)
@pytest.mark.parametrize(("name", "K"), [("reinforce", 1), ("rloo", 2)])
def test_with_an_anchor_the_adversarial_pair_ends_where_its_formula_says(name, K, share, kl):
    def anchored(probs):
        return (1 - share) * (DATA / probs).log() + share * (DATA / START).log()

    policy, _ = climb(get(name)(kl=kl), anchored, rates=[2.0] * 200, K=K, ref=START)
    assert policy.tolist() == pytest.approx(ANCHORED[share, kl], abs=2e-3)


class Learner:
    """A judge that learns from samples: 256 demonstrations and as many of the policy's answers in each of 4 updates."""

    def __init__(self, loss, form, seed):
        self.s, self.loss, self.form = torch.zeros(3, dtype=torch.double, requires_grad=True), loss, form
        self.draw = torch.Generator().manual_seed(seed)

    def __call__(self, probs):
        for _ in range(4):
            real, fake = (
                self.s[torch.multinomial(of, 256, replacement=True, generator=self.draw)] for of in (DEMANDED, probs)
            )
            (slope,) = torch.autograd.grad(mean(learnt_loss(real, fake, self.loss, 0.0)), [self.s])
            with torch.no_grad():
                self.s -= 2 * slope
        return REWARDS[self.form](self.s.detach())


DEMANDED = torch.tensor([0.1, 0.3, 0.6], dtype=torch.double)  # what the reference does least
HALFWAY = DEMANDED ** (1 / 1.5) * REF ** (0.5 / 1.5)


# What ends at the demonstrations ends there in every form; the mixture is that of log-odds, whole and undivided.
FORMS_THAT_LEARN = [("bce", "logit"), ("bce", "norm"), ("bce", "logsig"), ("bt", "logit"), ("ls", "logit")]
GAMES = [("reinforce", 0.0, *one) for one in FORMS_THAT_LEARN] + [
    ("rloo", 0.0, "bce", "logit"), ("grpo", 0.0, "bce", "logit"),
    ("reinforce", 0.5, "bce", "logit"), ("rloo", 0.5, "bce", "logit"), ("rloo", 0.5, "bt", "logit"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kl", "loss", "form"), GAMES)
def test_a_judge_and_a_policy_that_learn_from_samples_end_within_a_fiftieth(name, kl, loss, form):
    end, K = (HALFWAY / HALFWAY.sum() if kl else DEMANDED), 1 if name == "reinforce" else 4
    rates = [0.4 * min(1.0, 2 - i / 75) for i in range(150)]
    policy = sample_and_climb(get(name)(kl=kl), Learner(loss, form, 0), rates=rates, B=256 // K, K=K, seed=0)
    assert policy.tolist() == pytest.approx(end.tolist(), abs=0.02)


# A share of the fakes is of the unwanted kind: the best judge is log DATA / ((1 - a) pi + a UNWANTED), and the end lies
# beyond DATA.
UNWANTED = START
BEYOND = {
    (0.1, 0.0): [0.644444, 0.3, 0.055556],  # (DATA - a UNWANTED) / (1 - a)
    # The third arm would be below 0; the others share the rest: (5/6 DATA - 1/2 UNWANTED) / (1/2).
    (0.5, 0.0): [0.8, 0.2, 0.0],
    (0.5, 0.5): [0.587209, 0.336659, 0.076132],  # by bisection, below
}


def judge_with_unwanted(share):
    return lambda probs: (DATA / ((1 - share) * probs + share * UNWANTED)).log()


def test_where_nothing_is_negative_the_end_is_the_demonstrations_less_the_unwanted():
    assert ((DATA - 0.1 * UNWANTED) / 0.9).tolist() == pytest.approx(BEYOND[0.1, 0.0], abs=1e-6)
    assert [(5 / 6 * d - b / 2) / 0.5 for d, b in ((0.6, 0.2), (0.3, 0.3))] == pytest.approx([0.8, 0.2])


def test_with_a_price_the_end_is_where_score_less_price_is_the_same_for_every_arm():
    share, kl = 0.5, 0.5

    def arm(i, level):
        low, high = -60.0, 0.0  # log-probabilities; score less price falls with them
        for _ in range(100):
            middle = (low + high) / 2
            score = math.log(DATA[i] / ((1 - share) * math.exp(middle) + share * UNWANTED[i]))
            low, high = (middle, high) if score - kl * (middle - math.log(START[i])) > level else (low, middle)
        return math.exp(low)

    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(arm(i, middle) for i in range(3)) > 1 else (low, middle)
    assert [arm(i, low) for i in range(3)] == pytest.approx(BEYOND[share, kl], abs=1e-6)


@pytest.mark.parametrize(("share", "kl"), BEYOND)
@pytest.mark.parametrize(("name", "K"), [("reinforce", 1), ("rloo", 2)])
def test_with_unwanted_texts_among_the_fakes_the_adversarial_pair_ends_beyond_the_demonstrations(name, K, share, kl):
    policy, _ = climb(get(name)(kl=kl), judge_with_unwanted(share), rates=[2.0] * 200, K=K, ref=START)
    assert policy.tolist() == pytest.approx(BEYOND[share, kl], abs=2e-3)

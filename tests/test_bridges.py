"""Two methods that coincide in a corner do coincide there."""

import math

import pytest
import torch

from sparring.core.errors import SettingError
from sparring.core.registry import needs
from sparring.methods import get, load_all
from tests.laws import asked, gradient, signals

load_all()
PAIRWISE = ["dpo", "reward_model", "ipo", "rso", "cpl", "cpl_kl"]  # antisymmetric, with a label


def totals(name, x, **knobs):
    return get(name)(**knobs).loss(**x).total


def credited(name, seed=0, **knobs):
    """A round of samples at step 0: the signals, with the credit that the method itself gives them."""
    method, cls = get(name)(**knobs), get(name)
    x = signals(cls, seed=seed, equal=True, names=list(dict.fromkeys(needs(cls.credit) + asked(cls.loss))))
    x |= {"old_token_logps": x["token_logps"]} if "token_logps" in x else {}
    return method, x | method.credit(**{n: x[n] for n in needs(cls.credit)})


def only(cls, x):
    return {n: x[n] for n in asked(cls.loss)}


def test_reward_model_without_margin_is_the_pairwise_loss():
    x = signals(get("reward_model"), names=["scores"])
    softplus = [math.log1p(math.exp(b - a)) for a, b in x["scores"].tolist()]
    margin, label = torch.zeros(4).double(), torch.ones(4).double()
    assert totals("reward_model", x).tolist() == pytest.approx(softplus)
    assert totals("reward_model", x | {"margin": margin, "label": label}).tolist() == pytest.approx(softplus)


def test_dpo_is_a_reward_model_whose_scores_are_the_implied_rewards():
    x = signals(get("dpo"))
    scores = 0.3 * (x["token_logps"] - x["ref_token_logps"]).where(x["mask"], 0.0).sum(-1)
    assert torch.allclose(totals("dpo", x, beta=0.3), totals("reward_model", {"scores": scores, "label": x["label"]}))


@pytest.mark.parametrize("name", PAIRWISE)
def test_swapping_a_pair_is_turning_its_label_round(name):
    x = signals(get(name))
    x |= {"margin": torch.zeros(4).double()} if "margin" in x else {}
    turned = {n: 1 - v if n == "label" else v if n == "margin" else v.flip(1) for n, v in x.items()}
    assert torch.allclose(totals(name, x), totals(name, turned))


def test_dpo_label_smoothing_is_a_softer_label():
    x = signals(get("dpo"))
    certain, soft = (x | {"label": torch.full((4,), p).double()} for p in (1.0, 0.9))
    assert torch.allclose(totals("dpo", certain, label_smoothing=0.1), totals("dpo", soft))


def test_dpo_at_the_reference_is_log_two_and_blind_to_what_both_responses_share():
    x = signals(get("dpo"), equal=True)
    assert totals("dpo", x).tolist() == pytest.approx([math.log(2)] * 4)
    x = signals(get("dpo"), seed=1)
    x["mask"] = torch.ones_like(x["mask"])
    assert torch.allclose(totals("dpo", x), totals("dpo", x | {"token_logps": x["token_logps"] - 3.0}))


def test_a_constant_added_to_all_scores_changes_no_reward_model():
    x = signals(get("reward_model"))
    assert torch.allclose(totals("reward_model", x), totals("reward_model", x | {"scores": x["scores"] + 7.0}))


def test_ppos_first_update_is_reinforce_with_the_same_advantages():
    method, x = credited("ppo", value_weight=0.0)
    _, ppo = gradient(method, only(get("ppo"), x))
    _, plain = gradient(get("reinforce")(), only(get("reinforce"), x))
    assert torch.allclose(ppo["token_logps"], plain["token_logps"])


def test_reinforce_with_values_is_ppos_first_update_without_whitening_at_lambda_one():
    mine, x = credited("reinforce_value", seed=3, kl=0.2, value_weight=0.0)
    ppo, y = credited("ppo", seed=3, kl=0.2, value_weight=0.0, lam=1.0, whiten="none")
    assert torch.equal(x["advantages"], y["advantages"]) and torch.equal(x["returns"], y["returns"])
    _, a = gradient(mine, only(get("reinforce_value"), x))
    _, b = gradient(ppo, only(get("ppo"), y))
    assert torch.allclose(a["token_logps"], b["token_logps"])


def test_reinforce_with_values_of_zero_is_reinforce_without_a_baseline_where_responses_have_one_token():
    names = needs(get("reinforce_value").credit)
    x = {n: v[..., :1] if v.dim() == 3 else v for n, v in signals(get("reinforce_value"), names=names).items()}
    x["old_values"] = torch.zeros_like(x["old_values"])
    mine = get("reinforce_value")(kl=0.2).credit(**x)["advantages"]
    other = get("reinforce")(kl=0.2, baseline="none").credit(**{n: x[n] for n in needs(get("reinforce").credit)})
    assert torch.allclose(mine, other["advantages"])


def test_a_share_is_the_price_that_leaves_the_same_proportions():
    # (1 - b) r - b KL = (1 - b) (r - b/(1-b) KL)
    x = signals(get("reinforce_value"), names=needs(get("reinforce_value").credit))
    share = get("reinforce_value")(kl=0.2, objective="share").credit(**x)["returns"]
    price = get("reinforce_value")(kl=0.25).credit(**x)["returns"]
    assert torch.allclose(share, 0.8 * price)
    with pytest.raises(SettingError, match=r"kl is 1\.5, but a share lies between 0 and 1"):
        get("reinforce_value")(kl=1.5, objective="share").credit(**x)


def test_ppo_with_whitened_rewards_and_no_values_differs_in_the_unit_of_its_advantages_only():
    # gamma 1, lambda 0, values 0: advantages are the rewards, so whitening both whitens what is white already
    x = signals(get("ppo"), names=needs(get("ppo").credit))
    x["old_values"] = torch.zeros_like(x["old_values"])
    one, both, rewards = (get("ppo")(lam=0.0, whiten=w).credit(**x) for w in ("advantages", "both", "rewards"))
    kept = x["mask"]
    assert torch.allclose(one["advantages"][kept], both["advantages"][kept], atol=1e-6)
    assert torch.allclose(rewards["advantages"][kept] - rewards["advantages"][kept].mean(), one["advantages"][kept])


def test_ppo_without_values_gamma_or_kl_is_reinforce_with_whitened_scores():
    # values 0, gamma 1, lambda 1: every token's advantage is the score of its response, whitened over tokens
    method = get("ppo")(kl=0.0, lam=1.0, value_weight=0.0)
    x = signals(get("ppo"), equal=True, names=needs(get("ppo").credit))
    x["old_values"] = torch.zeros_like(x["old_values"])
    got, mask = method.credit(**x)["advantages"], x["mask"]
    spread = x["scores"][..., None].expand(mask.shape)[mask]
    assert torch.allclose(got[mask], (spread - spread.mean()) / spread.std(correction=0), rtol=1e-6)


def test_rloo_is_reinforce_with_the_leave_one_out_baseline():
    rloo, x = credited("rloo", seed=4, kl=0.2)
    other, y = credited("reinforce", seed=4, kl=0.2, baseline="leave_one_out")
    assert torch.equal(x["advantages"], y["advantages"])
    x, y = only(get("rloo"), x), only(get("reinforce"), y)
    assert torch.equal(rloo.loss(**x).total, other.loss(**y).total)


@pytest.mark.parametrize("K", [2, 4])
def test_grpo_without_the_standard_deviation_is_rloo_but_for_a_factor(K):
    # s_k - mean of all = (K-1)/K (s_k - mean of the others), so every advantage is (K-1)/K times as large
    x = signals(get("rloo"), equal=True, names=needs(get("rloo").credit))
    x = {n: v[:, :K] for n, v in x.items()}
    rloo = get("rloo")(kl=0.3).credit(**x)["advantages"]  # at the reference KL costs nothing
    grpo = get("grpo")(scale="none").credit(scores=x["scores"], mask=x["mask"])["advantages"]
    assert torch.allclose(grpo, rloo * (K - 1) / K)


@pytest.mark.parametrize("estimator", ["k3", "k2"])
def test_grpos_first_update_from_the_reference_is_reinforce_with_the_same_advantages(estimator):
    method, x = credited("grpo", average="token", estimator=estimator)
    _, grpo = gradient(method, only(get("grpo"), x))
    _, plain = gradient(get("reinforce")(), only(get("reinforce"), x))
    assert torch.allclose(grpo["token_logps"], plain["token_logps"])


def test_grpo_without_kl_is_ppo_without_values():
    method, x = credited("grpo", average="token", kl=0.0)
    x["token_logps"] = x["token_logps"] + 0.3 * torch.randn(x["mask"].shape, generator=torch.Generator().manual_seed(1))
    y = x | dict.fromkeys(("values", "old_values", "returns"), torch.zeros_like(x["token_logps"]))
    assert torch.equal(method.loss(**only(get("grpo"), x)).total, get("ppo")().loss(**only(get("ppo"), y)).total)


def test_rloo_with_two_responses_pays_the_difference_of_their_scores():
    x = signals(get("rloo"), equal=True, names=needs(get("rloo").credit))
    x = {n: v[:, :2] for n, v in x.items()}
    got = get("rloo")().credit(**x)["advantages"][..., 0]
    gap = x["scores"][:, 0] - x["scores"][:, 1]
    assert torch.allclose(got, torch.stack([gap, -gap], -1))


@pytest.mark.parametrize(
    ("name", "knobs"),
    [("reinforce", {"baseline": "leave_one_out"}), ("reinforce", {"baseline": "batch"}), ("rloo", {}), ("grpo", {})],
)
def test_a_constant_score_teaches_nothing(name, knobs):
    method, cls = get(name)(kl=0.0, **knobs), get(name)
    x = signals(cls, names=needs(cls.credit))
    x["scores"] = torch.full_like(x["scores"], 0.3)
    got = method.credit(**x)["advantages"]
    assert got.abs().max() < 1e-15
    _, grads = gradient(method, signals(cls) | {"advantages": got})
    assert grads["token_logps"].abs().max() < 1e-15


def test_without_a_baseline_a_constant_score_raises_every_sample():
    method, x = credited("reinforce", kl=0.0, baseline="none")
    x |= method.credit(**{n: x[n] for n in needs(get("reinforce").credit)} | {"scores": torch.ones(4, 4).double()})
    _, grads = gradient(method, only(get("reinforce"), x))
    assert (grads["token_logps"][x["mask"]] == -1.0).all()


@pytest.mark.parametrize("name", ["reinforce", "rloo", "ppo"])
def test_at_the_reference_the_price_of_kl_does_not_matter(name):
    cheap, dear = (credited(name, kl=kl)[1] for kl in (0.0, 5.0))
    assert torch.equal(cheap["advantages"], dear["advantages"])


def test_sft_is_reinforce_with_every_advantage_one():
    x = signals(get("sft"))
    y = x | {"advantages": torch.ones_like(x["token_logps"])}
    assert torch.equal(get("sft")().loss(**x).total, get("reinforce")().loss(**y).total)


def test_a_pairwise_ranker_that_is_sure_of_its_labels_is_fine_tuning_on_the_right_letter():
    x = signals(get("pairwise_ranker"), names=["token_logps", "mask"])
    right = {n: v[:, :1] for n, v in x.items()}
    assert torch.allclose(totals("pairwise_ranker", x), get("sft")().loss(**right).total)


def test_a_pairwise_ranker_whose_letters_are_all_it_can_write_is_a_reward_model_of_their_log_odds():
    x = signals(get("pairwise_ranker"))
    x["mask"] = torch.arange(7).expand(x["mask"].shape) == 0
    s = x["token_logps"][..., 0].log_softmax(-1)
    x["token_logps"] = s[..., None].expand(x["mask"].shape)
    assert torch.allclose(totals("pairwise_ranker", x), totals("reward_model", {"scores": s, "label": x["label"]}))


def test_a_pair_asked_the_other_way_round_with_the_other_label_is_the_same():
    x = signals(get("pairwise_ranker"))
    turned = {n: v.flip(1) if v.dim() > 1 else 1 - v for n, v in x.items()}
    assert torch.allclose(totals("pairwise_ranker", x), totals("pairwise_ranker", turned))


def pairs_only(x):
    """The first two responses of every ranking."""
    return {n: v[:, :2] for n, v in x.items() if n != "ratings"}


def test_a_ranking_of_two_is_a_pair():
    x = pairs_only(signals(get("listwise_dpo")))
    dpo = totals("dpo", x, beta=0.3)
    for knobs in ({}, {"mode": "top_1"}, {"stages": "mean"}):
        assert torch.allclose(totals("listwise_dpo", x, beta=0.3, **knobs), dpo, rtol=1e-12)


def test_a_ranking_of_two_scores_is_the_pairwise_reward_model():
    x = pairs_only(signals(get("ranking_reward_model")))
    for form in ("pairs", "plackett_luce", "top_1"):
        got = totals("ranking_reward_model", x, form=form)
        assert torch.allclose(got, totals("reward_model", {"scores": x["scores"]}), rtol=1e-12)


def test_listwise_dpo_is_a_ranking_reward_model_whose_scores_are_the_implied_rewards():
    x = signals(get("listwise_dpo"))
    scores = 0.3 * (x["token_logps"] - x["ref_token_logps"]).where(x["mask"], 0.0).sum(-1)
    y = {"scores": scores, "mask": x["mask"], "ratings": x["ratings"]}
    for mode, form in (("full", "plackett_luce"), ("top_1", "top_1")):
        assert torch.allclose(
            totals("listwise_dpo", x, beta=0.3, mode=mode), totals("ranking_reward_model", y, form=form)
        )


def test_rso_with_the_samplers_temperature_is_dpo():
    x = signals(get("rso"))
    assert torch.allclose(totals("rso", x, gamma=0.3), totals("dpo", x, beta=0.3), rtol=1e-12)


def test_rso_hinge_is_slic_with_the_margin_turned_into_a_slope():
    x = signals(get("rso"), names=["token_logps", "ref_token_logps", "mask"])
    y = {n: x[n] for n in ("token_logps", "mask")}
    assert torch.allclose(
        totals("rso", x, gamma=0.3, form="hinge"), 0.3 * totals("slic", y, margin=1 / 0.3, nll_weight=0.0)
    )


def test_cpl_kl_without_its_conservatism_is_dpo():
    x = signals(get("cpl_kl"))
    assert torch.allclose(totals("cpl_kl", x, alpha=0.3, lam=1.0), totals("dpo", x, beta=0.3), rtol=1e-12)


def test_cpl_is_cpl_kl_with_a_reference_that_finds_everything_equally_likely():
    x = signals(get("cpl_kl"))
    x["ref_token_logps"] = torch.zeros_like(x["ref_token_logps"])
    y = {n: v for n, v in x.items() if n != "ref_token_logps"}
    assert torch.allclose(totals("cpl_kl", x, alpha=0.2, lam=0.6), totals("cpl", y, alpha=0.2, lam=0.6))


def test_simpo_without_its_lead_is_dpo_on_mean_log_probabilities_without_a_reference():
    x = signals(get("simpo"))
    n = x["mask"].sum(-1, keepdim=True)
    y = x | {"token_logps": x["token_logps"] / n, "ref_token_logps": torch.zeros_like(x["token_logps"])}
    assert torch.allclose(totals("simpo", x, beta=2.0, gamma=0.0), totals("dpo", y, beta=2.0))


def test_pro_without_temperatures_on_single_tokens_is_plackett_luce_on_log_probabilities():
    x = signals(get("pro"), names=["token_logps", "mask", "ratings"])
    x["mask"] = torch.arange(7).expand(x["mask"].shape) == 0
    y = {"scores": x["token_logps"][..., 0], "mask": x["mask"], "ratings": x["ratings"]}
    got = totals("pro", x, sharpness="none", nll_weight=0.0)
    assert torch.allclose(got, totals("ranking_reward_model", y, form="plackett_luce"))


def test_rrhf_ranks_as_slic_does_on_single_tokens_without_a_margin():
    x = signals(get("rrhf"))
    x["mask"] = torch.arange(7).expand(x["mask"].shape) == 0
    best, pairs = x["token_logps"][:, 0, 0], 4 * 3 / 2  # rrhf adds pairs up, slic averages them
    slic = totals("slic", x, margin=0.0, nll_weight=0.0)
    assert torch.allclose(totals("rrhf", x) + best, pairs * slic)


def test_orpo_without_its_odds_ratio_is_fine_tuning_on_the_chosen_response():
    x = signals(get("orpo"))
    chosen = {n: v[:, :1] for n, v in x.items()}
    sft = get("sft")().loss(**chosen)
    assert torch.allclose(totals("orpo", x, beta=0.0), sft.total / sft.weight)


@pytest.mark.parametrize("form", ["rank", "margin", "list", "expected"])
def test_slic_and_slic_kl_without_their_regularisers_are_one(form):
    x = signals(get("slic_kl"))
    y = {n: v for n, v in x.items() if n != "token_kls"}
    assert torch.equal(totals("slic_kl", x, form=form, kl_weight=0.0), totals("slic", y, form=form, nll_weight=0.0))


RANKINGS = ["listwise_dpo", "slic", "slic_kl", "rrhf", "pro", "ranking_reward_model"]


@pytest.mark.parametrize("name", RANKINGS)
def test_equals_may_stand_in_any_order(name):
    x = signals(get(name))
    x["ratings"] = torch.tensor([[2.0, 1.0, 1.0, 0.0]] * 4).double()
    order = [0, 2, 1, 3]
    assert torch.allclose(totals(name, x), totals(name, {n: v[:, order] for n, v in x.items()}))

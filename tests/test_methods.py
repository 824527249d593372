"""Every registered method keeps every law and agrees with its oracle. A new method needs no new test code here."""

import math
import re
from dataclasses import replace

import pytest
import torch

from sparring.methods import docstring, load_all, names
from tests import laws, oracles

METHODS = load_all()
ONLINE = [name for name, cls in METHODS.items() if cls.data == "prompt"]


@pytest.mark.parametrize("law", laws.LAWS + laws.FILE_LAWS, ids=lambda f: f.__name__[4:])
@pytest.mark.parametrize("name", METHODS)
def test_law(name, law):
    law(METHODS[name]())


def plain(x, mask, b):
    """What an oracle sees of one prompt."""
    x = x[b]
    if x.dim() == 2:
        return [row[kept].tolist() for row, kept in zip(x, mask[b], strict=True)]
    return x.tolist()


def each_token(want, mask):
    """What a credit oracle says of every token in a row; a number for a response is shared by its tokens."""
    rows, counts = [row for prompt in want for row in prompt], mask.sum(-1).flatten().tolist()
    pairs = zip(rows, counts, strict=True)
    return [number for row, n in pairs for number in (row if isinstance(row, list) else [row] * n)]


def settings(name):
    """The method as it comes, and with each knob moved."""
    return [METHODS[name]()] + [moved for _, moved in laws.variants(METHODS[name]())]


DIFFER = "rrhf pro slic rso sample_rank raft rest hir cpl dpo ipo ppo grpo reward_model ranking_reward_model".split()


@pytest.mark.parametrize("name", DIFFER)
def test_where_papers_and_code_differ_is_said_under_the_same_words_everywhere(name):
    said = [part for part in docstring(name).split("\n\n") if part.startswith("Papers and code differ: ")]
    assert len(said) == 1 and len(said[0].split()) > 15, "a paragraph that says which differ, and which we chose"


@pytest.mark.parametrize("name", names())
def test_no_method_says_it_in_other_words(name):
    assert not re.search(r"^Where .*differ", docstring(name), re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_the_papers_at_any_setting_of_its_knobs(name):
    x = laws.signals(METHODS[name], seed=1)
    for method in settings(name):
        got = method.loss(**x)
        for b in range(4):
            prompt = {n: plain(v, x.get("mask"), b) for n, v in x.items() if n != "mask"}
            total, weight = getattr(oracles, name)(method, **prompt)
            assert got.total[b].item() == pytest.approx(total, rel=1e-10), method
            assert got.weight[b].item() == weight


@pytest.mark.parametrize("name", ONLINE)
def test_credit_is_the_papers_at_any_setting_of_its_knobs(name):
    x = laws.signals(METHODS[name], seed=2, names=laws.asked(METHODS[name].credit))
    for method in settings(name):
        got = method.credit(**x)
        batch = {n: [plain(v, x["mask"], b) for b in range(4)] for n, v in x.items() if n != "mask"}
        want = getattr(oracles, f"{name}_credit")(method, **batch)
        for n, v in got.items():
            flat = each_token(want[n], x["mask"])
            assert v[x["mask"]].tolist() == pytest.approx(flat, rel=1e-10, abs=1e-12), (method, n)
            assert not v[~x["mask"]].any()


@pytest.mark.parametrize("name", ONLINE)
def test_online_methods_have_a_price_of_kl_that_a_controller_can_raise(name):
    assert replace(METHODS[name](), kl=123.4).kl == 123.4


def test_dpo_golden():
    # beta 0.1, log pi (-12, -15), log pi_ref (-13, -14): z = 0.1 * (1 - (-1)) = 0.2
    policy = torch.tensor([[[-12.0], [-15.0]]], dtype=torch.double, requires_grad=True)
    rest = {"ref_token_logps": torch.tensor([[[-13.0], [-14.0]]]).double(), "mask": torch.ones(1, 2, 1).bool()}
    loss = METHODS["dpo"](beta=0.1).loss(token_logps=policy, **rest)
    loss.total.sum().backward()
    assert loss.total.item() == pytest.approx(0.598139, abs=1e-6)
    assert policy.grad[0, :, 0].tolist() == pytest.approx([-0.045017, 0.045017], abs=1e-6)
    assert loss.reward.tolist() == [pytest.approx([0.1, -0.1])]
    smoothed = METHODS["dpo"](beta=0.1, label_smoothing=0.1).loss(token_logps=policy, **rest)
    assert smoothed.total.item() == pytest.approx(0.618139, abs=1e-6)


@pytest.mark.parametrize(
    ("margins", "losses"),
    [
        ([1, 2 / 3, 1 / 3, 0], [0.974077, 0.779949, 0.613282, 0.474077]),
        ([3, 2, 1, 0], [2.578890, 1.701413, 0.974077, 0.474077]),
    ],
    ids=["small", "large"],
)
def test_reward_model_golden_with_the_margins_of_llama_2(margins, losses):
    scores = torch.tensor([[0.5, 0.0]] * 4).double()
    loss = METHODS["reward_model"]().loss(scores=scores, margin=torch.tensor(margins).double())
    assert loss.total.tolist() == pytest.approx(losses, abs=1e-6)


def one_token(**values):
    """Signals of one prompt with one response of one token."""
    return {n: torch.tensor([[[v]]], dtype=torch.double) for n, v in values.items()} | {
        "mask": torch.ones(1, 1, 1, dtype=torch.bool)
    }


def test_ppo_value_clip_golden():
    # old value 0, value 1, return 2, clip 0.2: max((1 - 2)^2, (0.2 - 2)^2) = 3.24, halved
    x = one_token(token_logps=-1, old_token_logps=-1, advantages=0, values=1, old_values=0, returns=2)
    assert METHODS["ppo"](value_weight=1, value_clip=0.2).loss(**x).total.item() == pytest.approx(3.24 / 2)


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"),
    [
        (2.0, 1.5, 0.0),  # better than expected and already likelier: enough
        (-2.0, 0.5, 0.0),  # worse than expected and already less likely: enough
        (-2.0, 3.0, 6.0),  # worse than expected and likelier: d/dlogp of -A q is -A q, never cut off
        (2.0, 0.3, -0.6),
        (2.0, 1.1, -2.2),
    ],
)
def test_ppo_clips_the_gain_and_never_the_way_back(advantage, ratio, slope):
    log_ratio = math.log(ratio)
    x = one_token(
        token_logps=log_ratio - 3, old_token_logps=-3, advantages=advantage, values=0, old_values=0, returns=0
    )
    x["token_logps"].requires_grad_()
    METHODS["ppo"](clip=0.2).loss(**x).total.sum().backward()
    assert x["token_logps"].grad.item() == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "want"), [("none", [0.75, -0.25, -0.25, -0.25]), ("std", [1.732051, -0.577350, -0.577350, -0.577350])]
)
def test_grpo_golden_with_one_right_answer_in_four(scale, want):
    # mean 1/4, population variance 3/16: 0.75 / 0.433013 = 1.732051
    x = {"scores": torch.tensor([[1.0, 0, 0, 0]]).double(), "mask": torch.ones(1, 4, 2, dtype=torch.bool)}
    got = METHODS["grpo"](scale=scale).credit(**x)["advantages"]
    assert got.tolist() == [[pytest.approx([a, a], abs=1e-6) for a in want]]


@pytest.mark.parametrize(("average", "long", "short"), [("response", 0.5 / 10, 0.5 / 2), ("token", 1 / 12, 1 / 12)])
def test_grpo_blames_the_tokens_of_a_long_wrong_answer_less_unless_every_token_weighs_the_same(average, long, short):
    # Two wrong answers of 10 and 2 tokens, advantage -1 each: what a step takes from each of their tokens.
    mask = torch.arange(10) < torch.tensor([10, 2])[:, None]
    x = dict.fromkeys(("old_token_logps", "ref_token_logps"), torch.full((1, 2, 10), -1.0).double())
    x |= {"advantages": -torch.ones(1, 2, 10).double(), "mask": mask[None]}
    logps = x["ref_token_logps"].clone().requires_grad_()
    loss = METHODS["grpo"](average=average).loss(token_logps=logps, **x)
    (loss.total.sum() / loss.weight.sum()).backward()
    assert logps.grad[0, 0].tolist() == pytest.approx([long] * 10)
    assert logps.grad[0, 1, :2].tolist() == pytest.approx([short] * 2)


@pytest.mark.parametrize(("estimator", "cost", "slope"), [("k3", 0.193147, 0.5), ("k2", 0.240227, 0.693147)])
def test_grpo_kl_golden(estimator, cost, slope):
    # pi = 2 pi_ref: k3 = 1/2 - 1 + log 2, its derivative 1 - 1/2; k2 = (log 2)^2 / 2, its derivative log 2
    x = one_token(token_logps=math.log(0.4), old_token_logps=-1, ref_token_logps=math.log(0.2), advantages=0)
    x["token_logps"].requires_grad_()
    loss = METHODS["grpo"](kl=1.0, estimator=estimator).loss(**x).total.sum()
    loss.backward()
    assert loss.item() == pytest.approx(cost, abs=1e-6)
    assert x["token_logps"].grad.item() == pytest.approx(slope, abs=1e-6)


def test_sft_at_uniform_logits_costs_the_log_of_the_vocabulary_per_token():
    token_logps = torch.full((1, 1, 5), 1 / 32, dtype=torch.double).log()
    loss = METHODS["sft"]().loss(token_logps=token_logps, mask=torch.ones(1, 1, 5, dtype=torch.bool))
    assert (loss.total / loss.weight).item() == pytest.approx(3.4657359027997265)  # log 32


@pytest.mark.parametrize("name", METHODS)
def test_help_on_a_method_says_what_its_file_says(name):
    assert METHODS[name].__doc__ == docstring(name)

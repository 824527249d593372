"""The real loops, from files to a saved model, in the world in which the right answer is known."""

import itertools
import json
import math

import pytest
import torch

from sparring.loops.train import train
from tests.bandit import BETA, OPTIMUM, REF, REWARD, grpo_end, ptx_end
from tests.small import write
from tests.world_of_three import ARMS, SETTINGS, make, policy, reward

CHOICE = (REWARD[:, None] - REWARD[None, :]).sigmoid()  # Bradley-Terry: how often the one wins against the other


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("three"))


def learn(world, run, method, *, data=None, feedback=(), **settings):
    model, prompts = world
    return train(
        method, model=model, data=str(data or prompts), run=run, feedback=feedback,
        settings=SETTINGS | settings, quiet=True,
    )  # fmt: skip


def test_the_model_that_all_start_from_is_the_bandits_reference(world):
    arms, rest = policy(world[0])
    assert arms == pytest.approx(REF.tolist(), abs=1e-5) and rest < 1e-9


def normalised(weight):
    return (weight / weight.sum()).tolist()


@pytest.mark.parametrize(
    ("method", "knobs", "end"),
    [
        ("dpo", {"beta": BETA}, OPTIMUM),
        ("rso", {"gamma": BETA}, OPTIMUM),
        ("cpl_kl", {"alpha": BETA, "lam": 1.0}, OPTIMUM),
        ("cpl", {"alpha": BETA, "lam": 1.0}, normalised((REWARD / BETA).exp())),
        ("simpo", {"beta": BETA, "gamma": 0.0}, normalised((REWARD / BETA).exp())),
        ("ipo", {"beta": BETA}, normalised(REF * (CHOICE - 1 / 2).mean(-1).div(BETA).exp())),
    ],
)
def test_pairs_with_the_labels_of_bradley_and_terry_lead_to_each_methods_own_end(world, tmp_path, method, knobs, end):
    # All ordered pairs, each with the probability that its first answer wins: expectations are exact.
    rows = [
        {"prompt": "ask", "chosen": f" {ARMS[i]}", "rejected": f" {ARMS[j]}", "label": float(CHOICE[i, j])}
        for i in range(3) for j in range(3) if i != j
    ]  # fmt: skip
    run = learn(
        world, tmp_path / method, method, data=write(tmp_path / "pairs.jsonl", rows),
        batch=6, steps=100, lr=0.02, eval_every=1000, **knobs,
    )  # fmt: skip
    arms, _ = policy(run)
    assert arms == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "knobs", "end"),
    [
        ("listwise_dpo", {"beta": BETA}, OPTIMUM),
        ("listwise_dpo", {"beta": BETA, "mode": "top_1"}, OPTIMUM),
        ("pro", {"sharpness": "none", "nll_weight": 0.0}, normalised(REWARD.exp())),
        ("slic", {"nll_weight": 1.0}, None),
        ("rrhf", {}, None),
    ],
)
def test_rankings_drawn_by_plackett_and_luce_lead_to_each_methods_own_end(world, tmp_path, method, knobs, end):
    # Every order as often among 200 rankings as it is likely. Rounding moves a share by at most 1/400, and with it the
    # ends by less than 0.005. The two hinge methods with a certain order (the likeliest one alone) keep only the best.
    rows = []
    for order in itertools.permutations(range(3)):
        left = [float(REWARD[list(order[k:])].logsumexp(0)) for k in range(3)]
        likely = math.exp(sum(float(REWARD[i]) for i in order) - sum(left))
        row = {"prompt": "ask", "ranked": [f" {ARMS[i]}" for i in order]}
        rows += [row] * round(200 * likely) if end is not None else [row] * (order == (0, 1, 2))
    run = learn(
        world, tmp_path / method, method, data=write(tmp_path / "rankings.jsonl", rows),
        batch=len(rows), steps=100, lr=0.02 if end is not None else 0.1, eval_every=1000, **knobs,
    )  # fmt: skip
    arms, _ = policy(run)
    if end is None:
        assert arms[0] > 0.99
    else:
        assert arms == pytest.approx(end, abs=5e-3)


def test_slic_kl_with_expected_marks_leads_to_the_optimum_of_the_reward_less_kl(world, tmp_path):
    # All arms in one ranking: what C averages is the policy itself, so L = - E[reward] + beta KL(pi | pi_ref).
    rows = [{"prompt": "ask", "ranked": [f" {arm}" for arm in ARMS], "scores": REWARD.tolist()}]
    run = learn(
        world, tmp_path / "run", "slic_kl", data=write(tmp_path / "ranking.jsonl", rows),
        form="expected", kl_weight=BETA, batch=1, steps=100, lr=0.02, eval_every=1000,
    )  # fmt: skip
    arms, _ = policy(run)
    assert arms == pytest.approx(OPTIMUM, abs=1e-3)


def test_kto_leaves_nothing_of_an_arm_that_is_bad(world, tmp_path):
    rows = [{"prompt": "ask", "response": f" {arm}", "rating": int(arm != "c")} for arm in ARMS]
    run = learn(
        world, tmp_path / "kto", "kto", data=write(tmp_path / "marks.jsonl", rows),
        beta=BETA, batch=3, steps=100, lr=0.05, eval_every=1000,
    )  # fmt: skip
    arms, _ = policy(run)
    assert arms[2] < 0.02


def test_hir_learns_from_good_and_bad_answers_alike_what_each_is_good_for(world, tmp_path):
    # Marked good: a. Marked bad: b, c. Told to be right it says a, told to be wrong one of the others, equally often.
    rows = [{"prompt": "ask", "response": f" {arm}", "rating": int(arm == "a")} for arm in ("a", "a", "b", "c")]
    run = learn(
        world, tmp_path / "hir", "hir", data=write(tmp_path / "marks.jsonl", rows), batch=4, steps=150, lr=0.02,
        eval_every=1000, good_instruction="a ", bad_instruction="b ", smoothing=0.0,
    )  # fmt: skip
    right, _ = policy(run, "a ask")
    wrong, _ = policy(run, "b ask")
    assert right == pytest.approx([1, 0, 0], abs=0.02)
    assert wrong == pytest.approx([0, 0.5, 0.5], abs=0.05)


def test_joint_feedback_learns_answers_and_what_people_thought_of_them(world, tmp_path):
    # An answer of one word and its verdict of two: "a good", "b bad", "c bad", with the words that this model knows.
    rows = [{"prompt": "ask", "response": f" {arm}", "rating": int(arm == "a")} for arm in ("a", "a", "b", "c")]
    run = learn(
        world, tmp_path / "joint", "joint_feedback", data=write(tmp_path / "marks.jsonl", rows), batch=4, steps=100,
        lr=0.02, eval_every=1000,
    )  # fmt: skip
    arms, rest = policy(run)
    assert arms == pytest.approx([0.5, 0.25, 0.25], abs=1e-3) and rest < 1e-3


def test_sft_ends_at_the_shares_of_the_demonstrations(world, tmp_path):
    rows = [{"prompt": "ask", "response": f" {arm}"} for arm, n in zip(ARMS, (1, 3, 6), strict=True) for _ in range(n)]
    run = learn(
        world, tmp_path / "sft", "sft", data=write(tmp_path / "texts.jsonl", rows),
        batch=10, steps=100, lr=0.02, eval_every=1000,
    )  # fmt: skip
    arms, rest = policy(run)
    assert arms == pytest.approx([0.1, 0.3, 0.6], abs=1e-3) and rest < 1e-3


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("reinforce", {"rounds": 80, "lr": 0.02}),
        ("rloo", {"rounds": 80, "lr": 0.02}),
        ("reinforce_value", {"rounds": 80, "lr": 0.02}),
        # A third for KL leaves two thirds for the score: the same proportions as a price of one half.
        ("reinforce_value", {"rounds": 80, "lr": 0.02, "objective": "share", "kl": 1 / 3}),
        ("ppo", {"rounds": 60, "lr": 0.02, "epochs": 2, "value_clip": 10.0, "value_weight": 1.0}),
        # Without the standard deviation its advantages are 3/4 of the score's, so 3/4 of the price means the same.
        ("grpo", {"rounds": 80, "lr": 0.02, "scale": "none", "estimator": "k2", "kl": BETA * 3 / 4}),
    ],
)
def test_sampling_methods_end_within_a_hundredth_of_the_optimum(world, tmp_path, method, settings):
    # The one prompt fills a batch of 16; its 4 answers each make 64 samples a round. Over four seeds the farthest that
    # any probability ended from the optimum was 0.004 after 60 rounds, and 0.002 after 120 (ppo: 60, with two updates
    # each). The watch only warns: in a world of three answers all of them are alike.
    run = learn(
        world, tmp_path / method, method, feedback=[reward],
        **{"kl": BETA, "batch": 16, "K": 4, "max_tokens": 1, "watch": "warn"} | settings,
    )  # fmt: skip
    arms, rest = policy(run)
    assert arms == pytest.approx(OPTIMUM, abs=0.01) and rest < 1e-3


def select(world, tmp_path, method, *, rows, **settings):
    """Learn by selecting; returns the run and what each round selected, as counts of the answers."""
    run = learn(
        world, tmp_path / method, method, data=write(tmp_path / "rows.jsonl", rows),
        **{"max_tokens": 1, "batch": 50, "steps": 40, "lr": 0.05, "temperature": 1.0} | settings,
    )  # fmt: skip
    counts = []
    for file in sorted(run.glob("rounds/*/selected.jsonl")):
        texts = [json.loads(line).get("response", "").strip() for line in file.read_text().splitlines()]
        counts.append([texts.count(arm) for arm in ARMS])
    return run, counts


ASKED = [{"prompt": "ask"}] * 100


@pytest.mark.parametrize(
    ("method", "settings", "targets"),
    [
        ("best_of_n", {"K": 4}, [[0.9375, 0.0609, 0.0016]]),
        ("raft", {"K": 2, "rounds": 2}, [[0.75, 0.21, 0.04], [0.9375, 0.0609, 0.0016]]),
        ("rest", {"K": 1, "rounds": 2, "thresholds": "0.25,0.75"}, [[0.625, 0.375, 0.0], [1.0, 0.0, 0.0]]),
        ("farl", {"K": 1, "rounds": 1, "threshold": -0.5}, [[0.625, 0.375, 0.0]]),
    ],
)
def test_methods_that_imitate_what_they_select_end_at_its_distribution(world, tmp_path, method, settings, targets):
    # What is selected is off its golden distribution by sampling (100 prompts: standard error .05 at most, and in
    # raft's second round that of its first as well); the policy ends at the shares of what was selected.
    run, counts = select(world, tmp_path, method, rows=ASKED, feedback=[reward], **settings)
    assert len(counts) == len(targets)
    for found, target in zip(counts, targets, strict=True):
        assert [n / sum(found) for n in found] == pytest.approx(target, abs=0.12)
        assert all(n == 0 for n, p in zip(found, target, strict=True) if p == 0)
    arms, rest = policy(run)
    assert arms == pytest.approx([n / sum(counts[-1]) for n in counts[-1]], abs=0.04) and rest < 1e-3


def test_pairs_of_own_samples_with_sure_labels_lead_rso_to_the_optimum(world, tmp_path):
    # Whichever pairs are drawn, the label of each is that of Bradley and Terry, so nothing of it is left to chance.
    run, _ = select(
        world, tmp_path, "sample_rank", rows=ASKED, feedback=[reward], K=6, accepted=6, sampler="policy",
        labels="soft", pairs="tournament", top_k=0, gamma=BETA, batch=100,
    )  # fmt: skip
    arms, _ = policy(run)
    assert arms == pytest.approx(OPTIMUM, abs=0.01)


def test_spin_with_beta_one_reaches_the_demonstrations_in_one_round(world, tmp_path):
    rows = [
        {"prompt": "ask", "response": f" {arm}"} for arm, n in zip(ARMS, (5, 15, 30), strict=True) for _ in range(n)
    ]
    run, _ = select(world, tmp_path, "spin", rows=rows, K=6, rounds=1, beta=1.0, batch=100)
    arms, _ = policy(run)
    # 300 samples against 50 demonstrations; the log-odds of the samples alone have a standard error near .15.
    assert arms == pytest.approx([0.1, 0.3, 0.6], abs=0.08)


@pytest.mark.parametrize("whiten", ["none", "advantages"])
def test_ppo_ptx_ends_between_the_optimum_and_its_text(world, tmp_path, whiten):
    # The ten texts are one batch, so their gradient is exact; the noise of the samples stays, as rewards still differ.
    text = [0.1, 0.3, 0.6]
    rows = [{"prompt": "ask", "response": f" {arm}"} for arm, n in zip(ARMS, (1, 3, 6), strict=True) for _ in range(n)]
    run = train(
        "ppo_ptx", model=world[0], data=world[1], run=tmp_path / whiten, feedback=[reward], quiet=True,
        pretrain=str(write(tmp_path / "texts.jsonl", rows)),
        settings=SETTINGS | {
            "kl": BETA, "whiten": whiten, "value_clip": 10.0, "value_weight": 1.0, "pretrain_weight": 0.5,
            "pretrain_batch": 10, "rounds": 50, "batch": 32, "K": 4, "max_tokens": 1, "watch": "warn", "lr": 0.02,
        },
    )  # fmt: skip
    arms, rest = policy(run)
    want = ptx_end(0.5, torch.tensor(text).double(), is_whitened=whiten == "advantages")
    assert arms == pytest.approx(want, abs=0.03) and rest < 1e-3


def test_nlpo_ends_at_the_optimum_within_the_nucleus_of_the_policy_it_began_with(world, tmp_path):
    # The likeliest two hold 0.8 of the reference, so with p = 0.75 the third is out, and the copy never catches up.
    # Among the two the optimum is ref exp(r / beta): 0.5 e^2 to 0.3.
    run = learn(
        world, tmp_path / "nlpo", "nlpo", feedback=[reward], kl=BETA, value_clip=10.0, value_weight=1.0, epochs=2,
        rounds=60, lr=0.02, batch=16, K=4, max_tokens=1, watch="warn",
        nucleus=0.75, nucleus_least=1, nucleus_every=1000,
    )  # fmt: skip
    arms, _ = policy(run)
    drawn = {json.loads(line)["response"].strip() for line in (run / "samples.jsonl").read_text().splitlines()}
    assert drawn <= {"a", "b"}
    assert arms[0] / (arms[0] + arms[1]) == pytest.approx(0.5 * math.e**2 / (0.5 * math.e**2 + 0.3), abs=0.01)


def test_grpo_with_the_kl_of_its_paper_ends_at_its_own_place(world, tmp_path):
    # Unlike above, responses differ in worth at this end, so the noise of sampling stays: large batches, falling rate.
    run = learn(
        world, tmp_path / "grpo", "grpo", feedback=[reward],
        kl=BETA, scale="none", rounds=60, lr=0.02, batch=48, K=4, max_tokens=1, watch="warn",
    )  # fmt: skip
    arms, rest = policy(run)
    assert arms == pytest.approx(grpo_end(BETA, 4), abs=0.03) and rest < 1e-3

"""The real loops, from files to a saved model, in the world in which the right answer is known."""

import json
import math

import pytest

from sparring.loops.train import train
from tests.bandit import BETA, OPTIMUM, REF, REWARD
from tests.small import write
from tests.world_of_three import ARMS, SETTINGS, make, policy, reward


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


def test_dpo_with_the_labels_of_bradley_and_terry_ends_at_the_optimum(world, tmp_path):
    # All ordered pairs, each with the probability that its first answer wins: expectations are exact.
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    rows = [
        {"prompt": "ask", "chosen": f" {ARMS[i]}", "rejected": f" {ARMS[j]}",
         "label": 1 / (1 + math.exp(float(REWARD[j] - REWARD[i])))}
        for i, j in pairs
    ]  # fmt: skip
    run = learn(
        world, tmp_path / "dpo", "dpo", data=write(tmp_path / "pairs.jsonl", rows),
        beta=BETA, batch=6, steps=100, lr=0.02, eval_every=1000,
    )  # fmt: skip
    arms, _ = policy(run)
    assert arms == pytest.approx(OPTIMUM, abs=1e-3)


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
        ("ppo", {"rounds": 60, "lr": 0.02, "epochs": 2, "value_clip": 10.0, "value_weight": 1.0}),
    ],
)
def test_sampling_methods_end_within_a_hundredth_of_the_optimum(world, tmp_path, method, settings):
    # The one prompt fills a batch of 16; its 4 answers each make 64 samples a round. Over four seeds the farthest that
    # any probability ended from the optimum was 0.004 after 60 rounds, and 0.002 after 120 (ppo: 60, with two updates
    # each). The watch only warns: in a world of three answers all of them are alike.
    run = learn(
        world, tmp_path / method, method, feedback=[reward],
        kl=BETA, batch=16, K=4, max_tokens=1, watch="warn", **settings,
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


def test_pairs_of_own_samples_with_sure_labels_lead_dpo_to_the_optimum(world, tmp_path):
    # Whichever pairs are drawn, the label of each is that of Bradley and Terry, so nothing of it is left to chance.
    run, _ = select(
        world, tmp_path, "sample_rank", rows=ASKED, feedback=[reward], K=6, accepted=6, sampler="policy",
        labels="soft", pairs="tournament", top_k=0, beta=BETA, batch=100,
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

"""The loop that differentiates through the sampler, from files to a saved model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from sparring.feedback.discriminator import Discriminator
from sparring.loops.gumbel import temperature
from sparring.loops.settings import RelaxedSettings
from sparring.methods import get
from sparring.models.backbone import load_trunk
from sparring.models.roles import Network, new_reference
from sparring.models.signals import log_probabilities
from sparring.models.update import Updater
from sparring.rollout.relaxed import Relaxation
from sparring.rollout.sample import Sampling, sample
from tests.bandit import REF, REWARD
from tests.small import machine, quick, rows, same, weights, world
from tests.world_of_three import ARMS, make

SOFT = {"form": "soft", "tau": 2.0, "tau_end": 0.5}


def test_the_temperature_goes_from_one_end_to_the_other_by_equal_factors():
    settings = RelaxedSettings(tau=4.0, tau_end=0.25)
    assert [temperature(settings, n, 5) for n in (-3, 0, 1, 2, 3, 4, 9)] == [4.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.25]
    assert temperature(RelaxedSettings(tau=0.7), 3, 5) == 0.7 and temperature(settings, 0, 1) == 4.0


RATIO = {"judge_reads": "ratio"}


@pytest.mark.parametrize(
    "settings",
    [{}, SOFT, RATIO, SOFT | RATIO],
    ids=["straight-through", "soft", "ratio", "soft-ratio"],
)
def test_a_run_goes_from_files_to_a_model_and_on_exactly_from_where_it_was_cut(tmp_path, settings):
    base = str(world() / "model") if "judge_reads" in settings else None
    run = quick("rlgaf_gumbel", tmp_path / "run", settings=settings, base=base)
    found = rows(run)
    assert len(found) == 5 and [r["judge_steps"] for r in found] == [5.0, 1.0, 1.0, 1.0, 1.0]
    assert not same(weights(run), load_file(world() / "model" / "model.safetensors"))
    assert found[1]["kl"] == pytest.approx(0.0, abs=1e-5) and found[-1]["kl"] != 0.0
    cut = shutil.copytree(run, tmp_path / "cut")
    for part in ("model", "judge", "checkpoints/step-00000005"):
        shutil.rmtree(cut / part)
    quick("rlgaf_gumbel", cut, settings=settings, base=base, resume=True)
    assert same(weights(cut), weights(run)) and same(weights(cut, "judge"), weights(run, "judge"))
    assert rows(cut) == found


def test_any_size_of_micro_batch_makes_the_same_model(tmp_path):
    settings = SOFT | {"rounds": 2, "lr": 1e-5, "judge_warmup": 5, "judge_lr": 1e-6, "save_every": 10}
    few, many = (quick("rlgaf_gumbel", tmp_path / str(n), settings=settings | {"micro_tokens": n}) for n in (1, 8192))
    # Adam makes whole steps out of gradients that are rounding and nothing else, hence a tenth for what comes after it.
    close = {"judge_loss": 1e-3, "judge_grad_norm": 1e-3, "loss": 1e-3, "kl": 1e-3, "grad_norm": 0.1}
    for one, other in zip(rows(few), rows(many), strict=True):
        for figure, far in close.items():
            assert one.get(figure, 0.0) == pytest.approx(other.get(figure, 0.0), rel=far, abs=1e-5), figure


def test_every_knob_of_the_relaxation_changes_the_run(tmp_path):
    changes = ({}, {"tau": 1.0}, {"tau_end": 0.2}, {"form": "soft"}, {"kl": 0.0})
    brief = {"rounds": 2, "judge_warmup": 1, "save_every": 10}
    runs = [weights(quick("rlgaf_gumbel", tmp_path / str(i), settings=brief | s)) for i, s in enumerate(changes)]
    assert not any(same(a, b) for i, a in enumerate(runs) for b in runs[:i])


def test_judge_and_policy_never_move_in_each_others_step(tmp_path, monkeypatch):
    networks, moved = {}, []
    score, step, learn = Discriminator.differentiable_score, Updater.step, Discriminator.learn

    def spied_score(self, batch, relaxed):
        networks["judge"] = self
        return score(self, batch, relaxed)

    def total(updater):
        return {n: p.detach().clone() for n, p in updater.weights.items()}

    def spied_step(self):
        judge = networks.get("judge")
        is_judge = judge is not None and self is judge.updater
        if judge is not None and not is_judge:
            assert all(p.grad is None for p in judge.updater.weights.values())
            before = total(judge.updater)
        row = step(self)
        if judge is not None and not is_judge:
            moved.append("policy")
            networks["policy"] = self
            assert same(before, total(judge.updater))
        return row

    def spied_learn(self, fake, *, updates=None):
        before = total(networks["policy"]) if "policy" in networks else {}
        row = learn(self, fake, updates=updates)
        if before:
            moved.append("judge")
            assert same(before, total(networks["policy"]))
            assert all(p.grad is None for p in networks["policy"].weights.values())
        return row

    monkeypatch.setattr(Discriminator, "differentiable_score", spied_score)
    monkeypatch.setattr(Updater, "step", spied_step)
    monkeypatch.setattr(Discriminator, "learn", spied_learn)
    quick("rlgaf_gumbel", tmp_path / "run", settings={"rounds": 3})
    assert moved == ["policy", "judge"] * 3


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make(tmp_path_factory.mktemp("three"))[0]


@pytest.mark.parametrize(
    ("kl", "tau", "is_soft", "least", "most"),
    [(0.0, 1.0, False, 0.95, 1.0), (0.0, 0.5, True, 0.95, 1.0), (0.5, 0.2, False, 0.86, 0.97)],
)
def test_a_policy_of_three_answers_goes_where_a_known_linear_critic_points(three, kl, tau, is_soft, least, most):
    # At a price of 1/2 the end is 0.919 for the first answer; somewhat above it, as core/relaxation.py says.
    trunk = load_trunk(three)
    policy, method = Network(trunk=trunk), get("gumbel")(kl=kl)
    reference, arms = new_reference(policy), [i[0] for i in trunk.tokenizer(ARMS)["input_ids"]]
    prompt = tuple(trunk.tokenizer(["ask"])["input_ids"][0])
    work = Relaxation(policy=policy, tau=tau, is_soft=is_soft, temperature=1.0, seed=0)
    updater = Updater(policy.trainable(), machine(), lr=0.04, total=25, max_grad_norm=1e6, schedule="cosine")
    for number in range(25):
        batch = sample(policy, [prompt], 256, Sampling(max_tokens=1), seed=number).batch
        relaxed, logps = work.unroll(batch)
        ref = log_probabilities(reference, batch, 1.0, relaxed)
        scores = (relaxed[:, arms] @ REWARD.float())[None]
        kls = (logps.exp() * (logps - ref)).sum(-1)[None, :, None]
        updater.backward(method.loss(relaxed_scores=scores, step_kls=kls, mask=batch.mask))
        updater.step()
    with torch.no_grad():
        found = log_probabilities(policy, batch, 1.0)[0, arms].exp()
    assert least < found[0] <= most and found[2] < REF[2] / 4

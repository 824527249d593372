"""What a plan counts is what a run does: by the passes that a real run makes, and by hand."""

from collections import defaultdict

import pytest
import torch

from sparring.loops.gumbel import RelaxedLearner
from sparring.loops.job import Job, make_job
from sparring.loops.plan import plan
from sparring.models.roles import Network
from sparring.rollout.relaxed import Relaxation
from tests.small import JUDGE, ONLINE, quick, world

SHORT = {"batch": 4, "K": 2, "max_tokens": 6, "rounds": 2, "device": "cpu", "precision": "fp32", "held_out": 0.0}


def job_of(method: str, settings: dict, **more) -> Job:
    return make_job(method, model=str(world() / "model"), data=str(world() / "texts.jsonl"), run="none",
                    settings=settings, **more)  # fmt: skip


# What learns through relaxed tokens


def test_a_plan_goes_through_a_round_of_the_learner_that_the_run_has():
    found = plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT))
    assert {"sampling", "scoring", "reading", "training", "judge"} <= found.seconds.keys()


@pytest.mark.parametrize("form", ["straight_through", "soft"])
def test_what_the_reference_and_the_judge_read_of_a_relaxed_run_is_counted(form, tmp_path, monkeypatch):
    seen, drawn = defaultdict(int), []
    states, known, unroll = Network.states, RelaxedLearner.known, Relaxation.unroll

    def tokens(batch):
        return int(batch.prompt_mask.sum() + batch.mask.sum())

    def spied_states(self, batch, relaxed=None):
        seen[id(self), torch.is_grad_enabled() and relaxed is not None] += tokens(batch)
        return states(self, batch, relaxed)

    def spied_known(self, rollout, rewards, by_token=None):
        drawn.append(tokens(rollout.batch))
        roles.update(policy=self.networks.policy, reference=self.networks.reference, judge=self.judge.network)
        return known(self, rollout, rewards, by_token)

    def spied_unroll(self, batch):
        seen["unrolled"] += tokens(batch)
        return unroll(self, batch)

    roles: dict[str, Network] = {}
    monkeypatch.setattr(Network, "states", spied_states)
    monkeypatch.setattr(RelaxedLearner, "known", spied_known)
    monkeypatch.setattr(Relaxation, "unroll", spied_unroll)
    # The judge only scores here, so that all it reads is counted by rounds.
    settings = JUDGE | SHORT | {"judge_warmup": 0, "judge_steps": 0, "judge_held_out": 0.0, "form": form}
    quick("rlgaf_gumbel", tmp_path / "run", settings=settings)
    read = {name: sum(n for key, n in seen.items() if key[0] == id(role)) for name, role in roles.items()}
    whole, passed = sum(drawn), seen[id(roles["judge"]), True]
    assert (seen["unrolled"], passed, read["reference"]) == (whole, whole, 2 * whole)
    by_policy = read["policy"] / whole  # what it relaxes for the judge, which scores softly what was drawn hard
    assert (read["judge"], by_policy) == (2 * whole, 1 if form == "soft" else 0)

    work = plan(job_of("rlgaf_gumbel", ONLINE | settings), from_config=True).work
    assert work.judged == work.trained and work.read == (2 + 1 + by_policy) * work.trained


def test_a_relaxed_run_holds_the_reference():
    standing = plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT), from_config=True).standing
    assert standing["reference"] == standing["judge"] == standing["weights"]


def test_a_reference_that_gives_whole_distributions_reads_and_is_held_like_any_other():
    data = str(world() / "pairs.jsonl")
    settings = {"steps": 2, "held_out": 0.0, "device": "cpu", "precision": "fp32"}
    job = make_job("slic_kl", model=str(world() / "model"), data=data, run="none", settings=settings)
    found = plan(job, from_config=True)
    assert found.work.read == found.work.trained and found.standing["reference"] == found.standing["weights"]

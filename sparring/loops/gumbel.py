"""The loop that differentiates through the sampler.

It needs one of its own because the others hand the policy numbers: what a response scored, how likely it was. Here
the policy is handed a gradient. While it learns, its responses are unrolled again in relaxed tokens, each fed back
to it, the judge reads them with its weights standing still, and the gradient of what it says goes back through every
token into the policy. So sampler, judge and policy are one graph for as long as a step lasts.

All else is as in online.py, and shared with it: rounds, sampling, figures, the judge's lessons and rest, checkpoints,
the watch. What is its own is how the policy learns from a round, which this file gives to those rounds.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.registry import needs
from sparring.data.batch import Batch
from sparring.feedback.discriminator import Discriminator
from sparring.loops.learner import in_parts, minibatches
from sparring.loops.pretrain import Pretraining
from sparring.loops.settings import OnlineSettings, RelaxedSettings
from sparring.models.machine import Machine
from sparring.models.roles import Networks
from sparring.models.signals import compute, log_probabilities
from sparring.models.update import Updater
from sparring.rollout.relaxed import Relaxation
from sparring.rollout.sample import Rollout

NUMBERS = 2**25  # entries of one tensor with a number for every token of the vocabulary: 128 MB in 32 bits


def temperature(settings: RelaxedSettings, number: int, rounds: int) -> float:
    """The temperature of round `number`, counted from 0: from tau to tau_end by equal factors."""
    if not settings.tau_end or rounds < 2:
        return settings.tau
    return settings.tau * (settings.tau_end / settings.tau) ** (min(max(number, 0), rounds - 1) / (rounds - 1))


@dataclass(frozen=True, kw_only=True)
class RelaxedLearner:
    """The policy's side of a round: its equation, its weights, the judge it learns from, and how tokens are relaxed."""

    method: Any
    networks: Networks
    judge: Discriminator
    relaxation: Relaxation
    updater: Updater
    machine: Machine
    settings: OnlineSettings
    relaxed: RelaxedSettings
    micro_tokens: int
    pretraining: Pretraining | None = None

    def at(self, price: float) -> "RelaxedLearner":
        """The same where a nat of KL costs this much."""
        return replace(self, method=replace(self.method, kl=price))

    def follow(self, number: int) -> None:
        """Take the temperature of round `number` of the policy, counted from 0; below 0 only the judge learns."""
        self.relaxation.tau = temperature(self.relaxed, number, self.settings.rounds)

    def known(self, rollout: Rollout, rewards: Tensor, by_token: Tensor | None = None) -> dict[str, Tensor]:
        """What the figures of the round are made from; the policy learns from none of it."""
        assert by_token is None, "_relaxed_problem refuses judges of prefixes"
        batch, parts = rollout.batch, []
        with self.machine.computing():
            for start, stop in in_parts(batch, self.micro_tokens):
                parts.append(compute(["ref_token_logps"], batch.rows(start, stop), self.networks)["ref_token_logps"])
        return {"scores": rewards, "old_token_logps": rollout.token_logps, "ref_token_logps": torch.cat(parts)}

    def improve(self, batch: Batch, known: dict[str, Tensor], number: int) -> dict[str, float]:
        """Make the optimizer steps of one round."""
        figures = [self._step(batch.take(mine)) for mine in minibatches(self.settings, self.machine, number)]
        mean = {n: sum(f[n] for f in figures) / len(figures) for n in figures[0]}
        return mean | {"lr": figures[-1]["lr"]}

    def _step(self, batch: Batch) -> dict[str, float]:
        """Make one optimizer step on these prompts, of which there may be none in this process."""
        if self.pretraining is not None:
            self.pretraining.add()
        limit = min(self.micro_tokens, NUMBERS // len(self.networks.policy.trunk.embedding))
        for start, stop in in_parts(batch, limit):
            part = batch.rows(start, stop)
            with self.machine.computing():
                signals = self._signals(part)
                loss = self.method.loss(**{n: signals[n] for n in needs(self.method.loss)})
            self.updater.backward(loss, part.where)
        return self.updater.step()

    def _signals(self, batch: Batch) -> dict[str, Tensor]:
        """Unroll the policy and ask judge and reference about what it then reads."""
        relaxed, logps = self.relaxation.unroll(batch)
        assert self.networks.reference is not None
        ref_logps = log_probabilities(self.networks.reference, batch, self.networks.temperature, relaxed)
        kls = (logps.exp() * (logps - ref_logps)).sum(-1)
        return {
            "relaxed_scores": self.judge.differentiable_score(batch, relaxed),
            "step_kls": torch.zeros(batch.mask.shape, device=kls.device).masked_scatter(batch.mask, kls),
            "mask": batch.mask,
        }

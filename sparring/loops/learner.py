"""What the policy learns from one round of samples: credit over the whole round, then the optimizer's steps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.credit import normalise_batch
from sparring.core.loss import Loss
from sparring.core.registry import needs, welcomes
from sparring.core.seeds import rng
from sparring.data.batch import Batch
from sparring.loops.pretrain import Pretraining
from sparring.loops.settings import OnlineSettings, RewardSettings
from sparring.models.machine import Machine
from sparring.models.roles import Networks
from sparring.models.signals import compute
from sparring.models.update import Updater
from sparring.rollout.sample import Rollout

MOVING = ("token_logps", "values")
FIXED = ("ref_token_logps", "old_values")


def total_updates(settings: OnlineSettings) -> int:
    """How many optimizer steps the policy makes; rounds in which only a judge learns are not among them."""
    return settings.rounds * settings.epochs * min(settings.minibatches, settings.batch)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The policy's side of a round: its equation, its weights, and what it is compared with."""

    method: Any
    networks: Networks
    updater: Updater
    machine: Machine
    settings: OnlineSettings
    reward: RewardSettings
    micro_tokens: int
    pretraining: Pretraining | None = None

    def at(self, price: float) -> "Learner":
        """The same where a nat of KL costs this much, in credit and loss alike."""
        return replace(self, method=replace(self.method, kl=price))

    def known(self, rollout: Rollout, rewards: Tensor, by_token: Tensor | None = None) -> dict[str, Tensor]:
        """Everything that stays fixed while the policy is trained on this round; `rewards` are what it is paid.

        `by_token` [B, K, T] are the parts of it that tokens earned by themselves, if the judge says so.
        """
        batch, asked = rollout.batch, needs(self.method.credit) + needs(self.method.loss)
        fixed = [n for n in FIXED if n in asked]
        known = {"scores": rewards, "mask": batch.mask, "old_token_logps": rollout.token_logps}
        known |= {} if by_token is None else {"token_scores": by_token}
        parts = []
        with torch.no_grad(), self.machine.computing():
            for start, stop in in_parts(batch, self.micro_tokens):
                parts.append(compute(fixed, batch.rows(start, stop), self.networks))
        known |= {n: torch.cat([p[n] for p in parts]) for n in fixed}
        return known | self._credit(known)

    def _credit(self, known: dict[str, Tensor]) -> dict[str, Tensor]:
        """Credit is given over the whole round, also when several processes hold parts of it."""
        machine, method = self.machine, self.method
        names = needs(method.credit) + [n for n in welcomes(method.credit) if n in known]
        mine = [{n: known[n][b].cpu() for n in names} for b in range(len(known["mask"]))]
        everyone = machine.join(mine)
        whole = {n: _stack([one[n] for one in everyone]) for n in names}
        if self.reward.scores == "whitened":  # here alone, so that figures stay in the judge's units
            whole["scores"] = normalise_batch(whole["scores"])
        given = method.credit(**whole)
        width = known["mask"].shape[-1]
        return {n: v[machine.rank :: machine.world, ..., :width].to(machine.device) for n, v in given.items()}

    def improve(self, batch: Batch, known: dict[str, Tensor], number: int) -> dict[str, float]:
        """Make the optimizer steps of one round."""
        machine, settings = self.machine, self.settings
        figures: list[dict[str, float]] = []
        for epoch in range(settings.epochs):
            for mine in minibatches(settings, machine, number, epoch):
                figures.append(self._step(batch, known, mine))
        mean = {n: sum(f[n] for f in figures) / len(figures) for n in figures[0]}
        return mean | {"ratio_max": max(f["ratio_max"] for f in figures), "lr": figures[-1]["lr"]}

    def _step(self, batch: Batch, known: dict[str, Tensor], chosen: Tensor) -> dict[str, float]:
        """Make one optimizer step on the prompts of these places, of which there may be none in this process."""
        mine = batch.take(chosen)
        held = {n: v[chosen] for n, v in known.items()}
        furthest, clipped, tokens = 1.0, 0.0, 0.0
        if self.pretraining is not None:
            self.pretraining.add()
        critic = self.networks.critic
        learn = self._learn if critic is None or critic.adapter is None else self._learn_in_turns
        for start, stop in in_parts(mine, self.micro_tokens):
            part, fixed = mine.rows(start, stop), {n: v[start:stop] for n, v in held.items()}
            token_logps = learn(part, fixed)
            ratio = (token_logps - fixed["old_token_logps"])[part.mask].exp()
            furthest = max(furthest, float(ratio.max()))
            clipped += float(((ratio - 1).abs() > getattr(self.method, "clip", float("inf"))).sum())
            tokens += ratio.numel()
        row = self.updater.step()
        all_furthest, all_clipped, all_tokens = zip(*self.machine.gather([(furthest, clipped, tokens)]), strict=True)
        return row | {"ratio_max": max(all_furthest), "clip_fraction": sum(all_clipped) / sum(all_tokens)}

    def _learn(self, part: Batch, fixed: dict[str, Tensor]) -> Tensor:
        """Add the gradient of some prompts; returns the log-probabilities that the policy gives their responses."""
        names = [n for n in needs(self.method.loss) if n in MOVING]
        with self.machine.computing():
            now = compute(names, part, self.networks)
            loss = self._loss(fixed | now)
        self.updater.backward(loss, part.where)
        return now["token_logps"].detach()

    def _learn_in_turns(self, part: Batch, fixed: dict[str, Tensor]) -> Tensor:
        """Do the same where the critic reads every token once more: its graph is made when the policy's is gone.

        The loss then needs values before there are any, and is told the old ones: no equation here lets the policy's
        gradient depend on values. Of one that does, the policy gets the rest of its gradient in a pass of its own.
        """
        with self.machine.computing():
            token_logps = compute(["token_logps"], part, self.networks)["token_logps"]
            values = fixed.get("old_values", torch.zeros_like(token_logps))
            loss = self._loss(fixed | {"token_logps": token_logps, "values": values})
        token_logps.retain_grad()
        self.updater.backward(loss, part.where, counts=False)
        leaf = token_logps.detach().requires_grad_()
        with self.machine.computing():
            now = {"token_logps": leaf} | compute(["values"], part, self.networks)
            loss = self._loss(fixed | now)
        self.updater.backward(loss, part.where)
        assert leaf.grad is not None and token_logps.grad is not None
        rest = leaf.grad - token_logps.grad
        if bool(rest.any()):
            with self.machine.computing():
                again = compute(["token_logps"], part, self.networks)["token_logps"]
            again.backward(rest)
        return leaf.detach()

    def _loss(self, signals: dict[str, Tensor]) -> Loss:
        return self.method.loss(**{n: signals[n] for n in needs(self.method.loss)})


def minibatches(settings: OnlineSettings, machine: Machine, *place: int) -> Iterator[Tensor]:
    """Deal the prompts of a round to its updates, at random by its `place` in the run; yields this process's."""
    order = torch.from_numpy(rng(settings.seed, "minibatches", *place).permutation(settings.batch))
    for chosen in order.tensor_split(min(settings.minibatches, settings.batch)):
        yield chosen[chosen % machine.world == machine.rank] // machine.world


def in_parts(batch: Batch, limit: int) -> list[tuple[int, int]]:
    """Split a batch into runs of prompts of at most `limit` padded tokens, a prompt at least."""
    width = batch.prompt_ids.shape[1] + batch.mask.shape[1] * batch.mask.shape[2]
    size = max(1, limit // width)
    return [(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]


def _stack(parts: list[Tensor]) -> Tensor:
    """Join prompts of several processes, whose longest responses may differ; scores [K] have no tokens to pad."""
    if parts[0].dim() < 2:
        return torch.stack(parts)
    width = max(p.shape[-1] for p in parts)
    return torch.stack([torch.nn.functional.pad(p, (0, width - p.shape[-1])) for p in parts])

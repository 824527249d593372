"""From losses to a step of the optimizer, with the one division in the library.

Losses come as sums and weights. Gradients of the sums are added over micro-batches and processes, the
weights likewise, and then the gradient is divided once. So a batch gives the same step however it was
split.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparring.core.errors import Diverged
from sparring.core.loss import Loss, Tally, add, figures, tally
from sparring.models.machine import Machine


def learning_rate(step: int, *, peak: float, total: int, warmup: float, schedule: str) -> float:
    """The rate of one step (counted from 0): a linear rise over the warm-up, then constant or down a half cosine."""
    rising = math.ceil(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    done = (step - rising) / max(1, total - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Updater:
    """The weights of one role and their optimizer."""

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        machine: Machine,
        *,
        lr: float,
        total: int,
        warmup: float = 0.0,
        schedule: str = "constant",
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.weights = {n: p for n, p in weights.items() if p.requires_grad}
        self.machine, self.max_grad_norm = machine, max_grad_norm
        self._rate = {"peak": lr, "total": total, "warmup": warmup, "schedule": schedule}
        self.optimizer = torch.optim.AdamW(list(self.weights.values()), lr=lr, weight_decay=weight_decay)
        self.steps = 0
        self._counted: list[Tally] = []

    def backward(self, loss: Loss, where: tuple[str, ...] = ()) -> None:
        """Add the gradient of one micro-batch. Raises Diverged, naming the rows, when the loss is not finite."""
        bad = (~loss.total.detach().isfinite()).nonzero()[:, 0].tolist()
        if bad:
            rows = ", ".join(where[i] or f"row {i}" for i in bad[:5]) if where else f"rows {bad[:5]}"
            raise Diverged(f"the loss is not finite at step {self.steps + 1}; the rows are {rows}")
        self._counted.append(tally(loss))
        if loss.total.requires_grad:
            loss.total.sum().backward()

    def step(self) -> dict[str, float]:
        """Divide, clip, and move the weights; returns the figures of the step. Raises Diverged on a broken gradient."""
        counted = self.machine.sum_tally(add(self._counted))
        self._counted = []
        weight = counted["loss"][1]
        grads = [p.grad for p in self.weights.values() if p.grad is not None]
        for grad in grads:
            if self.machine.world > 1:
                grad.copy_(self.machine.sum(grad))
            grad /= weight  # the only division in the library
        norm = float(nn.utils.clip_grad_norm_(self.weights.values(), self.max_grad_norm))
        if not math.isfinite(norm):
            raise Diverged(f"the gradient is not finite at step {self.steps + 1}")
        rate = learning_rate(self.steps, **self._rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return figures(counted) | {"grad_norm": norm, "lr": rate}

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer and place in the schedule."""
        kept = self.optimizer.state_dict()
        return {"weights": {n: p.detach() for n, p in self.weights.items()}, "optimizer": kept, "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def micro_batches(sizes: list[int], limit: int) -> list[list[int]]:
    """Split the rows of a batch into parts of at most `limit` padded tokens, rows of similar size together.

    `sizes` are tokens a row; a row that is longer than the limit is a part of its own.
    """
    parts: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        widest = max(widest, sizes[i])
        if parts and widest * (len(parts[-1]) + 1) <= limit:
            parts[-1].append(i)
        else:
            parts.append([i])
            widest = sizes[i]
    return parts

"""From losses to a step of the optimizer, with the one division in the library.

Losses come as sums and weights. Gradients of the sums are added over micro-batches and processes, the
weights likewise, and then the gradient is divided once. So a batch gives the same step however it was
split.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.errors import Diverged, RunError
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


def fitting_rate(weights: int, *, is_adapter: bool) -> float:
    """Suggest a peak learning rate for a model of so many weights: 2e-4 at 7 million, falling with the square root.

    That is 5e-5 for 124 million, 1.4e-5 for 1.4 billion and 6e-6 for 7 billion, near what papers use at these
    sizes. Adapters start from nothing and take ten times as much, up to 3e-4.
    """
    rate = min(1e-3, 2e-4 * (7e6 / weights) ** 0.5)
    return max(rate, min(3e-4, 10 * rate)) if is_adapter else rate


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
        head_rate: float = 1.0,
    ) -> None:
        """Make the optimizer; a scalar head among the weights learns `head_rate` times as fast as the rest."""
        self.weights = {n: p for n, p in weights.items() if p.requires_grad}
        self.machine, self.max_grad_norm = machine, max_grad_norm
        self._peak, self._total, self._warmup, self._schedule = lr, total, warmup, schedule
        heads = {n for n in self.weights if n.startswith("head.") or ".head." in n} if head_rate != 1 else set()
        groups = [
            {"params": [p for n, p in self.weights.items() if (n in heads) is is_head], "rate": rate}
            for is_head, rate in ((False, 1.0), (True, head_rate))
        ]
        # Fused: one pass over weights and moments, with no copies of them on the way.
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=lr, weight_decay=weight_decay, fused=True
        )
        self.steps = 0
        self._counted: list[Tally] = []
        self._aside: dict[str, Tensor] = {}
        self._aside_figures: dict[str, float] = {}

    def backward(self, loss: Loss, where: tuple[str, ...] = (), *, counts: bool = True) -> None:
        """Add the gradient of one micro-batch. Raises Diverged, naming the rows, when the loss is not finite.

        A loss that does not count leaves the weights and figures of the micro-batch to another one of it.
        """
        bad = (~loss.total.detach().isfinite()).nonzero()[:, 0].tolist()
        if bad:
            names = [where[i] if i < len(where) and where[i] else f"row {i}" for i in bad[:5]]
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise Diverged(f"the loss is not finite at step {self.steps + 1}; it comes from {', '.join(names)}{more}")
        if counts:
            self._counted.append(tally(loss))
        if loss.total.requires_grad:
            loss.total.sum().backward()

    def set_aside(self, name: str, weight: float) -> None:
        """Divide what was added up so far, and keep `weight` times it for the next step beside what comes now.

        The step reports its mean loss under `name`.
        """
        top, bottom = self._divide()["loss"]
        self._aside_figures[name] = top / bottom
        for n, p in self.weights.items():
            if p.grad is not None:
                self._aside[n] = weight * p.grad + self._aside.get(n, 0.0)
                p.grad = None

    def step(self) -> dict[str, float]:
        """Divide, clip, and move the weights; returns the figures of the step. Raises Diverged on a broken gradient."""
        counted = self._divide()
        for n, grad in self._aside.items():
            own = self.weights[n].grad
            self.weights[n].grad = grad if own is None else own + grad
        told, self._aside, self._aside_figures = self._aside_figures, {}, {}
        norm = float(nn.utils.clip_grad_norm_(self.weights.values(), self.max_grad_norm))
        if not math.isfinite(norm):
            raise Diverged(f"the gradient is not finite at step {self.steps + 1}")
        rate = learning_rate(
            self.steps, peak=self._peak, total=self._total, warmup=self._warmup, schedule=self._schedule
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return figures(counted) | told | {"grad_norm": norm, "lr": rate}

    def _divide(self) -> Tally:
        """Divide the gradients of sums by the sum of the weights; returns what was counted."""
        counted = self.machine.sum_tally(add(self._counted))
        self._counted = []
        for grad in self._gradients():
            grad /= counted["loss"][1]  # the only division in the library
        return counted

    def _gradients(self) -> list[Tensor]:
        """The gradients, added over all processes; a process whose share was empty has none of its own to add."""
        weights = list(self.weights.values())
        if self.machine.world > 1:
            has = self.machine.sum(
                torch.tensor([float(p.grad is not None) for p in weights], device=self.machine.device)
            )
            for weight, count in zip(weights, has.tolist(), strict=True):
                if count:
                    own = torch.zeros_like(weight) if weight.grad is None else weight.grad
                    weight.grad = self.machine.sum(own)
        return [p.grad for p in weights if p.grad is not None]

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer and place in the schedule. Raises Diverged rather than hand out broken weights."""
        broken = [n for n, p in self.weights.items() if not bool(p.detach().isfinite().all())]
        if broken:
            raise Diverged(f"weights are not finite after step {self.steps}, {broken[0]} among them")
        kept = self.optimizer.state_dict()
        return {"weights": {n: p.detach() for n, p in self.weights.items()}, "optimizer": kept, "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned. Raises RunError when a part of it is missing or is another model's."""
        kept = state.get("optimizer", {})
        if "state" not in kept or (state.get("steps") and not kept["state"]):
            raise RunError("the checkpoint holds no optimizer state, so the run cannot go on exactly; start a new one")
        if state.get("weights", {}).keys() != self.weights.keys():
            raise RunError("the checkpoint holds the weights of another model or of another kind of adapter")
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(kept)
        self.steps = state["steps"]


def micro_batches(sizes: list[int], limit: int) -> list[list[int]]:
    """Split the rows of a batch into parts of at most `limit` padded tokens, rows of similar size together.

    `sizes` are tokens a row; a row that is longer than the limit is a part of its own.
    """
    parts: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        # Rows come by size, so this one is the widest of its part.
        if parts and sizes[i] * (len(parts[-1]) + 1) <= limit:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts

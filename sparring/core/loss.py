"""What a loss returns: a numerator, a denominator, and the reward it implies. Only the loop divides."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss per prompt, not yet averaged.

    Averages of averages are wrong when the parts differ in size, so a method never takes the mean. It
    says how much each prompt adds, and how much it weighs (one for a pair, the number of tokens for a
    token loss). The loop sums both over micro-batches and processes, then divides once.

    `reward` is what the method believes each response is worth, if it believes anything; margins and
    accuracies are computed from it in one place, the same way for every method.
    """

    total: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    reward: Float[Tensor, "B K"] | None = None


Tally = dict[str, tuple[float, float]]
"""Figures that are still sums: name to (numerator, denominator), so that parts of a batch can be added."""


def per_prompt(total: Float[Tensor, " B"], reward: Float[Tensor, "B K"] | None = None) -> Loss:
    """Make a loss in which every prompt weighs the same."""
    return Loss(total, torch.ones_like(total), reward)


def tally(loss: Loss) -> Tally:
    """Count one micro-batch: the loss, and how well the implied reward agrees with the order of the responses."""
    row = {"loss": (float(loss.total.detach().sum()), float(loss.weight.sum()))}
    if loss.reward is not None and loss.reward.shape[1] > 1:
        reward = loss.reward.detach()
        first, last, prompts = reward[:, 0], reward[:, -1], float(len(reward))
        neighbours = (reward[:, :-1] > reward[:, 1:]).double() + 0.5 * (reward[:, :-1] == reward[:, 1:]).double()
        row |= {
            "reward_accuracy": (float(neighbours.mean(-1).sum()), prompts),
            "reward_margin": (float((first - last).sum()), prompts),
            "reward_best": (float(first.sum()), prompts),
            "reward_worst": (float(last.sum()), prompts),
        }
    return row


def add(tallies: list[Tally]) -> Tally:
    """Add figures of several micro-batches or processes."""
    out: Tally = {}
    for part in tallies:
        for name, (top, bottom) in part.items():
            a, b = out.get(name, (0.0, 0.0))
            out[name] = (a + top, b + bottom)
    return out


def figures(counted: Tally) -> dict[str, float]:
    """Divide at last: the averages of a tally, without those that have no weight."""
    return {name: top / bottom for name, (top, bottom) in counted.items() if bottom}

"""What a loss returns: a numerator, a denominator, and the reward it implies. Only the loop divides."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss per prompt, not yet averaged.

    Averages of averages are wrong when the parts differ in size, so a method never takes the mean. It
    says how much each prompt adds, and how much it weighs (one for a pair, the number of tokens for a
    token loss). The loop sums both over micro-batches and processes, then divides once.

    `reward` is what the method believes each response is worth, if it believes anything; margins and
    accuracies are computed from it in one place, the same way for every method. `pairs` says for each
    ordered pair whether the first was marked better; the loop adds it, and None means that all responses
    are there, best first.
    """

    total: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    reward: Float[Tensor, "B K"] | None = None
    pairs: Bool[Tensor, "B K K"] | None = None


Tally = dict[str, tuple[float, float]]
"""Figures that are still sums: name to (numerator, denominator), so that parts of a batch can be added."""


def per_prompt(total: Float[Tensor, " B"], reward: Float[Tensor, "B K"] | None = None) -> Loss:
    """Make a loss in which every prompt weighs the same."""
    return Loss(total, torch.ones_like(total), reward)


def tally(loss: Loss) -> Tally:
    """Count one micro-batch: the loss, and how well the implied reward agrees with the order of the responses.

    Every prompt with a pair to compare weighs the same, however many pairs it has.
    """
    row = {"loss": (float(loss.total.detach().sum()), float(loss.weight.sum()))}
    if loss.reward is None or loss.reward.shape[1] == 1:
        return row
    reward = loss.reward.detach().double()
    pairs = _best_first(reward) if loss.pairs is None else loss.pairs
    compared = pairs.sum((-1, -2))
    gap = reward[:, :, None] - reward[:, None, :]
    found = {
        "reward_accuracy": ((gap.sign() + 1) / 2).where(pairs, 0.0).sum((-1, -2)),
        "reward_margin": gap.where(pairs, 0.0).sum((-1, -2)),
        "reward_best": (reward[:, :, None] * pairs).sum((-1, -2)),
        "reward_worst": (reward[:, None, :] * pairs).sum((-1, -2)),
    }
    prompts = float((compared > 0).sum())
    return row | {name: (float((x / compared.clamp(min=1)).sum()), prompts) for name, x in found.items()}


def _best_first(reward: Float[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    B, K = reward.shape
    return torch.ones(K, K, dtype=torch.bool, device=reward.device).triu(1).expand(B, K, K)


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

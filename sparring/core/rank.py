"""What losses over pairs and rankings share: the odds of a choice, who competes with whom, what a draw costs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.core.masked import places


def bradley_terry(z: Float[Tensor, " B"], label: Float[Tensor, " B"] | float | None) -> Float[Tensor, " B"]:
    """Give the loss, in nats, of a choice with log-odds z; `label` is how likely it was right, None for certain."""
    p = 1.0 if label is None else label
    return -p * logsigmoid(z) - (1 - p) * logsigmoid(-z)


def marks_of(ratings: Float[Tensor, "B K"] | None, mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
    """Take the data's marks, or, where it gives none, the places of the responses."""
    return places(mask) if ratings is None else ratings


def draws(
    h: Float[Tensor, "B K"], marks: Float[Tensor, "B K"], here: Bool[Tensor, "B K"]
) -> tuple[Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Give the Plackett-Luce loss of drawing each response from those marked no better, and which draws count.

    h are utilities in nats, marks fall from best to worst, `here` tells which responses there are. A draw in
    which there is nobody else to be drawn costs nothing and does not count.
    """
    rivals = (marks[:, None, :] <= marks[:, :, None]) & here[:, None, :]
    pool = h[:, None, :].expand(rivals.shape).masked_fill(~rivals, -torch.inf)
    pool = pool.masked_fill(~here[:, :, None], 0.0)  # a response that is not there has no rivals, not even itself
    return (pool.logsumexp(-1) - h).where(here, 0.0), here & (rivals.sum(-1) > 1)


def better(marks: Float[Tensor, "B K"], here: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    """Tell for each ordered pair (i, j) whether response i is marked better than j; equals are not compared."""
    return (marks[:, :, None] > marks[:, None, :]) & here[:, :, None] & here[:, None, :]

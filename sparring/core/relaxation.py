"""Tokens that a gradient passes through: a draw from a softmax as a smooth function of its logits.

    y = argmax_v z_v,    z = logits + g,    g ~ Gumbel(0, 1)          then y ~ softmax(logits)
    soft = softmax(z / tau)                                           one-hot for tau -> 0, uniform for tau -> infinity
    straight-through:  the value of onehot(y), the gradient of soft

The gradient of sum_v c_v soft_v in the logits is (diag(soft) - soft soft^T) c / tau.

Its mean is not the gradient of the mean: for two tokens whose logits differ by d it is the true one, the logistic
density at d, convolved with that density at tau times its width. Where the policy is nearly sure, it is too large by
pi tau / sin(pi tau): 1.07 times at tau 0.2, 1.57 at 0.5, and without any bound from 1 on. There a price of KL that
would hold the policy against an honest gradient does not. Below, the price is the variance, which rises as 1 / tau.

A token that has been drawn already, or that a person wrote, has noise too: that which would have made it the largest.
`noise_given` draws it. Drawing y from the softmax and then the noise given y is the same as drawing the noise and
taking the largest, so nothing is lost by sampling first; and real text is relaxed just as the policy's own is.

Source: Jang et al. 2016, arXiv:1611.01144, and Maddison et al. 2016, arXiv:1611.00712; noise given the token:
Maddison et al. 2014, arXiv:1411.0030, section 3, and Paulus et al. 2020, arXiv:2010.04838.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

LEAST = 1e-20  # a uniform number in 32 bits can be 0, whose logarithm is not finite


def gumbel(uniform: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
    """Turn uniform numbers from [0, 1) into Gumbel(0, 1) noise."""
    return -(-uniform.clamp(min=LEAST).log()).clamp(min=LEAST).log()


@torch.no_grad()
def noise_given(
    logits: Float[Tensor, "*N V"], tokens: Int[Tensor, "*N"], uniform: Float[Tensor, "*N V"]
) -> Float[Tensor, "*N V"]:
    """Draw Gumbel noise on the condition that `tokens` win: the largest sum first, then all others below it."""
    g, at = gumbel(uniform), tokens[..., None]
    top = logits.logsumexp(-1, keepdim=True) + g.gather(-1, at)
    below = -torch.logaddexp(-(logits + g), -top)
    return below.scatter(-1, at, top) - logits


def relax(
    logits: Float[Tensor, "*N V"], noise: Float[Tensor, "*N V"], tau: float, *, tokens: Int[Tensor, "*N"] | None = None
) -> Float[Tensor, "*N V"]:
    """Relax the draw that this noise makes; with `tokens` straight through: their one-hots, and the soft gradient."""
    soft = ((logits + noise) / tau).softmax(-1)
    if tokens is None:
        return soft
    # In this order: the difference is exactly 0, so that the sum is exactly one-hot.
    return one_hot(tokens, logits.shape[-1]).to(soft.dtype) + (soft - soft.detach())

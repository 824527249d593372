"""The parts of a loss that may be made several times from the same samples."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def clipped(
    token_logps: Float[Tensor, "B K T"],
    old_token_logps: Float[Tensor, "B K T"],
    advantages: Float[Tensor, "B K T"],
    mask: Bool[Tensor, "B K T"],
    clip: float,
) -> Float[Tensor, "B K T"]:
    """Turn advantages into a loss per token that stops paying when the ratio is `clip` away from 1; 0 on padding.

    At the policy that sampled, its gradient is the policy gradient (arXiv:1707.06347, equation 7).
    """
    # Padding is cleared first: a NaN there would survive in the gradient although a sum leaves it out.
    ratio = (token_logps - old_token_logps).where(mask, 0.0).exp()
    gain = advantages.where(mask, 0.0)
    return torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))

"""Sums and means over response tokens. A mask is always passed, never guessed from values."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"]) -> Float[Tensor, "*B"]:
    """Sum over tokens. Padding may hold anything, even NaN."""
    return x.where(mask, 0.0).sum(-1)


def masked_mean(x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"]) -> Float[Tensor, "*B"]:
    """Average over tokens; zero for an empty response."""
    return masked_sum(x, mask) / mask.sum(-1).clamp(min=1)


def exists(mask: Bool[Tensor, "B K T"]) -> Bool[Tensor, "B K"]:
    """Tell which responses there are; a shorter ranking has fewer than the batch has room for."""
    return mask.any(-1)


def places(mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
    """Mark responses by their place, one apart, the last one 0: what marks mean where the data gives none."""
    here = exists(mask)
    return (here.sum(-1, keepdim=True) - here.cumsum(-1)).where(here, 0).double()


def whiten(x: Float[Tensor, "*B"], mask: Bool[Tensor, "*B"], *, shift_mean: bool = True) -> Float[Tensor, "*B"]:
    """Shift and scale so that the unmasked entries have mean 0 and (population) standard deviation 1; 0 elsewhere.

    With `shift_mean` off the mean is put back afterwards. A constant input becomes 0, or the constant: there
    is nothing to learn from it.
    """
    kept = x[mask]
    if not kept.numel():
        return torch.zeros_like(x)
    mean, variance = kept.mean(), kept.var(correction=0)
    back = torch.zeros_like(mean) if shift_mean else mean
    # The mean of equal numbers is off by some rounding, which must not be blown up to size one.
    is_constant = variance.sqrt() <= 16 * torch.finfo(x.dtype).eps * kept.abs().max()
    scale = torch.zeros_like(mean) if is_constant else (variance + 1e-8).rsqrt()
    return ((x - mean) * scale + back).where(mask, 0.0)

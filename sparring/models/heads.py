"""Scalar heads: one number for a state, and what is made of the numbers of a response's tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparring.models.trunk import Trunk


def scalar_head(trunk: Trunk, seed: int) -> nn.Linear:
    """Make a linear map from a hidden state to one number."""
    head = nn.Linear(trunk.width, 1, bias=False, device=trunk.device)
    g = torch.Generator().manual_seed(seed)
    start = torch.randn(1, trunk.width, generator=g) / (trunk.width + 1) ** 0.5
    head.weight.data.copy_(start)
    return head


def read(head: nn.Linear, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Apply a scalar head in 32 bits, whatever the body computed in: a score in 16 bits has only two digits."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float())[:, 0]


def spread(flat: Float[Tensor, " N"], mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K T"]:
    """Put one number for each response token in its place, and 0 on padding."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def means_so_far(x: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K T"]:
    """Average the numbers of a response up to each of its tokens; 0 on padding, which follows the last token."""
    so_far = torch.arange(1, x.shape[-1] + 1, device=x.device)
    return (x.where(mask, 0.0).cumsum(-1) / so_far).where(mask, 0.0)


def at_end(x: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"]) -> Float[Tensor, "*B"]:
    """Take the number of the last token of each response; 0 for one that is not there."""
    last = (mask.sum(-1, keepdim=True) - 1).clamp(min=0)
    return x.where(mask, 0.0).gather(-1, last)[..., 0]

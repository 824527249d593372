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


class RatioHead(nn.Module):
    """From how much likelier one model finds each token of a response than another does, to one number.

        s(x, y) = sum_t [ g_t - level ] / sqrt(length) + bias        g_t = log q(y_t | x, y_<t) - log q_0(y_t | x, y_<t)

    Over the root of the usual `length` in tokens, sums spread about as one token does. `level` is the mean of g_t where
    length is to be worth nothing; whoever knows such texts sets it. `bias` learns: a likelihood adds up to one over all
    texts, and p_data / pi, which is looked for, does not.
    """

    def __init__(self, length: float, level: float = 0.0, bias: float = 0.0) -> None:
        """Set the three numbers."""
        super().__init__()
        self.length, self.level = length, level
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, gaps: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K T"]:
        """Score each response up to each of its tokens; 0 on padding."""
        so_far = (gaps - self.level).where(mask, 0.0).cumsum(-1)
        return (so_far / self.length**0.5 + self.bias).where(mask, 0.0)

    def state(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"length": self.length, "level": self.level, "bias": self.bias.item()}


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

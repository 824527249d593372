"""Sets of tokens, one bit for each token of the vocabulary: a hundredth of what logits take."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import pad

NEVER = -1e9  # a logit whose exponential is 0; minus infinity would make entropies NaN
BITS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def pack(members: Bool[Tensor, "N V"]) -> UInt8[Tensor, "N W"]:
    """Put eight tokens into a byte."""
    groups = pad(members, (0, -members.shape[-1] % 8)).view(len(members), -1, 8)
    return (groups * BITS.to(members.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "N W"], vocabulary: int) -> Bool[Tensor, "N V"]:
    """Take the tokens out again."""
    found = packed[..., None].bitwise_and(BITS.to(packed.device)) > 0
    return found.flatten(1)[:, :vocabulary]


def restrict(logits: Float[Tensor, "N V"], packed: UInt8[Tensor, "N W"] | None) -> Float[Tensor, "N V"]:
    """Give every token outside its set a probability of exactly 0, and so no gradient; None allows all."""
    return logits if packed is None else logits.masked_fill(~unpack(packed, logits.shape[-1]), NEVER)

"""What SLiC's two losses share: how far the likelihoods of responses are from the order that they should have."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.masked import exists, masked_sum
from sparring.core.rank import better, marks_of

FORMS = ("rank", "margin", "list", "expected")


def calibration(
    token_logps: Float[Tensor, "B K T"],
    mask: Bool[Tensor, "B K T"],
    ratings: Float[Tensor, "B K"] | None,
    form: str,
    margin: float,
) -> Float[Tensor, " B"]:
    """Give the cost C of `methods/slic.py` in one of its FORMS, in nats (expected: in marks); `margin` is its d."""
    here, marks, s = exists(mask), marks_of(ratings, mask), masked_sum(token_logps, mask)
    marks = marks.to(s.dtype)
    if form == "expected":
        return -(s.masked_fill(~here, -torch.inf).softmax(-1) * marks.where(here, 0.0)).sum(-1)
    place = {"rank": None, "margin": marks, "list": -torch.arange(s.shape[-1]).to(s)[None]}[form]
    lead = 1.0 if place is None else place[:, :, None] - place[:, None, :]
    short = (margin * lead - s[:, :, None] + s[:, None, :]).clamp(min=0)
    pairs = better(marks, here)
    return short.where(pairs, 0.0).sum((-1, -2)) / pairs.sum((-1, -2)).clamp(min=1)

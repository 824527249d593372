"""Sequence Likelihood Calibration: better responses get likelier than worse ones by a margin; no reference.

    L = C + c NLL
    rank      C = mean over pairs i better than j of  max(0, d - s_i + s_j)
    margin    C = mean over the same pairs of         max(0, d (m_i - m_j) - s_i + s_j)
    list      C = mean over the same pairs of         max(0, d (j - i) - s_i + s_j)
    expected  C = - sum_i m_i e^(s_i) / sum_i e^(s_i)

s are sums of token log-probabilities, m the marks of the data, i and j places in the ranking, NLL = -s of the
best response. A pair is a ranking of two: that is SLiC-HF, `direct` when people made the pairs. Pairs with
equal marks are left out. Pushed by the hinge alone responses grow without end; the NLL holds them.

Where descriptions differ: SLiC-HF's target of the NLL is the reference text or the best candidate, with little
difference (here: the best); it gives no c, HALOs takes 0.1. SLiC sums over pairs of a list; here the mean,
so that c means the same for any K. d is 1 in SLiC-HF.

Source: Zhao et al. 2023, arXiv:2305.10425, equation 3; the other forms: Zhao et al. 2022, arXiv:2210.00045.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import exists, masked_sum
from sparring.core.rank import better, marks_of
from sparring.core.registry import knob, method


@method("slic", data="ranking")
class SLiC:
    form: str = knob("rank", "what is calibrated", choices=("rank", "margin", "list", "expected"))
    margin: float = knob(1.0, "d: nats by which a better response should lead", within=(0, 1e4))
    nll_weight: float = knob(0.1, "c: weight of the best response's negative log-likelihood", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        here, marks, s = exists(mask), marks_of(ratings, mask), masked_sum(token_logps, mask)
        marks = marks.to(s.dtype)
        if self.form == "expected":
            calibration = -(s.masked_fill(~here, -torch.inf).softmax(-1) * marks.where(here, 0.0)).sum(-1)
        else:
            place = {"rank": None, "margin": marks, "list": -torch.arange(s.shape[-1]).to(s)[None]}[self.form]
            lead = 1.0 if place is None else place[:, :, None] - place[:, None, :]
            short = (self.margin * lead - s[:, :, None] + s[:, None, :]).clamp(min=0)
            pairs = better(marks, here)
            calibration = short.where(pairs, 0.0).sum((-1, -2)) / pairs.sum((-1, -2)).clamp(min=1)
        return per_prompt(calibration - self.nll_weight * s[:, 0], s)

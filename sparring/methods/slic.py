"""Sequence Likelihood Calibration: better responses get likelier than worse ones by a margin; no reference.

    L = C + c NLL
    rank      C = mean over pairs i better than j of  max(0, d - s_i + s_j)
    margin    C = mean over the same pairs of         max(0, d (m_i - m_j) - s_i + s_j)
    list      C = mean over the same pairs of         max(0, d (j - i) - s_i + s_j)
    expected  C = - sum_i m_i e^(s_i) / sum_i e^(s_i)

s are sums of token log-probabilities, m the marks of the data, i and j places in the ranking, NLL = -s of the
best response. A pair is a ranking of two: that is SLiC-HF, `direct` when people made the pairs. Pairs with
equal marks are left out. Pushed by the hinge alone responses grow without end; the NLL holds them. With a KL to
the start in its place it is slic_kl.

Papers and code differ: SLiC-HF's target of the NLL is the reference text or the best candidate, with little
difference (here: the best); it gives no c, HALOs takes 0.1; RSO's authors leave it out. SLiC sums over pairs of a
list; here the mean, so that c means the same for any K. d is 1 in SLiC-HF. The `hinge` of TRL's DPO trainer has
a reference: see rso.

Source: Zhao et al. 2023, arXiv:2305.10425, equation 3; the other forms: Zhao et al. 2022, arXiv:2210.00045.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.calibrate import FORMS, calibration
from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method


@method("slic", data="ranking")
class SLiC:
    form: str = knob("rank", "what is calibrated", choices=FORMS)
    margin: float = knob(1.0, "d: nats by which a better response should lead", within=(0, 1e4))
    nll_weight: float = knob(0.1, "c: weight of the best response's negative log-likelihood", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        s = masked_sum(token_logps, mask)
        return per_prompt(
            calibration(token_logps, mask, ratings, self.form, self.margin) - self.nll_weight * s[:, 0], s
        )

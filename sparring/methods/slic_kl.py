"""SLiC-KL: sequence likelihood calibration that is held by a KL to where it started, token by token.

    L = C + c sum_t KL( pi(. | x, y0_<t) | pi_ref(. | x, y0_<t) )

C is that of slic, in the same four forms, and y0 the best response of the ranking. The KL is exact: over the whole
vocabulary at every token of y0, not at the token that stands there. It asks the policy to stay what it was along
y0, where the NLL of slic asks it to write y0; so it does not sharpen what fine-tuning has already learnt.

Papers and code differ: SLiC's text for the KL is the reference text, here it is the best response, as in slic; SLiC-HF
and the code that is public have only the NLL. The default of c is ours, that of slic. The reference has to be
`live`: whole distributions are too large to store.

Source: Zhao et al. 2022, arXiv:2210.00045, the second of its two regularisation losses.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.calibrate import FORMS, calibration
from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method


@method("slic_kl", data="ranking")
class SLiCKL:
    form: str = knob("rank", "what is calibrated", choices=FORMS)
    margin: float = knob(1.0, "d: nats by which a better response should lead", within=(0, 1e4))
    kl_weight: float = knob(0.1, "c: weight of a nat of KL along the best response", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        token_kls: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        drift = masked_sum(token_kls, mask)[:, 0]
        total = calibration(token_logps, mask, ratings, self.form, self.margin) + self.kl_weight * drift
        return per_prompt(total, masked_sum(token_logps, mask))

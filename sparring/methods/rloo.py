"""RLOO: REINFORCE in which the other responses to the same prompt are the baseline.

    L = - sum_t A_k log pi(y_kt | x, y_k<t)  /  number of response tokens
    A_k = R_k - mean of R_j over j != k,     R = score - kl * log( pi(y|x) / pi_ref(y|x) )

A response is one action: all its tokens share one advantage. With K responses to a prompt each is
judged against the K - 1 others, which is unbiased and needs no value network. K must be 2 or more; 4
is a good start. When all responses to a prompt are worth the same, that prompt teaches nothing.

Papers and code differ: the paper divides the sum by the number of responses; here it is divided by the number of
tokens in the batch (same direction). TRL's version adds PPO's clipped ratio for several updates on the
same samples, and can divide by the standard deviation; here as in the paper there is neither.
kl 0.05 is TRL's default.

Source: Ahmadian et al. 2024, arXiv:2402.14740; the estimator is from Kool et al. 2019.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import after_kl, every_token, leave_one_out
from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method


@method("rloo", data="prompt")
class RLOO:
    kl: float = knob(0.05, "price of one nat of distance from the reference, taken off the score", within=(0, 1e6))

    def credit(
        self,
        scores: Float[Tensor, "B K"],
        old_token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> dict[str, Float[Tensor, "B K T"]]:
        paid = after_kl(scores, old_token_logps, ref_token_logps, mask, self.kl)
        return {"advantages": every_token(leave_one_out(paid), mask)}

    def loss(
        self, token_logps: Float[Tensor, "B K T"], advantages: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]
    ) -> Loss:
        gain = masked_sum(advantages.where(mask, 0.0) * token_logps, mask)
        return Loss(-gain.sum(-1), mask.sum((-1, -2)).to(token_logps.dtype))

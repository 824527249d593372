"""REINFORCE: make sampled responses likelier the more they score above a baseline.

    L = - sum_t A log pi(y_t | x, y_<t)  /  number of response tokens
    A = R - b,     R = score - kl * log( pi(y|x) / pi_ref(y|x) )

R and b are numbers: no gradient flows through them. The KL price is taken at the policy that sampled,
for the whole response, which makes the optimum pi_ref exp(score / kl) up to a constant. The baseline b
is 0 (`none`), the mean R of the round (`batch`), or the mean R of the other responses to the same
prompt (`leave_one_out`, needs K of 2 or more). Without a baseline, positive scores push every sampled
response up, good or bad, and the variance is high.

There is no importance ratio: the gradient is right for one update on each round of samples. To make
several updates from the same samples use ppo.

Papers and code differ: papers divide the sum by the number of responses; here it is divided by the number of
tokens in the batch. The direction is the same, and learning rates carry over to ppo and rloo. The
RLAIF paper learns its baseline with a value network and scales the score by (1 - kl): that is
reinforce_value. kl 0.05 is theirs.

Source: Williams 1992, doi:10.1007/BF00992696; for language models with KL, Lee et al. 2023, arXiv:2309.00267.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import above_batch_mean, after_kl, every_token, leave_one_out
from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method

BASELINES = {"none": lambda paid: paid, "batch": above_batch_mean, "leave_one_out": leave_one_out}


@method("reinforce", data="prompt")
class Reinforce:
    kl: float = knob(0.05, "price of one nat of distance from the reference, taken off the score", within=(0, 1e6))
    baseline: str = knob("batch", "what a response is expected to score", choices=("none", "batch", "leave_one_out"))

    def credit(
        self,
        scores: Float[Tensor, "B K"],
        old_token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> dict[str, Float[Tensor, "B K T"]]:
        paid = after_kl(scores, old_token_logps, ref_token_logps, mask, self.kl)
        return {"advantages": every_token(BASELINES[self.baseline](paid), mask)}

    def loss(
        self, token_logps: Float[Tensor, "B K T"], advantages: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]
    ) -> Loss:
        gain = masked_sum(advantages.where(mask, 0.0) * token_logps, mask)
        return Loss(-gain.sum(-1), mask.sum((-1, -2)).to(token_logps.dtype))

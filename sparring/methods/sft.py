"""Supervised fine-tuning: make the demonstrated response likely.

    L = - sum_t log pi(y_t | x, y_<t)  /  number of response tokens

The end-of-text token counts as a token of the response, the prompt does not. The sum is divided by
the number of tokens in the whole batch, so every token weighs the same, in long responses and short.

Papers and code differ: some average each response first, which makes tokens of short responses
heavier; some train on the prompt as well. Neither is done here.

Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import method


@method("sft", data="demonstration")
class SFT:
    def loss(self, token_logps: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Loss:
        return Loss(-masked_sum(token_logps, mask).sum(-1), mask.sum((-1, -2)).to(token_logps.dtype))

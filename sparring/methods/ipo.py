"""Identity Preference Optimization: pairs again, but with a target that certain labels cannot push to infinity.

    L = ( z - 1 / (2 beta) )^2,     z = log pi(y0|x) / pi_ref(y0|x) - log pi(y1|x) / pi_ref(y1|x)

y0 is the chosen response and y1 the rejected one. dpo pushes z on for ever where every label is certain;
here the gap itself is regressed on 1/(2 beta), so beta holds the policy whatever the labels. When a pair
occurs both ways, z ends at (2p - 1) / (2 beta), p being how often y0 was the chosen one.

Papers and code differ: the authors take sums over tokens (`sum`); TRL divides each response's
log-ratio by its length first (`mean`), so that beta means the same for short texts and long ones.

Source: Azar et al. 2023, arXiv:2310.12036, equation 17.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean, masked_sum
from sparring.core.registry import knob, method

OVER_TOKENS = {"sum": masked_sum, "mean": masked_mean}


@method("ipo", data="preference")
class IPO:
    beta: float = knob(0.1, "how firmly the policy is held to the reference; the gap aims at 1/(2 beta)", above=0)
    average: str = knob("sum", "a response's log-ratio: the sum over its tokens or their mean", choices=("sum", "mean"))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        ratio = OVER_TOKENS[self.average](token_logps - ref_token_logps, mask)
        z, target = ratio[:, 0] - ratio[:, 1], 1 / (2 * self.beta)
        p = 1.0 if label is None else label
        return per_prompt(p * (z - target) ** 2 + (1 - p) * (z + target) ** 2, self.beta * ratio)

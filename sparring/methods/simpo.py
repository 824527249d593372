"""Simple Preference Optimization: pairs without a reference, by mean log-probability.

    L = - p log sigmoid(z) - (1 - p) log sigmoid(-z),     z = r(y0) - r(y1) - gamma
    r(y) = beta log pi(y|x) / |y|

y0 is the chosen response and y1 the rejected one, |y| the number of tokens. The reward is what the policy
generates by, so there is no second model; dividing by length takes away the gain of merely being long.
gamma asks for a gap of that size. p is the probability that the choice was right, 1 when not said (the
paper). Nothing holds the policy to where it started: small learning rates and few steps do.

Defaults are of the range the paper searched: beta 2 to 2.5, gamma 0.3 to 1.6.

Source: Meng et al. 2024, arXiv:2405.14734, equation 6.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean
from sparring.core.rank import bradley_terry
from sparring.core.registry import knob, method


@method("simpo", data="preference")
class SimPO:
    beta: float = knob(2.0, "how much a nat per token is worth; larger sharpens the choice", above=0)
    gamma: float = knob(1.0, "by how much the chosen reward should lead", within=(0, 100))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        reward = self.beta * masked_mean(token_logps, mask)
        z = reward[:, 0] - reward[:, 1] - self.gamma
        return per_prompt(bradley_terry(z, label), reward)

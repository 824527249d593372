"""Direct Preference Optimization: learn from pairs, without a reward model.

    L = - q log sigmoid(z) - (1 - q) log sigmoid(-z),   z = r(y0) - r(y1)
    r(y) = beta (log pi(y|x) - log pi_ref(y|x)),   q = (1 - e) p + e (1 - p)

y0 is the chosen response and y1 the rejected one; log-probabilities are sums over tokens. r is the
reward that the policy implies, and L the Bradley-Terry likelihood of the choice under it. p is the
probability that the choice was right, 1 when the data does not say (then e = 0 is the paper's
equation 7); e is the label smoothing of the paper's code.

Only the difference counts: the chosen log-probability often falls, the rejected one faster. That is
the method and no fault. Where labels are certain (p = 1, e = 0) nothing bounds z but early stopping.

Papers and code differ: the paper trains with RMSprop at learning rate 1e-6, its code at 5e-7; here it is AdamW,
at a rate that fits the size of the model. beta 0.1 is from both.

Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.rank import bradley_terry
from sparring.core.registry import knob, method


@method("dpo", data="preference")
class DPO:
    beta: float = knob(0.1, "how firmly the policy is held to the reference; larger holds harder", above=0)
    label_smoothing: float = knob(0.0, "probability that a label is the wrong way round", within=(0, 0.5))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        reward = self.beta * masked_sum(token_logps - ref_token_logps, mask)
        z = reward[:, 0] - reward[:, 1]
        p = 1.0 if label is None else label
        q = (1 - self.label_smoothing) * p + self.label_smoothing * (1 - p)
        return per_prompt(bradley_terry(z, q), reward)

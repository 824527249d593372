"""The losses of Statistical Rejection Sampling Optimization, for pairs that were sampled near the optimum.

    L = - p log sigmoid(gamma d) - (1 - p) log sigmoid(-gamma d)     (sigmoid_norm)
    L = p max(0, 1 - gamma d) + (1 - p) max(0, 1 + gamma d)          (hinge_norm; hinge, without reference in d)
    d = log pi(y0|x) / pi_ref(y0|x) - log pi(y1|x) / pi_ref(y1|x)

y0 is the chosen response and y1 the rejected one; p is the probability that the choice was right, 1 when not
said. gamma is deliberately not the beta of the sampler (`sample_rank`): sigmoid_norm ends at the optimum for
that beta only when both are the same. The hinges stop at gamma d = 1 however sure the label is, so they are
not made to find an optimum; `hinge` is gamma times slic with a margin of 1/gamma, and is known to be gamed.

Papers and code differ: the `hinge` of TRL's DPO trainer is hinge_norm, its beta being gamma; the paper's `hinge` has
no reference. Here they are two forms. How candidates for pairs are told from each other, see sample_rank.

Source: Liu et al. 2023, arXiv:2309.06657, equations 8 to 10; gamma 0.05 is theirs.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.rank import bradley_terry
from sparring.core.registry import knob, method


@method("rso", data="preference")
class RSO:
    gamma: float = knob(0.05, "how much a nat of log-ratio is worth", above=0)
    form: str = knob("sigmoid_norm", "which of the three losses", choices=("sigmoid_norm", "hinge_norm", "hinge"))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        reward = self.gamma * masked_sum(token_logps - (0 if self.form == "hinge" else ref_token_logps), mask)
        z = reward[:, 0] - reward[:, 1]
        if self.form == "sigmoid_norm":
            return per_prompt(bradley_terry(z, label), reward)
        p = 1.0 if label is None else label
        return per_prompt(p * (1 - z).clamp(min=0) + (1 - p) * (1 + z).clamp(min=0), reward)

"""CPL-KL: contrastive preference learning whose advantage is measured from a reference.

    L = - p log( e^f0 / (e^f0 + e^(lam f1)) ) - (1 - p) log( e^f1 / (e^f1 + e^(lam f0)) )
    f = alpha sum_t gamma^t log pi(y_t | x, y_<t) / pi_ref(y_t | x, y_<t)

y0 is the chosen response and y1 the rejected one, p the probability that the choice was right, 1 when not said.
The reference is the policy at the start of this stage, in the paper the one that imitation ended with. At lam 1
and gamma 1 it is dpo with beta = alpha. alpha 0.2 and lam 0.75 are the authors'.

Source: Hejna et al. 2023, arXiv:2310.13639, appendix C (variants of CPL).
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from sparring.core.credit import discounted
from sparring.core.loss import Loss, per_prompt
from sparring.core.registry import knob, method


@method("cpl_kl", data="preference")
class CPLKL:
    alpha: float = knob(0.2, "how firmly the policy is held to the reference; larger holds harder", above=0)
    lam: float = knob(0.75, "how much the rejected counts; below 1 keeps likelihood on the data", within=(0.001, 1))
    gamma: float = knob(1.0, "discount of later tokens; 1 discounts nothing", within=(0, 1))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        f = self.alpha * discounted(token_logps - ref_token_logps, mask, self.gamma)
        p = 1.0 if label is None else label
        choice = p * softplus(self.lam * f[:, 1] - f[:, 0]) + (1 - p) * softplus(self.lam * f[:, 0] - f[:, 1])
        return per_prompt(choice, f)

"""Contrastive Preference Learning: preferences tell the regret, and the policy itself is the advantage.

    L = - p log( e^f0 / (e^f0 + e^(lam f1)) ) - (1 - p) log( e^f1 / (e^f1 + e^(lam f0)) )  +  bc NLL
    f = alpha sum_t gamma^t log pi(y_t | x, y_<t),     NLL = - log pi(y0|x)

y0 is the chosen response and y1 the rejected one; for a language model a response is a segment, a token an
action. lam below 1 makes it conservative: lowering both log-probabilities by the same amount raises the loss,
so that likelihood stays with what was seen. bc above 0 adds imitation (CPL-BC). With a reference in f it is
cpl_kl. p is the probability that the choice was right, 1 when not said.

Papers and code differ: the paper discounts by gamma, the code does not (1, the default here); the code's
actors are deterministic and use a squared distance as log-probability, which has no counterpart here. Sums favour
short responses: the paper compares segments of one length.

Source: Hejna et al. 2023, arXiv:2310.13639, equation 5; the conservative form is equation 6; alpha 0.1, lam 0.5.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from sparring.core.credit import discounted
from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method


@method("cpl", data="preference")
class CPL:
    alpha: float = knob(0.1, "how much a nat is worth: the temperature of the regret model", above=0)
    lam: float = knob(0.5, "how much the rejected counts; below 1 keeps likelihood on the data", within=(0.001, 1))
    gamma: float = knob(1.0, "discount of later tokens; 1 discounts nothing", within=(0, 1))
    bc_weight: float = knob(0.0, "weight of imitating the chosen response (CPL-BC)", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        f = self.alpha * discounted(token_logps, mask, self.gamma)
        p = 1.0 if label is None else label
        choice = p * softplus(self.lam * f[:, 1] - f[:, 0]) + (1 - p) * softplus(self.lam * f[:, 0] - f[:, 1])
        return per_prompt(choice - self.bc_weight * masked_sum(token_logps, mask)[:, 0], f)

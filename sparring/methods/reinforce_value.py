"""REINFORCE with a learned baseline: a value network says what each response was expected to earn.

    L = sum_t [ -(R_t - v_old) log pi(y_t | x, y_<t) + w (v - R_t)^2 ]  /  number of response tokens
    R_t = score - kl * sum over s >= t of log( pi(y_s) / pi_ref(y_s) )            (objective price)
    R_t = (1 - kl) * score - kl * sum over s >= t of log( pi(y_s) / pi_ref(y_s) )  (objective share)

R_t is what is still to come at a token, v the value predicted before the token is chosen, v_old the same
before the update. The value depends on what came before and not on the token, so the gradient stays
unbiased; it tells easy prompts from hard ones, which the mean of a round cannot, and needs one response
to a prompt where leave-one-out needs two. In this it is ppo at lambda 1, without clips and whitening, for one update
on each round of samples.

Two objectives. At a price the end is pi_ref exp(score / kl) up to a constant. As a share, as in the RLAIF
paper, J = E[(1 - kl) score - kl KL] with kl between 0 and 1; the end is pi_ref exp(((1 - kl) / kl) score),
so a share of 0.05 is a price of 0.05 / 0.95 = 0.0526.

The paper's policy loss and its squared value loss are simply both minimised; w weighs the second. Its
KL is that of the whole response; here a token does not pay for those before it, which changes no mean.
The division by the number of tokens is reinforce's.

Source: Lee et al. 2023, arXiv:2309.00267, the objective and losses of its reinforcement learning; the idea
of a baseline is from Williams 1992, doi:10.1007/BF00992696.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import gae, kl_k1, token_by_token
from sparring.core.errors import SettingError
from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import knob, method


@method("reinforce_value", data="prompt")
class ReinforceValue:
    kl: float = knob(0.05, "price of a nat of distance from the reference, or its share in the aim", within=(0, 1e6))
    objective: str = knob(
        "price", "kl is a price beside the whole score, or a share that leaves it 1 - kl", choices=("price", "share")
    )
    value_weight: float = knob(1.0, "weight of the value loss", within=(0, 100))

    def credit(
        self,
        scores: Float[Tensor, "B K"],
        old_token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        old_values: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        token_scores: Float[Tensor, "B K T"] | None = None,
    ) -> dict[str, Float[Tensor, "B K T"]]:
        if self.objective == "share" and self.kl > 1:
            raise SettingError(
                f"kl is {self.kl:g}, but a share lies between 0 and 1; lower it, or take objective price"
            )
        weight = 1 - self.kl if self.objective == "share" else 1.0
        earned = weight * token_by_token(scores, token_scores, mask)
        rewards = earned - self.kl * kl_k1(old_token_logps, ref_token_logps)
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=1.0)
        return {"advantages": advantages, "returns": returns}

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        advantages: Float[Tensor, "B K T"],
        values: Float[Tensor, "B K T"],
        returns: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        gain = advantages.where(mask, 0.0) * token_logps
        off = (values - returns).where(mask, 0.0)
        total = masked_sum(self.value_weight * off**2 - gain, mask).sum(-1)
        return Loss(total, mask.sum((-1, -2)).to(total.dtype))

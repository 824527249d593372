"""GRPO: PPO without a value network; the other responses to the same prompt say what was to be expected.

    L = sum_k 1/|y_k| sum_t [ max( -A_k q, -A_k clip(q, 1-c, 1+c) ) + kl * D_t ]  /  number of responses
    A_k = (score_k - mean) / std    over the K responses to one prompt
    q = pi(y_t) / pi_old(y_t),     D_t = pi_ref/pi - 1 - log( pi_ref/pi )

All tokens of a response share its advantage. KL is no part of the reward: its estimate D (k3) stands in
the loss and is differentiated. K must be 2 or more; the paper takes 64.

What its critics found, and the knob that undoes it (Liu et al. 2025, arXiv:2503.20783, "Dr. GRPO"):
dividing by the standard deviation lets prompts on which nearly all or nearly no response succeeds weigh
more than the others (scale none), and dividing each response by its length makes a long wrong response
cheaper than a short one, so that wrong responses grow (average token, where every token of the batch
weighs the same). With scale none the advantage is (K-1)/K times that of rloo.

What D_t does: the derivative of k3 with respect to log pi is 1 - pi_ref/pi, whose mean over the policy's own
samples is the gradient of KL(pi_ref | pi), the other way round than in ppo and rloo. With scale none, c = (K-1)/K
and one-token responses the end is therefore pi(y) = kl pi_ref(y) / (z - c score(y)), z such that it adds
up to 1. The square (log pi/pi_ref)^2 / 2 (k2) has the derivative log pi/pi_ref, which gives the gradient of
KL(pi | pi_ref), and the end pi_ref exp(c score / kl). The plain log-ratio (k1) is no choice: its
derivative is 1, which has mean zero over samples, so it holds nothing back. That is derived here; the
tests check each of these ends.

Papers and code differ: the standard deviation is the population's (TRL: unbiased, plus 1e-4); equal scores teach
nothing. kl is the paper's; clip 0.2 is TRL's, for the paper does not say.

Source: Shao et al. 2024, arXiv:2402.03300, equations 3 and 4.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import above_group_mean, every_token, kl_k2, kl_k3, normalise_group
from sparring.core.loss import Loss
from sparring.core.masked import masked_mean, masked_sum
from sparring.core.registry import knob, method
from sparring.core.surrogate import clipped

SCALES = {"std": normalise_group, "none": above_group_mean}
ESTIMATORS = {"k3": kl_k3, "k2": kl_k2}


@method("grpo", data="prompt")
class GRPO:
    kl: float = knob(0.04, "weight of the KL from the reference in the loss", within=(0, 1e6))
    clip: float = knob(0.2, "how far a probability ratio may leave 1 and still pay", within=(0.001, 1))
    scale: str = knob("std", "what the advantages of a group are divided by", choices=("std", "none"))
    average: str = knob("response", "what weighs the same: each response, or each token", choices=("response", "token"))
    estimator: str = knob(
        "k3", "how the KL is estimated; the mean gradient is that of KL(ref|pi) or KL(pi|ref)", choices=("k3", "k2")
    )

    def credit(self, scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K T"]) -> dict[str, Float[Tensor, "B K T"]]:
        return {"advantages": every_token(SCALES[self.scale](scores), mask)}

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        old_token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        advantages: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        now, ref = (torch.where(mask, x, 0.0) for x in (token_logps, ref_token_logps))
        each = clipped(token_logps, old_token_logps, advantages, mask, self.clip)
        each = each + self.kl * ESTIMATORS[self.estimator](now, ref)
        if self.average == "token":
            return Loss(masked_sum(each, mask).sum(-1), mask.sum((-1, -2)).to(each.dtype))
        return Loss(masked_mean(each, mask).sum(-1), mask.any(-1).sum(-1).to(each.dtype))

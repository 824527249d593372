"""Kahneman-Tversky Optimization: learn from single responses that are marked good or bad.

    L = w_good ( 1 - sigmoid(beta (l - z)) )   if the response is good
        w_bad  ( 1 - sigmoid(beta (z - l)) )   if it is bad
    l = log pi(y|x) / pi_ref(y|x),     z = max(0, mean of l over responses to other prompts of the batch)

A response counts as good when its mark is above 1/2. z is where the policy stands already, an estimate
of its KL from the reference made with prompts and responses that do not belong together; no gradient
flows through it. The value of a gain saturates, that of a loss too, so a few wrong marks do little harm.

Keep w_good times the number of good responses within 1 to 4/3 of w_bad times that of bad ones (section 4.3).
A batch of one has no other prompt: z is 0 there, which is HALOs' "kto-zero".

Source: Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.records import GOOD
from sparring.core.registry import knob, method


@method("kto", data="rating")
class KTO:
    beta: float = knob(0.1, "how firmly the policy is held to the reference; larger holds harder", above=0)
    good_weight: float = knob(1.0, "weight of a good response", within=(0, 1000))
    bad_weight: float = knob(1.0, "weight of a bad response", within=(0, 1000))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        batch_kl: Float[Tensor, " B"],
        ratings: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        ratio = masked_sum(token_logps - ref_token_logps, mask)[:, 0]
        gain = self.beta * (ratio - batch_kl)
        good = ratings[:, 0] > GOOD
        value = torch.where(good, self.good_weight * torch.sigmoid(-gain), self.bad_weight * torch.sigmoid(gain))
        return per_prompt(value, self.beta * ratio[:, None])

"""Proximal Policy Optimization: several updates on the same samples, none of them going far.

    L = sum_t [ max( -A q, -A clip(q, 1-c, 1+c) ) + w V ]  /  number of response tokens
    q = pi(y_t) / pi_old(y_t)
    V = max( (v - R)^2, (v_old + clip(v - v_old, -vc, vc) - R)^2 ) / 2

Every token pays kl * log(pi_old / pi_ref), and the last one also earns the score, or what
judges that pay token by token have left of it. Advantages A come
from these rewards and the values v_old by Generalized Advantage Estimation and are then whitened over
the whole round (mean 0, standard deviation 1); returns R are the same advantages before whitening, plus
v_old. Rewards can be whitened first, their mean put back; that changes the unit of the values and no
direction. Without either, the first update is plain policy gradient in units of the reward.

The clip (c) is one-sided on purpose: once a token has moved far enough in the direction of its advantage
its gradient is zero, but a move in the wrong direction is never cut off. It bounds the gain, not the
gradient and not the KL.

Papers and code differ: the value clip (vc) is not in the paper and is in everybody's code.
OpenAI averages over a fixed length, padding included; here only response tokens count. Whitening uses
the population variance over response tokens (TRL: the unbiased one; OpenAI: padding included). OpenAI whitens
rewards for its stylistic tasks, AlpacaFarm always, TRL on request. Entropy is not paid for. The price of
a token is its plain log-ratio, which may be negative; AlpacaFarm clamps it at 0. With --kl-target the price
adapts by a tenth a round, as papers have it, or by the responses of a round over --kl-horizon, as OpenAI's code does.
Defaults are those of Stiennon et al. 2020 (arXiv:2009.01325) and OpenAI's code: kl 0.05, gamma 1,
lambda 0.95, both clips 0.2, value weight 0.1.

Source: Schulman et al. 2017, arXiv:1707.06347, equation 7; for language, Ziegler et al. 2019, arXiv:1909.08593.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import gae, kl_k1, token_by_token
from sparring.core.loss import Loss
from sparring.core.masked import masked_sum, whiten
from sparring.core.registry import knob, method
from sparring.core.surrogate import clipped


@method("ppo", data="prompt")
class PPO:
    kl: float = knob(0.05, "price of one nat of distance from the reference, paid token by token", within=(0, 1e6))
    clip: float = knob(0.2, "how far a probability ratio may leave 1 and still pay", within=(0.001, 1))
    value_weight: float = knob(0.1, "weight of the value loss", within=(0, 100))
    value_clip: float = knob(0.2, "how far a value may move in one round before it stops paying", above=0)
    gamma: float = knob(1.0, "discount of later rewards; 1 discounts nothing", within=(0, 1))
    lam: float = knob(0.95, "how far advantages look: 0 trusts the next value, 1 only rewards", within=(0, 1))
    whiten: str = knob(
        "advantages",
        "what is brought to standard deviation 1: advantages, rewards (keeping their mean), both",
        choices=("advantages", "rewards", "both", "none"),
    )

    def credit(
        self,
        scores: Float[Tensor, "B K"],
        old_token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        old_values: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        token_scores: Float[Tensor, "B K T"] | None = None,
    ) -> dict[str, Float[Tensor, "B K T"]]:
        rewards = token_by_token(scores, token_scores, mask) - self.kl * kl_k1(old_token_logps, ref_token_logps)
        if self.whiten in ("rewards", "both"):
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, old_values, mask, self.gamma, self.lam)
        if self.whiten in ("advantages", "both"):
            advantages = whiten(advantages, mask)
        return {"advantages": advantages, "returns": returns}

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        old_token_logps: Float[Tensor, "B K T"],
        advantages: Float[Tensor, "B K T"],
        values: Float[Tensor, "B K T"],
        old_values: Float[Tensor, "B K T"],
        returns: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        policy = clipped(token_logps, old_token_logps, advantages, mask, self.clip)
        moved = (values - old_values).where(mask, 0.0)
        due = (returns - old_values).where(mask, 0.0)
        value = torch.maximum((moved - due) ** 2, (moved.clamp(-self.value_clip, self.value_clip) - due) ** 2) / 2
        total = masked_sum(policy + self.value_weight * value, mask).sum(-1)
        return Loss(total, mask.sum((-1, -2)).to(total.dtype))

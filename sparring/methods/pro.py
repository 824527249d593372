"""Preference Ranking Optimization: each response against all worse ones, sharper where the marks are far apart.

    L = sum_k [ log( e^(s_k T_kk) + sum_{i worse than k} e^(s_i T_ki) ) - s_k T_kk ]  +  b (K - 1)^2 NLL
    s = log pi(y|x) / |y|,     T_ki = m_k - m_i,     T_kk = max_i T_ki

|y| is the number of tokens, m are the marks of the data, NLL = -log pi of the best response. The temperatures T
let a near tie count for little; `none` sets all of them to 1, as in the thesis proposal that this follows,
which makes it the Plackett-Luce likelihood of the order under s. Responses with equal marks are not compared.

Papers and code differ: the paper divides by 1/T, the same thing; the authors' code adds 1e-10 inside a plain
log of exps, which overflows when marks are raw logits; here it is a log-sum-exp. With temperatures the loss is
not blind to a constant added to every s, and a near tie costs much while it teaches little. Without labels
that contradict each other nothing bounds the order; the NLL carries the rest. b 0.05 is the code's.

Source: Song et al. 2023, arXiv:2306.17492, equations 7 to 9.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import exists, masked_mean, masked_sum
from sparring.core.rank import better, marks_of
from sparring.core.registry import knob, method


@method("pro", data="ranking")
class PRO:
    sharpness: str = knob("gap", "how sharp a comparison is: by the gap of marks, or 1", choices=("gap", "none"))
    nll_weight: float = knob(0.05, "b: weight of imitating the best, times (K - 1) squared", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        here, s = exists(mask), masked_mean(token_logps, mask)
        marks = marks_of(ratings, mask).to(s.dtype)
        worse = better(marks, here)
        gap = (marks[:, :, None] - marks[:, None, :]).where(worse, 0.0)
        if self.sharpness == "none":
            gap = worse.to(s.dtype)
        own = s * gap.amax(-1)
        rivals = (s[:, None, :] * gap).masked_fill(~worse, -torch.inf)
        lost = torch.logaddexp(own, rivals.logsumexp(-1).where(worse.any(-1), own)) - own
        total = lost.where(worse.any(-1), 0.0).sum(-1)
        best, K = masked_sum(token_logps, mask)[:, 0], here.sum(-1).to(s.dtype)
        return per_prompt(total - self.nll_weight * (K - 1) ** 2 * best, s)

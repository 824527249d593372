"""Listwise DPO: learn from whole rankings, without a reward model.

    L = sum_k [ log sum_{i ranked k-th or worse} exp r(y_i)  -  r(y_k) ]
    r(y) = beta ( log pi(y|x) - log pi_ref(y|x) )

The Plackett-Luce likelihood of the ranking under the rewards that the policy implies: first place is drawn
by softmax from all responses, second place from the rest, and so on. With two responses it is dpo. `top_1`
keeps only the first draw, the best against the rest. Responses with equal marks are not ordered: each of
them competes with its equals and with all that is worse (Breslow's way with ties).

The thesis proposal that this follows prints r(y_1) for r(y_k) in its equation 20; that is no probability
(over the six orders of three responses it adds up to 1.14) and ends elsewhere. Corrected, it is the
objective of appendix A.3 of the DPO paper; its top-1 form was later called softmax-DPO (arXiv:2406.09215).
The last places compare bad with worse at full weight; `mean` divides by the number of draws.

Source: Rafailov et al. 2023, arXiv:2305.18290, appendix A.3, equation 20.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import exists, masked_sum
from sparring.core.rank import draws, marks_of
from sparring.core.registry import knob, method


@method("listwise_dpo", data="ranking")
class ListwiseDPO:
    beta: float = knob(0.1, "how firmly the policy is held to the reference; larger holds harder", above=0)
    mode: str = knob("full", "every draw of the ranking, or only the first", choices=("full", "top_1"))
    stages: str = knob("sum", "draws of one ranking are summed or averaged", choices=("sum", "mean"))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        ref_token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        here, marks = exists(mask), marks_of(ratings, mask)
        reward = self.beta * masked_sum(token_logps - ref_token_logps, mask)
        lost, counts = draws(reward, marks, here)
        if self.mode == "top_1":
            counts = counts & (marks == marks[:, :1])
        total = lost.where(counts, 0.0).sum(-1)
        return per_prompt(total / counts.sum(-1).clamp(min=1) if self.stages == "mean" else total, reward)

"""Rank Responses to align Human Feedback: order the responses as their scores do, and imitate the best.

    L = w sum over pairs i better than j of max(0, p_j - p_i)  -  log pi(y_best|x)
    p = log pi(y|x) / |y|

|y| is the number of tokens. No reference, no margin: a pair in the right order costs nothing, so only the
order of the marks matters, and pairs with equal marks are left out. The policy learns to be about as good as
the best of the responses it is shown, and hardly better.

Papers and code differ: the authors' code overwrites the labels that make its mask, so that there every
response is divided by the same padded length (their issue 37): it ranks by sums, which favours short ones, and
its second term shrinks by that length. `by sum_over_padded` repeats this, with the prompt's longest response
for the padded length, so that no result depends on what shares the batch. The default is the paper's.

Source: Yuan et al. 2023, arXiv:2304.05302, equations 1 to 4; weights of 10 and 100 did worse there than 1.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import exists, masked_mean, masked_sum
from sparring.core.rank import better, marks_of
from sparring.core.registry import knob, method


@method("rrhf", data="ranking")
class RRHF:
    by: str = knob("mean", "what ranks: mean log-probability, or the code's sum", choices=("mean", "sum_over_padded"))
    rank_weight: float = knob(1.0, "w: weight of the order beside imitation", within=(0, 1e4))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        total = masked_sum(token_logps, mask)
        best, p = total[:, 0], masked_mean(token_logps, mask)
        if self.by == "sum_over_padded":
            longest = mask.sum(-1).amax(-1)
            best, p = best / longest, total / longest[:, None]
        pairs = better(marks_of(ratings, mask), exists(mask))
        wrong = (p[:, None, :] - p[:, :, None]).clamp(min=0).where(pairs, 0.0).sum((-1, -2))
        return per_prompt(self.rank_weight * wrong - best, p)

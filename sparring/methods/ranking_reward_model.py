"""Reward model from rankings: one score per response, such that the order of the scores is that of the ranking.

    L = mean over pairs i better than j of  - log sigmoid(s_i - s_j)               (pairs)
    L = sum_k [ log sum_{i ranked k-th or worse} e^(s_i) - s_k ]                   (plackett_luce)
    L = log sum_i e^(s_i) - s_best                                                 (top_1)

`pairs` is InstructGPT's: all pairs of a prompt are one element of the batch and each response is computed once;
shuffled into separate pairs, the same data overfits within an epoch. It averages pairwise losses and is not
Plackett-Luce, which asks for first place, then for second among the rest. `top_1` is the choice of the best
of a few (Ziegler: four). Equal marks are not ordered. With two responses all three are reward_model.

Papers and code differ: the score is read at the last token of the response, as in reward_model, where it is said which
others are read elsewhere. Pairs of equals are dropped, as InstructGPT drops them.

Source: Ouyang et al. 2022, arXiv:2203.02155, equation 1; top_1: Ziegler et al. 2019, arXiv:1909.08593, equation 1.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import exists
from sparring.core.rank import better, draws, marks_of
from sparring.core.registry import knob, method


@method("ranking_reward_model", data="ranking")
class RankingRewardModel:
    form: str = knob("pairs", "what of the ranking is learnt", choices=("pairs", "plackett_luce", "top_1"))

    def loss(
        self,
        scores: Float[Tensor, "B K"],
        mask: Bool[Tensor, "B K T"],
        ratings: Float[Tensor, "B K"] | None = None,
    ) -> Loss:
        here, marks = exists(mask), marks_of(ratings, mask)
        if self.form == "pairs":
            pairs = better(marks, here)
            lost = -logsigmoid(scores[:, :, None] - scores[:, None, :]).where(pairs, 0.0).sum((-1, -2))
            return per_prompt(lost / pairs.sum((-1, -2)).clamp(min=1), scores)
        lost, counts = draws(scores, marks, here)
        if self.form == "top_1":
            counts = counts & (marks == marks[:, :1])
        return per_prompt(lost.where(counts, 0.0).sum(-1), scores)

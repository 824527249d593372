"""Reward model: one score per response, such that the better of two scores higher.

    L = - p log sigmoid(d) - (1 - p) log sigmoid(-d) + c (s0 + s1)^2,     d = s0 - s1 - m

s0 and s1 are the scores of the chosen and the rejected response. m is the margin by which the chosen
one was rated better, 0 when the data does not say; p is the probability that the choice was right, 1
when the data does not say. Only differences are learned, so the level of the scores is free: c pulls
it to 0. At c = 0 subtract the mean score of reference responses before using the scores elsewhere.

Papers and code differ: the score is read at the last token of the response, its end-of-text token if it has one
(--reads mean: over all its tokens); OpenAI's code reads the last place of a fixed length, most others the first
end-of-text token. The further loss by which Llama 2's safety model tells safe from unsafe is described there
without an equation and left out.

Llama 2's margins: 3, 2, 1, 0 (large) or 1, 2/3, 1/3, 0 (small), from "significantly better" down to
"negligibly better". With soft labels the margin is taken off in both terms, since it belongs to d.

Source: Stiennon et al. 2020, arXiv:2009.01325, section 3.4; the margin is from Touvron et al. 2023,
arXiv:2307.09288, equation 2; soft labels from Lee et al. 2023, arXiv:2309.00267; centring from
Eisenstein et al. 2023, arXiv:2312.09244, where c is 0.01.
"""

from jaxtyping import Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.rank import bradley_terry
from sparring.core.registry import knob, method


@method("reward_model", data="preference")
class RewardModel:
    centring: float = knob(0.0, "weight of the squared sum of the two scores, which pulls them to 0", within=(0, 10))

    def loss(
        self,
        scores: Float[Tensor, "B K"],
        margin: Float[Tensor, " B"] | None = None,
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        d = scores[:, 0] - scores[:, 1] - (0.0 if margin is None else margin)
        choice = bradley_terry(d, label)
        return per_prompt(choice + self.centring * (scores[:, 0] + scores[:, 1]) ** 2, scores)

"""Pairwise ranker: a language model that reads both responses and says which of the two is better.

    L = - p log rho(right letter | x, y_A, y_B) - (1 - p) log rho(other letter | x, y_A, y_B)

The prompt and both responses stand in a fixed template that ends where the letter of the better one, A or B, is to
be written; that is all the model learns to write, by the loss of fine-tuning. Which response stands first is drawn
for every pair from the seed of the run, so that the place tells nothing. p is the probability that the choice was
right, 1 when the data does not say.

Seeing both at once it can compare; a reward model scores each without knowing the other. What it does not give is a
score: as feedback it compares a response with a baseline y_b for the same prompt, in both orders, by

    r(x, y) = logit rho(y better than y_b | x),     so r(x, y_b) = 0

with rho made of the two letters alone. The papers read one order and the probability of the letter among all tokens.

Source: Zhao et al. 2023, arXiv:2305.10425, section 2.2; r: Liu et al. 2023, arXiv:2309.06657, equation 7.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_sum
from sparring.core.registry import method


@method("pairwise_ranker", data="preference", view="comparison")
class PairwiseRanker:
    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
        label: Float[Tensor, " B"] | None = None,
    ) -> Loss:
        letter = masked_sum(token_logps, mask)
        p = 1.0 if label is None else label
        return per_prompt(-p * letter[:, 0] - (1 - p) * letter[:, 1], letter)

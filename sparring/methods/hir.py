"""Hindsight Instruction Relabeling: every response is a good answer to some instruction; imitate it under that one.

    L = NLL(y | x)  -  alpha [ (1 - e) log c + e log(1 - c) ]  -  beta H
    c = e^P / (e^P + e^Q),     P = log pi(y | x),     Q = log pi(y | x')

x is the prompt with the instruction that the response fulfils (answer rightly, or answer wrongly), x' the
same with the opposite one, H the mean entropy of the tokens. Responses are relabelled from their marks
when the file is read; some may be cut in two, so that the end is learnt after its beginning. NLL is the mean
over tokens. At test time always give the instruction for a right answer.

Papers and code differ: the paper's contrast runs over the prompts of the whole batch with sums P (`sum`); the
authors' code contrasts with the opposite instruction only, with means P (`mean`) and a smoothing e of 0.2, which also
softens its NLL. Here it is the opposite instruction with either; defaults are the code's. The whole batch is not
offered: it asks for every response after every prompt, and a loss would depend on who else is in its batch and how
the batch is cut into parts; an answer that is right for two queries would count as wrong (docs/log.md).

Source: Zhang et al. 2023, arXiv:2302.05206, section 4.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean, masked_sum
from sparring.core.rank import bradley_terry
from sparring.core.registry import knob, method

OVER_TOKENS = {"sum": masked_sum, "mean": masked_mean}


@method("hir", data="rating")
class HIR:
    alpha: float = knob(1.0, "weight of the contrast between the two instructions", within=(0, 1e4))
    beta: float = knob(0.001, "weight of the entropy that is kept up", within=(0, 1e4))
    smoothing: float = knob(0.2, "e: how far the contrast stays from certainty", within=(0, 0.5))
    average: str = knob("mean", "what is contrasted: the mean log-probability or the sum", choices=("mean", "sum"))

    def loss(
        self,
        token_logps: Float[Tensor, "B K T"],
        other_token_logps: Float[Tensor, "B K T"],
        entropies: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        z = OVER_TOKENS[self.average](token_logps, mask) - OVER_TOKENS[self.average](other_token_logps, mask)
        contrast = bradley_terry(z[:, 0], 1 - self.smoothing)
        nll, entropy = -masked_mean(token_logps, mask), masked_mean(entropies, mask)
        return per_prompt(nll[:, 0] + self.alpha * contrast - self.beta * entropy[:, 0])

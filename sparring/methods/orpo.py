"""Odds Ratio Preference Optimization: fine-tuning on the chosen response that also lowers the odds of the rejected.

    L = - s(y0) - beta log sigmoid( log odds(y0) - log odds(y1) )
    s(y) = log pi(y|x) / |y|,     odds(y) = e^s / (1 - e^s)

y0 is the chosen response and y1 the rejected one, |y| the number of tokens; no reference. One stage does the
work of fine-tuning and of preference learning. As s nears 0 the odds have no bound, so e^s is kept below 1 by
a rounding's worth.

Papers and code differ: the first term is here the mean over the response's tokens, as the paper writes
it; the authors' and TRL's code average over all tokens of the batch, those of prompts included (the authors'
can leave them out), so long texts weigh more there. The paper calls the weight lambda, TRL beta.

Source: Hong et al. 2024, arXiv:2403.07691, equations 4 to 7.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean
from sparring.core.registry import knob, method


@method("orpo", data="preference")
class ORPO:
    beta: float = knob(0.1, "weight of the odds ratio beside fine-tuning", within=(0, 100))

    def loss(self, token_logps: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Loss:
        s = masked_mean(token_logps, mask)
        log_odds = s - torch.log(-torch.expm1(s.clamp(max=-torch.finfo(s.dtype).eps)))
        choice = logsigmoid(log_odds[:, 0] - log_odds[:, 1])
        return per_prompt(-s[:, 0] - self.beta * choice, self.beta * log_odds)

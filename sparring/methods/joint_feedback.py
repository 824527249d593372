"""Joint feedback modelling: learn to write the response, and then what people thought of it.

    L = - log pi(y | x) - log pi(f | x, y)     per token of both

f is the mark of the data in words ("good" or "bad"), put behind the response y. Bad responses are learnt too, but as
what bad ones look like: the model can afterwards be asked how good a response is, and a response that it goes on to
call good can be picked. Fine-tuning on good responses alone (sft, farl) throws the bad ones away.

The thesis proposal that this follows prints a plus between the two terms of its equation 4; with it the feedback
would be unlearnt. The sum is divided by the number of tokens of responses and verdicts, as in sft.

Source: Korbak et al. 2023, arXiv:2302.08582, section 2 (conditioning on feedback, which there stands before the text).
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import method


@method("joint_feedback", data="rating", view="verdict")
class JointFeedback:
    def loss(self, token_logps: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Loss:
        return Loss(-masked_sum(token_logps, mask).sum(-1), mask.sum((-1, -2)).to(token_logps.dtype))

"""Differentiate through the sampler and the judge: no score is needed, for the gradient itself says what to change.

    y~_t = softmax( (logits_t + g_t) / tau ),   g ~ Gumbel(0, 1)      relaxed token, fed back to the policy
    L = mean over responses of  -r(s(x, y~))  +  kl * sum_t KL( pi(.|x, y~_<t) | pi_ref(.|x, y~_<t) )

s is the judge's logit of the relaxed response: it reads y~_t E, E its embeddings, in place of the embedding of a
token. r is its reward form; with log sigmoid, -r(s) is softplus(-s), the paper's loss. The judge's weights stand
still meanwhile. Each KL is exact, over the whole vocabulary, and in nats; the policy's prefix is what both read.

REINFORCE asks how good a whole response was and has one number for all its tokens. Here every token gets, for every
other token of the vocabulary, the judge's slope towards it: far more to learn from a sample, and biased, since the
judge is asked about mixtures of tokens that it has never read.

What the paper leaves open, for it gives no temperature, no schedule, no price of KL, and nothing about ends:
- tokens are drawn by the ordinary sampler and their noise is drawn given the token, which is the same distribution;
- whether a response ends is decided by its tokens alone. The relaxed choice is among all tokens but the ends of text,
  and an end is an end: neither a reward nor a price for ending earlier reaches the policy through the judge, which
  has no opinion worth having of a half-ended text. Only the KL moves the odds of ending: back to the reference's.

Source: Yu et al. 2023, arXiv:2305.06176, section 2 (the Gumbel variant); the relaxation: arXiv:1611.01144.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.loss import Loss
from sparring.core.masked import exists, masked_sum
from sparring.core.registry import knob, method


@method("gumbel", data="prompt")
class Gumbel:
    kl: float = knob(0.1, "price of one nat of distance from the reference, along the response", within=(0, 1e6))

    def credit(self) -> dict[str, Tensor]:
        """Give none: the judge's gradient says of every token what it deserves."""
        return {}

    def loss(
        self,
        relaxed_scores: Float[Tensor, "B K"],
        step_kls: Float[Tensor, "B K T"],
        mask: Bool[Tensor, "B K T"],
    ) -> Loss:
        total = self.kl * masked_sum(step_kls, mask) - relaxed_scores
        here = exists(mask)
        return Loss(total.where(here, 0.0).sum(-1), here.sum(-1).to(total.dtype))

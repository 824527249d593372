"""A discriminator that remembers what it knew before it met the policy.

    s = (1 - a) s_now + a s_0        s_0: what the judge said when its warm-up ended, s_now: what it says

s_0 alone is a frozen reward model. It knows what makes a demonstration unlike the texts it was shown beside, for all
time, and not where the policy has got to, so it is over-optimised; s_now knows that, and forgets the other. Their mean
pays for what both like. At best s_0 = log p_data / q, q being whoever answered in the warm-up, and with a price b of KL
the game ends at

    pi ~ ( p_data q^-a start^b )^(1 / (1 - a + b))

which for a = 0 is the end of the plain game, and beyond p_data, on the far side from q, for other a.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparring.data.responses import Responses
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.reward_model import score_in_parts
from sparring.models.twin import Twin


class AnchoredDiscriminator(Discriminator):
    """A discriminator whose scores are partly those of its own past, which follows it until its warm-up ends."""

    def __init__(self, plain: Discriminator, anchor: Twin, share: float) -> None:
        """Take the place of a plain discriminator; `anchor` is a twin of its network, `share` its part of the score."""
        super().__init__(
            plain.network, plain.updater, plain.data, plain.settings, plain.terms,
            seed=plain.seed, micro_tokens=plain.micro_tokens,
        )  # fmt: skip
        self.anchor, self.share = anchor, share

    def logits(self, responses: Responses) -> Float[Tensor, "B K"]:
        """The mean of what the judge believes now and what it did when its warm-up ended."""
        before = score_in_parts(self.anchor.copy, responses.batch, self.micro_tokens)
        return super().logits(responses).lerp(before, self.share)

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Learn from a round; in a warm-up, where `updates` are given, the anchor learns along."""
        row = super().learn(fake, updates=updates)
        if updates is not None:
            self.anchor.follow()
        return row

    def state(self) -> dict[str, Any]:
        """Return what a discriminator returns, and the anchor's weights."""
        return super().state() | {"anchor": self.anchor.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        super().load(state)
        self.anchor.load(state["anchor"])

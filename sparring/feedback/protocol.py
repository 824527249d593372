"""Whoever says how good a response is: a rule, a reward model, a discriminator, a judge, a person.

Rules read text and models read tokens, so feedback is handed both. What it returns is one number per
response; only feedback that learns has anything else to say.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from sparring.data.responses import Responses


@runtime_checkable
class Feedback(Protocol):
    """Gives one number per response; larger is better. It changes nothing, itself included."""

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response, in units of its own; a response that does not exist gets zero.

        Raises FeedbackError when a response has no usable score.
        """
        ...


@runtime_checkable
class TokenFeedback(Feedback, Protocol):
    """Feedback that may know which token of a response earned which part of its score."""

    def score_tokens(self, responses: Responses) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K T"] | None]:
        """Score each response, and say what each token earned of that; None where only the whole was judged."""
        ...


@runtime_checkable
class LearningFeedback(Feedback, Protocol):
    """Feedback that is trained while the policy is: the discriminator of an adversarial method."""

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Learn from the policy's newest responses, `updates` times if said; return figures about it."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs to go on exactly: weights, optimizer, replay."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        ...

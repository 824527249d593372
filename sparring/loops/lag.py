"""The policy as it was: a copy that follows every few rounds, and whose nucleus bounds what may be sampled."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparring.models.twin import Twin
from sparring.rollout.nucleus import Masker


@dataclass(frozen=True, kw_only=True, eq=False)
class Lagged:
    """A masker that becomes the policy of the moment in the first of every `every` rounds; `twin` holds both."""

    twin: Twin
    masker: Masker
    every: int

    def follow(self, number: int) -> None:
        """Catch up with the policy, if this round (counted from 0) is one to do so."""
        if number % self.every == 0:
            self.twin.follow()

    def state(self) -> dict[str, Tensor]:
        """Return the weights of the copy."""
        return self.twin.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        self.twin.load(state)

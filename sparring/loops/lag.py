"""The policy as it was: a copy that follows every few rounds, and whose nucleus bounds what may be sampled."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.models.roles import Network
from sparring.rollout.nucleus import Masker


@dataclass(frozen=True, kw_only=True, eq=False)
class Lagged:
    """A masker that becomes the policy of the moment in the first of every `every` rounds."""

    policy: Network
    masker: Masker
    every: int

    @torch.no_grad()
    def follow(self, number: int) -> None:
        """Catch up with the policy, if this round (counted from 0) is one to do so."""
        if number % self.every:
            return
        for name, weight in self._weights().items():
            weight.copy_(self._source()[name])

    def state(self) -> dict[str, Tensor]:
        """Return the weights of the copy."""
        return {n: p.detach() for n, p in self._weights().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        for name, weight in self._weights().items():
            weight.copy_(state[name])

    def _source(self) -> dict[str, Tensor]:
        return dict(self.policy.trunk.parameters(self.policy.adapter))

    def _weights(self) -> dict[str, Tensor]:
        """The copy's weights under the names that the policy's have: two adapters differ in theirs."""
        network, adapter = self.masker.network, self.policy.adapter
        own = network.trunk.parameters(network.adapter)
        return {n.replace(f".{network.adapter}.", f".{adapter}.") if adapter else n: p for n, p in own.items()}

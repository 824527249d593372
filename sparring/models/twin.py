"""A copy of a role that stands still, and becomes what the role is now whenever it is told to."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.models.roles import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Twin:
    """A role and its copy: another adapter on the same trunk, or a trunk of its own."""

    original: Network
    copy: Network

    @torch.no_grad()
    def follow(self) -> None:
        """Catch up with the original."""
        now = self.original.trainable()
        for name, weight in self._weights().items():
            weight.copy_(now[name])

    def state(self) -> dict[str, Tensor]:
        """Return the weights of the copy."""
        return {n: p.detach() for n, p in self._weights().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        for name, weight in self._weights().items():
            weight.copy_(state[name])

    def _weights(self) -> dict[str, Tensor]:
        """The copy's weights under the names that the original's have: two adapters differ in theirs."""
        adapter, other = self.original.adapter, self.copy.adapter
        return {n.replace(f".{other}.", f".{adapter}.") if other else n: p for n, p in self.copy.trainable().items()}

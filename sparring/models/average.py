"""The moving average of a role's weights: steadier than the weights, which follow the last batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Follows weights: w_avg <- decay w_avg + (1 - decay) w after every update. Starts as what the weights are now."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self._average = {n: p.detach().clone() for n, p in weights.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights as they are now."""
        for name, weight in self.weights.items():
            self._average[name].lerp_(weight, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the average stand in place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self._average[name] = self._average[name], weight.data

    def state(self) -> dict[str, Tensor]:
        """Return the average."""
        return self._average

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        for name, average in self._average.items():
            average.copy_(state[name])

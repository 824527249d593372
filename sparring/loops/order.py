"""Which records a step or round takes: the next ones of an endless row of shuffled epochs.

It follows from the number of the step alone, so a resumed run needs no saved data position. A batch that
is larger than the data goes on into the next epoch, and so holds some records twice.
"""

from numpy import ndarray

from sparring.core.seeds import rng


class Order:
    """The order of `count` records in batches of `size`; `name` is the stream that shuffles them."""

    def __init__(self, count: int, size: int, seed: int, name: str) -> None:
        self.count, self.size, self.seed, self.name = count, size, seed, name
        self._shuffled: dict[int, ndarray] = {}

    def at(self, number: int) -> list[int]:
        """List the places of the records of one step, counted from 0."""
        out: list[int] = []
        while len(out) < self.size:
            epoch, start = divmod(number * self.size + len(out), self.count)
            out += self._epoch(epoch)[start : start + self.size - len(out)].tolist()
        return out

    def _epoch(self, epoch: int) -> ndarray:
        if epoch not in self._shuffled:
            # Only the newest is kept; shuffling all of a large data set anew for every step would be slow.
            self._shuffled = {epoch: rng(self.seed, self.name, epoch).permutation(self.count)}
        return self._shuffled[epoch]

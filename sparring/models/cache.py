"""Keys and values of past tokens, in room that is reserved once.

The library's own cache grows by copying everything at every token. This one writes each token into its
place. When rows end, rows from the end of the buffer move into the gaps, so little is copied then, too.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Past(Enum):
    """How an architecture can go on from what it has read."""

    PADDED = "from a buffer of ours, with masks, so that prompts of different lengths go together"
    PLAIN = "from the library's cache, without masks"
    NONE = "not at all: every token is computed anew"


class Buffer:
    """A cache as the architectures of transformers call it: `update` in each layer, `get_seq_length` once.

    It is read first as the prompts leave it, one row for each; `spread` makes it K rows for each, with room
    for what will be sampled. `filled` counts the tokens that every layer holds.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.filled = 0
        self.rows: int | None = None
        self._layers: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Float[Tensor, "rows heads S D"], Float[Tensor, "rows heads S E"]]:
        """Take in the newest tokens of one layer and give back all of its tokens."""
        if self.rows is None:
            self._layers.append((key_states, value_states))
            return key_states, value_states
        end = self.filled + key_states.shape[2]
        found = []
        for room, new in zip(self._layers[layer_idx], (key_states, value_states), strict=True):
            room[: self.rows, self.filled : end] = new.transpose(1, 2)
            found.append(room[: self.rows, :end].transpose(1, 2))
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Count the tokens read so far."""
        return self.filled

    def spread(self, K: int, room: int, dtype: torch.dtype) -> None:
        """Copy every row K times, into room for `room` tokens.

        Tokens lie apart and heads together: a new token is one piece of memory, and the products over past
        tokens run through memory in order.
        """
        self._layers = [(_spread(k, K, room, dtype), _spread(v, K, room, dtype)) for k, v in self._layers]
        self.rows = len(self._layers[0][0])

    def keep(self, order: Int[Tensor, " n"]) -> None:
        """Let row i be what row `order[i]` was, and forget the rows beyond; `order[i]` is i or comes from beyond."""
        self.rows = len(order)
        gaps = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
        movers = order[gaps]
        for layer in self._layers:
            for room in layer:
                room[gaps, : self.filled] = room[movers, : self.filled]


class Growing:
    """The same for tokens that a gradient goes back through, which nothing may overwrite: it grows by copying."""

    is_compileable = False

    def __init__(self) -> None:
        self.filled = 0
        self._layers: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Float[Tensor, "rows heads S D"], Float[Tensor, "rows heads S E"]]:
        """Take in the newest tokens of one layer and give back all of its tokens."""
        new = key_states, value_states
        if layer_idx < len(self._layers):
            keys, values = self._layers[layer_idx]
            new = torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)
            self._layers[layer_idx] = new
        else:
            self._layers.append(new)
        return new

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Count the tokens read so far."""
        return self.filled

    def spread(self, K: int, room: int, dtype: torch.dtype) -> None:
        """Copy every row K times; no room is reserved."""
        both = [(k.repeat_interleave(K, 0), v.repeat_interleave(K, 0)) for k, v in self._layers]
        self._layers = [(k.to(dtype), v.to(dtype)) for k, v in both]


def _spread(
    x: Float[Tensor, "rows heads S D"], K: int, room: int, dtype: torch.dtype
) -> Float[Tensor, "R room heads D"]:
    rows, heads, S, D = x.shape
    out = torch.empty(rows, K, room, heads, D, dtype=dtype, device=x.device)
    out[:, :, :S] = x.transpose(1, 2)[:, None]
    return out.reshape(rows * K, room, heads, D)

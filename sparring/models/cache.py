"""Keys and values of past tokens, in room that is reserved once.

The library's own cache grows by copying everything at every token. This one writes into a buffer, copies
only when rows leave, and keeps the interface that the architectures of transformers call.
"""

from typing import Any

import torch
from torch import Tensor


def new_cache(layers: int, room: int) -> Any:
    """Make an empty cache with room for `room` tokens in each of `layers` layers."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Buffer(DynamicLayer):
        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            super().lazy_initialization(key_states, value_states)
            self.filled = 0
            self.key_room = self._room_for(key_states)
            self.value_room = self._room_for(value_states)

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            end = self.filled + key_states.shape[-2]
            self.key_room[:, :, self.filled : end] = key_states
            self.value_room[:, :, self.filled : end] = value_states
            return self._show(end)

        def batch_repeat_interleave(self, repeats: int) -> None:
            self._reroom(lambda x: x.repeat_interleave(repeats, 0))

        def batch_select_indices(self, indices: Tensor) -> None:
            self._reroom(lambda x: x[indices])

        def _reroom(self, change: Any) -> None:
            # Only what is filled is copied; the rest of the room holds nothing yet.
            keys, values = change(self.keys), change(self.values)
            self.key_room, self.value_room = self._room_for(keys), self._room_for(values)
            self.key_room[:, :, : self.filled], self.value_room[:, :, : self.filled] = keys, values
            self._show(self.filled)

        def _room_for(self, x: Tensor) -> Tensor:
            return torch.empty(x.shape[0], x.shape[1], room, x.shape[3], dtype=x.dtype, device=x.device)

        def _show(self, end: int) -> tuple[Tensor, Tensor]:
            self.filled = end
            self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]
            return self.keys, self.values

    return Cache(layers=[Buffer() for _ in range(layers)])


def library_cache(config: Any) -> Any:
    """Make the library's own cache, for architectures with sliding windows or other special layers."""
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=config)

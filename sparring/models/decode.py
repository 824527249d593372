"""A model between two tokens: what it has read, and what it thinks of the next.

A prompt is read once and its keys and values are copied to its K responses. Prompts of different lengths
go together, padded on the left, where masks can hide the padding. Whether they can, and whether a
cache can be used at all, is found out by computing, once for each model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparring.data.batch import Row, collate
from sparring.models.attention import additive
from sparring.models.cache import Buffer, Growing, Past
from sparring.models.forward import compute_dtype, is_close, window
from sparring.models.trunk import Trunk


def past_of(trunk: Trunk, length: int) -> Past:
    """How this model can go on from up to `length` tokens; the first call finds out, in 32 bits."""
    if trunk.past is None:
        with torch.autocast(trunk.device.type, enabled=False):
            trunk.past = _find_out(trunk)
    return Past.PLAIN if trunk.past is Past.PADDED and length > window(trunk) else trunk.past


class Decoder:
    """K rows for each prompt, with room for `room` new tokens. Unless padding can be hidden, prompts have one length.

    The adapters that speak are those that are switched on while it is used. With `is_differentiable`, for PADDED pasts
    alone, a gradient goes back through all that was read.
    """

    def __init__(
        self,
        trunk: Trunk,
        prompts: Sequence[tuple[int, ...]],
        K: int,
        room: int,
        past: Past,
        *,
        is_differentiable: bool = False,
    ) -> None:
        self.trunk, self.past = trunk, past
        batch = collate([Row(prompt=p, responses=()) for p in prompts]).to(trunk.device)
        ids, mask = batch.prompt_ids, batch.prompt_mask
        P = ids.shape[1]
        assert past is Past.PADDED or bool(mask.all()), "prompts of different lengths need masks"
        if past is Past.PADDED:
            self.cache: Any = Growing() if is_differentiable else Buffer()
            causal = torch.ones(P, P, dtype=torch.bool, device=ids.device).tril()
            itself = torch.eye(P, dtype=torch.bool, device=ids.device)  # else the softmax of padding is empty
            dtype = compute_dtype(trunk)
            seen = additive((mask[:, None, :] & causal | itself)[:, None], dtype)
            self._run({"input_ids": ids}, seen, (mask.cumsum(-1) - 1).clamp(min=0))
            self.cache.filled = P
            self.cache.spread(K, P + room, dtype)
            visible = torch.cat([mask, mask.new_ones(len(mask), room)], -1).repeat_interleave(K, 0)
            self.seen, self.position = additive(visible, dtype), mask.sum(-1).repeat_interleave(K, 0)
        elif past is Past.PLAIN:
            self.cache = trunk.library_cache()
            self._run({"input_ids": ids})
            self.cache.batch_repeat_interleave(K)
        else:
            self.read = ids
            self._run({"input_ids": ids})
            self.read = ids.repeat_interleave(K, 0)
        self.newest = self.newest.repeat_interleave(K, 0)

    def logits(self) -> Float[Tensor, "rows V"]:
        """What the model thinks of the next token in each row, in 32 bits."""
        head = self.trunk.head
        if head is None or not self.trunk.has_linear_head:
            return self.newest.float()
        return head(self.newest).float()

    def keep(self, going: Bool[Tensor, " rows"]) -> Int[Tensor, " n"]:
        """Let only these rows go on; returns which row each place holds now. Rows from the end fill the gaps."""
        n = int(going.sum())
        order = torch.arange(n, device=going.device)
        order[~going[:n]] = going[n:].nonzero()[:, 0] + n
        if self.past is Past.PADDED:
            self.cache.keep(order)
            self.seen, self.position = self.seen[order], self.position[order]
        elif self.past is Past.PLAIN:
            self.cache.batch_select_indices(order)
        else:
            self.read = self.read[order]
        return order

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Read one more token in each row."""
        if self.past is Past.PADDED:
            self._run_padded({"input_ids": tokens[:, None]})
        elif self.past is Past.PLAIN:
            self._run({"input_ids": tokens[:, None]})
        else:
            self.read = torch.cat([self.read, tokens[:, None]], -1)
            self._run({"input_ids": self.read})

    def advance_embedded(self, embedded: Float[Tensor, "rows D"]) -> None:
        """Read what stands in the place of one more token's embedding in each row; for PADDED pasts."""
        assert self.past is Past.PADDED, "embeddings are read where padding can be hidden"
        self._run_padded({"inputs_embeds": embedded[:, None]})

    def _run_padded(self, shown: Mapping[str, Tensor]) -> None:
        end = self.cache.filled + 1
        self._run(shown, self.seen[:, None, None, :end], self.position[:, None])
        self.cache.filled, self.position = end, self.position + 1

    def _run(self, shown: Mapping[str, Tensor], seen: Tensor | None = None, position: Tensor | None = None) -> None:
        """Set `newest`: the last hidden state of each row, or its logits where the head is more than a linear map."""
        asked: dict[str, object] = {**shown, "use_cache": False}
        if self.past is not Past.NONE:
            asked |= {"past_key_values": self.cache, "use_cache": True}
        if seen is not None:
            asked |= {"attention_mask": seen, "position_ids": position}
        if self.trunk.has_linear_head or self.trunk.head is None:
            self.newest = self.trunk.body(**asked).last_hidden_state[:, -1]
        else:
            self.newest = self.trunk.lm(**asked).logits[:, -1]


@torch.no_grad()
def _find_out(trunk: Trunk) -> Past:
    """Read two texts token by token in each way and take the first that agrees with reading them at once."""
    g = torch.Generator().manual_seed(1)
    text = torch.randint(0, len(trunk.embedding), (2, 9), generator=g)
    for past, starts in ((Past.PADDED, (5, 3)), (Past.PLAIN, (5, 5))):
        try:
            if all(_agrees(trunk, text, starts, past)):
                return past
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            continue  # an architecture that takes no such cache or mask says so in one of these ways
    return Past.NONE


def _agrees(trunk: Trunk, text: Int[Tensor, "2 n"], starts: tuple[int, int], past: Past) -> list[bool]:
    """Whether the last hidden states, read on from prompts of these lengths, are those of the whole text."""
    room = 3
    prompts = [tuple(text[i, :n].tolist()) for i, n in enumerate(starts)]
    decoder = Decoder(trunk, prompts, 2, room, past)
    for t in range(room):
        new = torch.stack([text[i, n + t] for i, n in enumerate(starts)]).repeat_interleave(2).to(trunk.device)
        decoder.advance(new)
    out = []
    for i, n in enumerate(starts):
        whole = Decoder(trunk, [tuple(text[i, : n + room].tolist())], 1, 1, Past.NONE).newest[0]
        out += [is_close(decoder.newest[2 * i + k], whole) for k in range(2)]
    return out

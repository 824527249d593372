"""Attention over packed tokens: prompts and responses of any length in one row, and no padding among them.

Everything in a transformer but attention treats each token for itself, so the tokens of a batch can stand
in one row: first those of the prompts, then those of the responses. Only here are they laid out in
rectangles. A prompt looks at its own past; a response looks at its prompt, and at its own past. What a
batch has in padding, or in prompts that belong to several responses, costs nothing anywhere else.

The rectangles are made anew for the backward pass instead of being kept: that costs one more attention and
saves the copies of a prompt's keys and values for each of its responses.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, kw_only=True)
class Rectangles:
    """Where each packed token stands in B prompts of P and B * K responses of T, and who may look at whom.

    The masks are amounts to add: to the prompts' products [B, 1, P, P], and to the responses' products with the
    prompt and themselves [B * K, 1, T, P + T].
    """

    prompt_places: Int[Tensor, " p"]
    response_places: Int[Tensor, " n"]
    prompt_mask: Float[Tensor, "B 1 P P"]
    response_mask: Float[Tensor, "M 1 T S"]

    def attend(
        self,
        module: nn.Module,
        query: Float[Tensor, "1 H N D"],
        key: Float[Tensor, "1 G N D"],
        value: Float[Tensor, "1 G N E"],
        attention_mask: Tensor | None = None,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        sliding_window: int | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
    ) -> tuple[Float[Tensor, "1 N H E"], None]:
        """Attend as the layers of transformers ask for it; H query heads share G heads of keys and values.

        An architecture that asks for more than this, in words that are not here, is not understood (TypeError).
        """
        if softcap is not None or dropout:
            raise NotImplementedError("attention with a soft cap or dropout")
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if not torch.is_grad_enabled():
            return self._attend(q, k, v, scaling)[None], None
        out = checkpoint(self._attend, q, k, v, scaling, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(out, Tensor)
        return out[None], None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Float[Tensor, "N H E"]:
        (B, _, _, P), (M, _, T, _) = self.prompt_mask.shape, self.response_mask.shape
        n = len(self.prompt_places)
        asked = _spread(query[:n], self.prompt_places, B, P), _spread(query[n:], self.response_places, M, T)
        first, second = [], []
        for x in (key, value):
            prompt, own = _spread(x[:n], self.prompt_places, B, P), _spread(x[n:], self.response_places, M, T)
            first.append(prompt)
            second.append(torch.cat([prompt[:, None].expand(B, M // B, *prompt.shape[1:]).flatten(0, 1), own], 1))
        at_prompt = _attention(asked[0], first[0], first[1], self.prompt_mask, scaling)
        at_response = _attention(asked[1], second[0], second[1], self.response_mask, scaling)
        return torch.cat([_Take.apply(at_prompt, self.prompt_places), _Take.apply(at_response, self.response_places)])


def rectangles(prompt_mask: Bool[Tensor, "B P"], mask: Bool[Tensor, "B K T"], dtype: torch.dtype) -> Rectangles:
    """Lay out a batch; prompts are padded on the left. Padding looks at itself, else its softmax would be empty."""
    (B, K, T), P = mask.shape, prompt_mask.shape[1]
    past = torch.ones(max(P, T), max(P, T), dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(P, dtype=torch.bool, device=mask.device)
    among_prompts = prompt_mask[:, None, :] & past[:P, :P] | itself
    at_prompt = prompt_mask[:, None, None, :].expand(B, K, T, P)
    seen = torch.cat([at_prompt, past[:T, :T].expand(B, K, T, T)], -1).flatten(0, 1)
    return Rectangles(
        prompt_places=prompt_mask.flatten().nonzero()[:, 0],
        response_places=mask.flatten().nonzero()[:, 0],
        prompt_mask=additive(among_prompts[:, None], dtype),
        response_mask=additive(seen[:, None], dtype),
    )


def additive(seen: Bool[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """Give a mask the form that every attention takes: nothing for what is seen, very much less for the rest."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Attend within rectangles of rows, tokens, heads and numbers."""
    shared_by = query.shape[2] // key.shape[2]
    if shared_by > 1:
        key, value = key.repeat_interleave(shared_by, 2), value.repeat_interleave(shared_by, 2)
    turned = [x.transpose(1, 2) for x in (query, key, value)]
    return scaled_dot_product_attention(*turned, attn_mask=mask, scale=scaling).transpose(1, 2)


def _spread(packed: Float[Tensor, "n H D"], places: Int[Tensor, " n"], rows: int, width: int) -> Tensor:
    """Put packed tokens into their places in a rectangle, zeros elsewhere."""
    out = packed.new_zeros(rows * width, *packed.shape[1:])
    return out.index_copy(0, places, packed).view(rows, width, *packed.shape[1:])


class _Take(torch.autograd.Function):
    """Take the packed tokens out of a rectangle; each is taken once, so the way back is a copy and no sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.flatten(0, 1)[places]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        (places,) = ctx.saved_tensors
        rows, width, *rest = ctx.shape
        return grad.new_zeros(rows * width, *rest).index_copy_(0, places, grad).view(ctx.shape), None

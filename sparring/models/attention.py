"""Attention over packed tokens: prompts and responses of any length in one row, and no padding among them.

Everything in a transformer but attention treats each token for itself, so the tokens of a batch can stand
in one row: first those of the prompts, then those of the responses. Only here are they laid out in
rectangles. A prompt looks at its own past; a response looks at its prompt, and at its own past. What a
batch has in padding, or in prompts that belong to several responses, costs nothing anywhere else.

The rectangles are made anew for the backward pass instead of being kept: that costs one more attention and
saves the copies of a prompt's keys and values for each of its responses.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, kw_only=True)
class Rectangles:
    """Where each packed token stands in B prompts of P and M responses of T, and who may look at whom.

    `seats` say which of B * K places each response has; those that nobody has cost nothing. The masks are amounts to
    add: to the prompts' products [B, 1, P, P], and to the responses' products with the prompt and themselves
    [M, 1, T, P + T].
    """

    prompt_places: Int[Tensor, " p"]
    response_places: Int[Tensor, " n"]
    seats: Int[Tensor, " M"]
    K: int
    prompt_mask: Float[Tensor, "B 1 P P"]
    response_mask: Float[Tensor, "M 1 T S"]

    def to(self, dtype: torch.dtype) -> "Rectangles":
        """The same where heads compute in this number format."""
        return replace(self, prompt_mask=self.prompt_mask.to(dtype), response_mask=self.response_mask.to(dtype))

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

        An architecture that asks for more than this, in words that are not here, is not understood (TypeError). Heads
        compute in the number format of the masks.
        """
        if softcap is not None or dropout:
            raise NotImplementedError("attention with a soft cap or dropout")
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        out = _Attention.apply(q, k, v, self, scaling)
        assert isinstance(out, Tensor)
        return out[None], None


def rectangles(prompt_mask: Bool[Tensor, "B P"], mask: Bool[Tensor, "B K T"], dtype: torch.dtype) -> Rectangles:
    """Lay out a batch; prompts are padded on the left. Padding looks at itself, else its softmax would be empty."""
    (_, K, T), P = mask.shape, prompt_mask.shape[1]
    seats = mask.any(-1).flatten().nonzero()[:, 0]
    there = mask.flatten(0, 1)[seats]
    past = torch.ones(max(P, T), max(P, T), dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(P, dtype=torch.bool, device=mask.device)
    among_prompts = prompt_mask[:, None, :] & past[:P, :P] | itself
    at_prompt = prompt_mask[seats // K][:, None].expand(-1, T, P)
    seen = torch.cat([at_prompt, past[:T, :T].expand(len(seats), T, T)], -1)
    return Rectangles(
        prompt_places=prompt_mask.flatten().nonzero()[:, 0],
        response_places=there.flatten().nonzero()[:, 0],
        seats=seats,
        K=K,
        prompt_mask=additive(among_prompts[:, None], dtype),
        response_mask=additive(seen[:, None], dtype),
    )


def additive(seen: Bool[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """Give a mask the form that every attention takes: nothing for what is seen, very much less for the rest."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


class _Attention(torch.autograd.Function):
    """From packed queries, keys and values to packed results; only these are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Rectangles, scaling: float | None) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.where, ctx.scaling = where, scaling
        at_prompt, at_response = _attend(where, _lay_out(where, q, k, v), scaling)
        return _take(where, at_prompt, at_response)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        where, n = ctx.where, len(ctx.where.prompt_places)
        q, k, v = ctx.saved_tensors
        if q.device.type == "cpu" and where.prompt_mask.dtype.itemsize < 4:
            # On a CPU torch 2.13 goes back through attention two to five times as fast in 32 bits as in 16.
            where = where.to(torch.float32)
        parts = [x.requires_grad_() for x in _lay_out(where, q, k, v)]
        (B, _, _, P), (M, _, T, _) = where.prompt_mask.shape, where.response_mask.shape
        with torch.enable_grad():
            found = _attend(where, parts, ctx.scaling)
        grad = grad.to(where.prompt_mask.dtype)
        pulls = _put(grad[:n], where.prompt_places, B, P), _put(grad[n:], where.response_places, M, T)
        grads = torch.autograd.grad(found, parts, pulls)
        out = [_take(where, grads[0], grads[3]).to(q.dtype)]
        for x, at_prompt, at_both in ((k, grads[1], grads[4]), (v, grads[2], grads[5])):
            asked = _put(at_both[:, :P], where.seats, B, where.K).sum(1)  # what the responses want of their prompt
            out.append(_take(where, at_prompt + asked, at_both[:, P:]).to(x.dtype))
        return *out, None, None


def _lay_out(where: Rectangles, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Queries, keys and values of the prompts, and of the responses, whose keys and values begin with the prompt's."""
    (B, _, _, P), (M, _, T, _) = where.prompt_mask.shape, where.response_mask.shape
    n, dtype = len(where.prompt_places), where.prompt_mask.dtype
    packed = [x.detach().to(dtype) for x in (q, k, v)]
    prompts = [_put(x[:n], where.prompt_places, B, P) for x in packed]
    responses = [_put(x[n:], where.response_places, M, T) for x in packed]
    asked = where.seats // where.K
    for i in (1, 2):
        responses[i] = torch.cat([prompts[i][asked], responses[i]], 1)
    return prompts + responses


def _attend(where: Rectangles, parts: list[Tensor], scaling: float | None) -> tuple[Tensor, Tensor]:
    """Attend within both rectangles; each part is rows, tokens, heads and numbers."""
    at_prompt = _attend_within(parts[0], parts[1], parts[2], where.prompt_mask, scaling)
    return at_prompt, _attend_within(parts[3], parts[4], parts[5], where.response_mask, scaling)


def _attend_within(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    shared_by = q.shape[2] // k.shape[2]
    if shared_by > 1:
        k, v = k.repeat_interleave(shared_by, 2), v.repeat_interleave(shared_by, 2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(1, 2)


def _put(packed: Tensor, places: Int[Tensor, " n"], rows: int, width: int) -> Tensor:
    """Put packed tokens into their places in a rectangle, zeros elsewhere; without padding nothing moves."""
    if len(places) < rows * width:
        packed = packed.new_zeros(rows * width, *packed.shape[1:]).index_copy_(0, places, packed)
    return packed.unflatten(0, (rows, width)).detach()


def _take(where: Rectangles, prompts: Tensor, responses: Tensor) -> Tensor:
    """Take the packed tokens out of their rectangles again."""
    pairs = (prompts.flatten(0, 1), where.prompt_places), (responses.flatten(0, 1), where.response_places)
    return torch.cat([x if len(places) == len(x) else x[places] for x, places in pairs])

"""Log-probabilities of chosen tokens without ever holding the logits of all of them.

The logits of a response are its largest tensor by far: vocabulary times tokens. Here they exist for one
chunk of tokens at a time, in the forward and again in the backward pass, where they are computed anew.
That costs one more product with the head and saves all the memory.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sparring.models.allowed import restrict

CHUNK_NUMBERS = 2**22  # logits that exist at once: 16 MB in 32 bits
FEWEST = 16  # tokens in a chunk, however large the vocabulary


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        allowed: Tensor | None,
    ) -> Tensor:
        ctx.low = _product_dtype(hidden, weight)
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        norms = torch.empty_like(logps)
        read = _Head(weight, bias, scale, ctx.low)
        for part in _chunks(len(targets), len(weight)):
            logits = restrict(read(hidden[part]), None if allowed is None else allowed[part])
            top = logits.amax(-1)
            chosen = logits.sub_(top[:, None]).gather(-1, targets[part, None])[:, 0]
            spread = logits.exp_().sum(-1).log_()
            logps[part], norms[part] = chosen - spread, top + spread
        ctx.save_for_backward(hidden, weight, bias, targets, norms, allowed)
        ctx.scale = scale
        return logps

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        hidden, weight, bias, targets, norms, allowed = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        read = _Head(weight, bias, ctx.scale, ctx.low)
        for part in _chunks(len(targets), len(weight)):
            # d logp / d logits = onehot - softmax, built in place of the logits.
            logits = restrict(read(hidden[part]), None if allowed is None else allowed[part])
            slope = logits.sub_(norms[part, None]).exp_()
            pull = (grad[part, None] * ctx.scale).to(slope.dtype)
            slope.mul_(-pull).scatter_add_(-1, targets[part, None], pull)
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            slope = slope.to(ctx.low)
            if grad_hidden is not None:
                grad_hidden[part] = (slope @ read.weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[part].to(ctx.low)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def token_logps(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
    allowed: UInt8[Tensor, "N W"] | None = None,
) -> Float[Tensor, " N"]:
    """Score each target token, in nats, under softmax((hidden @ weight.T + bias) / temperature), in 32 bits.

    With `allowed`, a bit for each token of the vocabulary, the others have probability 0.
    """
    return _ChunkedLogProbs.apply(hidden, weight, bias, targets, 1.0 / temperature, allowed)


def entropies(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """Measure the entropy of each next-token distribution, in nats, under the same softmax, in 32 bits."""
    low = _product_dtype(hidden, weight)

    def of(part: Tensor) -> Tensor:
        logps = _Head(weight, bias, 1.0 / temperature, low)(part).log_softmax(-1)
        return -(logps.exp() * logps).sum(-1)

    return _in_chunks(of, len(weight), hidden)


def divergences(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    ref_hidden: Float[Tensor, "N E"],
    ref_weight: Float[Tensor, "V E"],
    ref_bias: Float[Tensor, " V"] | None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """Measure KL(policy | reference) of each next-token distribution over the whole vocabulary, in nats, in 32 bits.

    Both are taken at the same temperature. The reference has no gradient.
    """
    low, ref_low = _product_dtype(hidden, weight), _product_dtype(ref_hidden, ref_weight)

    def of(part: Tensor, ref_part: Tensor) -> Tensor:
        with torch.no_grad():
            ref_logps = _Head(ref_weight, ref_bias, 1.0 / temperature, ref_low)(ref_part).log_softmax(-1)
        logps = _Head(weight, bias, 1.0 / temperature, low)(part).log_softmax(-1)
        return (logps.exp() * (logps - ref_logps)).sum(-1)

    return _in_chunks(of, len(weight), hidden, ref_hidden)


def _in_chunks(of: Callable[..., Tensor], vocabulary: int, *hidden: Float[Tensor, "N _"]) -> Float[Tensor, " N"]:
    """Apply a function of hidden states a chunk at a time, once more in the backward pass."""
    pieces = _chunks(len(hidden[0]), vocabulary)
    parts = [checkpoint(of, *(h[piece] for h in hidden), use_reentrant=False) for piece in pieces]
    return torch.cat(parts) if parts else hidden[0].new_zeros(0)


class _Head:
    """The language-model head in the number format of the products, from hidden states to logits in 32 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float, low: torch.dtype) -> None:
        self.weight, self.bias = weight.to(low), None if bias is None else bias.to(low)
        self.scale = scale

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float()
        return logits if self.scale == 1.0 else logits.mul_(self.scale)


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Multiply in 16 bits when the body does, though its weights are held in 32; backward as in forward."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return hidden.dtype if hidden.dtype == torch.bfloat16 else weight.dtype


def chunk_tokens(vocabulary: int) -> int:
    """How many tokens have logits at once."""
    return max(FEWEST, CHUNK_NUMBERS // vocabulary)


def _chunks(total: int, vocabulary: int) -> list[slice]:
    size = chunk_tokens(vocabulary)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]

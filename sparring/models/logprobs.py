"""Log-probabilities of chosen tokens without ever holding the logits of all of them.

The logits of a response are its largest tensor by far: vocabulary times tokens. Here they exist for one
chunk of tokens at a time, in the forward and again in the backward pass, where they are computed anew.
That costs one more product with the head and saves all the memory.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_NUMBERS = 2**22  # logits that exist at once: 16 MB in 32 bits


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float) -> Tensor:
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        norms = torch.empty_like(logps)
        for part in _chunks(len(targets), weight.shape[0]):
            logits = _logits(hidden[part], weight, bias, scale)
            norms[part] = logits.logsumexp(-1)
            logps[part] = logits.gather(-1, targets[part, None])[:, 0] - norms[part]
        ctx.save_for_backward(hidden, weight, bias, targets, norms)
        ctx.scale = scale
        return logps

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, norms = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        for part in _chunks(len(targets), weight.shape[0]):
            # d logp / d logits = onehot - softmax, built in place of the logits.
            slope = _logits(hidden[part], weight, bias, ctx.scale).sub_(norms[part, None]).exp_()
            slope.mul_(-grad[part, None] * ctx.scale)
            slope.scatter_add_(-1, targets[part, None], grad[part, None] * ctx.scale)
            low = _product_dtype(hidden, weight)
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            slope = slope.to(low)
            if grad_hidden is not None:
                grad_hidden[part] = (slope @ weight.to(low)).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[part].to(low)
        return grad_hidden, grad_weight, grad_bias, None, None


def token_logps(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """Score each target token, in nats, under softmax((hidden @ weight.T + bias) / temperature), in 32 bits."""
    return _ChunkedLogProbs.apply(hidden, weight, bias, targets, 1.0 / temperature)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    low = _product_dtype(hidden, weight)
    logits = torch.nn.functional.linear(hidden.to(low), weight.to(low), None if bias is None else bias.to(low))
    logits = logits.float()
    return logits if scale == 1.0 else logits * scale


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Multiply in 16 bits when the body computed in 16 bits, though its weights are held in 32."""
    return hidden.dtype if hidden.dtype == torch.bfloat16 else weight.dtype


def _chunks(total: int, vocabulary: int) -> list[slice]:
    size = max(16, CHUNK_NUMBERS // vocabulary)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]

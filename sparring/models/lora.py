"""A linear map and its LoRA adapter in one step, in place of the six that peft takes.

    y = W x + b + s B (A x)

The adapter's share is added inside the product that makes it, the input is turned into 16 bits once, and all that is
kept for the way back is that input and A x. What of W, A and B is not held in the number format of the products is
turned into it anew on the way back, so no copy of the model lies in the graph.

Whatever is more than this (quantised weights, DoRA, merged or several adapters) is left to peft.
"""

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def hasten(layers: Iterable[Any]) -> None:
    """Let peft's linear layers compute in one step where they can."""
    for layer in layers:
        layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: Tensor) -> Tensor:
    name = _only_adapter(layer)
    kind = x.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    weight, bias = layer.get_base_layer().weight, layer.get_base_layer().bias
    is_mixed = weight.dtype != low and not torch.is_autocast_enabled(kind)
    if name is None or is_mixed:
        return type(layer).forward(layer, x)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    asked = (x.flatten(0, -2).to(low), weight, bias, a, b, layer.scaling[name], not layer.fan_in_fan_out)
    out = _Adapted.apply(*asked) if torch.is_grad_enabled() else _products(*asked)[0]
    assert isinstance(out, Tensor)
    return out.unflatten(0, x.shape[:-1])


def _only_adapter(layer: Any) -> str | None:
    """Name the adapter that is on, if it is one, of the plain kind, on weights of the plain kind."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_B[name].bias is not None:
        return None
    if layer.training or not layer.get_base_layer().weight.is_floating_point():
        return None
    return name


def _products(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, upright: bool
) -> tuple[Tensor, Tensor]:
    """Compute y and A x in the number format of x."""
    w, a, b = (p.to(x.dtype) for p in (weight, a, b))
    inner = x @ a.T
    out = nn.functional.linear(x, w if upright else w.T, None if bias is None else bias.to(x.dtype))
    return out.addmm_(inner, b.T, alpha=scale), inner


class _Adapted(torch.autograd.Function):
    """x [N, in] in the number format of the products; W [out, in], unless it lies the other way round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, upright: bool
    ) -> Tensor:
        out, inner = _products(x, weight, bias, a, b, scale, upright)
        ctx.save_for_backward(x, inner, weight, bias, a, b)
        ctx.scale, ctx.upright = scale, upright
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, bias, a, b = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_a, wants_b, *_ = ctx.needs_input_grad
        grad = grad_outputs[0].to(x.dtype)
        back = (grad @ b.to(x.dtype)).mul_(ctx.scale)
        grad_x = grad_weight = None
        if wants_x:
            w = weight.to(x.dtype)
            grad_x = (grad @ (w if ctx.upright else w.T)).addmm_(back, a.to(x.dtype))
        if wants_weight:
            grad_weight = (grad.T @ x if ctx.upright else x.T @ grad).to(weight.dtype)
        grad_bias = grad.sum(0).to(bias.dtype) if wants_bias else None
        grad_a = (back.T @ x).to(a.dtype) if wants_a else None
        grad_b = (grad.T @ inner).mul_(ctx.scale).to(b.dtype) if wants_b else None
        return grad_x, grad_weight, grad_bias, grad_a, grad_b, None, None

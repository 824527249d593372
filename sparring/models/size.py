"""How large a model is, found out from its config.json alone: no weight is loaded, none is even made.

Weights are counted on the meta device, where tensors have shapes and no numbers. What a forward pass keeps for
the way back is counted too, not guessed: the body runs over pretended tensors, autograd says which of its
states it would keep, and their bytes are added up for two lengths of text. Their difference is what one more
token costs; the rest does not depend on the text (such as copies of the weights in 16 bits). So the figures hold
for any architecture that transformers knows, with adapters and without.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.models.backbone import blank_model
from sparring.models.machine import LOW
from sparring.models.trunk import POLICY, Trunk, is_map, narrow

SHORT, LONG = 64, 128  # tokens of the two texts that are pretended
FOUR_BIT = 0.5 + 4 / 64  # bytes of a 4-bit weight: half a byte, and a scale in 32 bits for every 64


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the memory of a run is computed from. Counts are numbers, `held` and `kept` are bytes.

    `held` is the trunk as it lies in memory, `frozen` a copy of it that is not trained; `body` its numbers without a
    language-model head of its own; `adapter` the numbers of one LoRA adapter, 0 without; `largest` the largest single
    weight; `inner` the widest state inside a layer; `remembered` what sampling keeps of one token, in numbers; `kept`
    bytes for the way back for each token, `kept_once` those that do not depend on the text.
    """

    numbers: int
    held: int
    frozen: int
    body: int
    adapter: int
    largest: int
    layers: int
    width: int
    inner: int
    vocabulary: int
    remembered: int
    kept: float
    kept_once: float
    low: torch.dtype | None
    context: int | None = None

    @property
    def is_half(self) -> bool:
        """Whether matrices are multiplied in 16 bits."""
        return self.low is not None

    @property
    def is_adapted(self) -> bool:
        """Whether roles are adapters on one frozen trunk."""
        return self.adapter > 0

    @property
    def head(self) -> int:
        """The numbers of the language-model head."""
        return self.vocabulary * self.width


def size_of(path: str, *, adapter: str, rank: int, precision: str, trust_remote_code: bool = False) -> Size:
    """Count what the model in a folder (or hub id) weighs and keeps; `precision` is fp32 or bf16.

    Raises ModelError when there is no config.json, or none that transformers can make a causal model of.
    """
    lm = blank_model(path, trust_remote_code=trust_remote_code)
    numbers, body = _count(lm), _count(lm.base_model)
    maps = [m.weight.numel() for m in lm.base_model.modules() if is_map(m)]
    quantised = sum(m.weight.numel() for m in lm.base_model.modules() if isinstance(m, nn.Linear))
    low = LOW.get(precision)
    largest = max(p.numel() for p in lm.parameters())
    inner = max(maps) // lm.config.get_text_config().hidden_size
    trunk = Trunk(lm=lm, tokenizer=None, source=path, adapter=adapter, rank=rank, low=low)
    frozen = held_bytes(trunk.frozen_copy().lm)
    if adapter == "lora":
        narrow(lm, low)
    held = held_bytes(lm) - (round((4 - FOUR_BIT) * quantised) if adapter == "qlora" else 0)
    if adapter != "none":
        lm.requires_grad_(False)
        trunk.add_adapter(POLICY, 0)
    once, kept = _kept(trunk)
    config = lm.config.get_text_config()
    return Size(
        numbers=numbers, held=held, frozen=frozen, body=body,
        adapter=sum(p.numel() for p in trunk.parameters(POLICY).values()) if adapter != "none" else 0,
        largest=largest, layers=config.num_hidden_layers, width=config.hidden_size,
        inner=inner, vocabulary=len(lm.get_output_embeddings().weight),
        remembered=trunk.remembered,
        kept=kept, kept_once=0.0 if adapter == "qlora" else once, low=low,
        context=trunk.context,
    )  # fmt: skip


def _count(module: nn.Module) -> int:
    """Numbers of all weights; weights that are tied count once."""
    return sum(p.numel() for p in module.parameters())


def held_bytes(module: nn.Module) -> int:
    """Bytes of all weights as they lie in memory; weights that are tied count once."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _kept(trunk: Trunk) -> tuple[float, float]:
    """Bytes that autograd keeps of one pass over the body: those without regard to the text, and those of a token."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), trunk.attending(_attend):
        weights = _pretend(trunk.peft or trunk.lm)
        short, long = (_kept_of(trunk, n, weights) for n in (SHORT, LONG))
    each = (long - short) / (LONG - SHORT)
    return short - SHORT * each, each


def _kept_of(trunk: Trunk, tokens: int, weights: set[int]) -> int:
    found: dict[int, tuple[int, Tensor]] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage.nbytes(), x  # held on to, so that no other takes its place
        return x

    ids, places = torch.zeros(1, tokens, dtype=torch.long), torch.arange(tokens)[None]
    half = torch.autocast("cpu", dtype=trunk.low, enabled=trunk.low is not None)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), half:
        trunk.body(input_ids=ids, position_ids=places, use_cache=False)
    return sum(size for size, _ in found.values())


def _pretend(module: nn.Module) -> set[int]:
    """Put pretended tensors in the place of those on the meta device; returns their storages."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                made.setdefault(id(p), nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad))
                part._parameters[name] = made[id(p)]
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    return {p.untyped_storage()._cdata for p in made.values()}


class _Keep(torch.autograd.Function):
    """Stands for attention over packed tokens, which keeps queries, keys and values and nothing else."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        raise AssertionError("nothing goes back through pretended tensors")


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, scaling: float | None = None,
            dropout: float = 0.0, softcap: float | None = None, sliding_window: int | None = None,
            position_ids: Tensor | None = None, use_cache: bool | None = None,
            output_attentions: bool | None = None) -> tuple[Tensor, None]:  # fmt: skip
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = _Keep.apply(q, k, v)
    assert isinstance(out, Tensor)
    return out[None], None

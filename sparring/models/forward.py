"""The shared-prompt forward: a prompt is computed once for its K responses.

A row is the prompt followed by all its responses, without padding between them. A response sees the
prompt and itself, never its siblings, and its positions go on where the prompt's ended; so every
hidden state is what it would be in a row of its own.

Not every architecture honours such a mask. `probe` computes a few random tokens both ways when a model
is loaded and compares; where they differ the dense form is used, one row for each response. So it is
where the shared form would cost more: its attention looks at whole rows, which long responses make long.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from sparring.core.errors import ModelError
from sparring.data.batch import Batch, Row, collate
from sparring.models.trunk import Trunk

TOLERANCE = 1e-3  # relative; a mask that is ignored is off by orders of magnitude, 4-bit weights by less
# How long it takes to look at a token of the row, compared with a product with a weight of the same size; measured
# on a CPU, forward and backward. Without a mask of our own only the past is computed.
MASKED_LOOK = 2.0
CAUSAL_LOOK = 1.3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where every token of a batch sits in the rows that the model sees.

    `before`, `own` and `last` are places in the flattened rows: of the token before each response token, of that
    token itself, and of the last token of each response. `positions` and `segment` are needed only by rows that
    hold siblings; a token's segment is 0 in the prompt, k + 1 in response k, -1 in padding.
    """

    ids: Int[Tensor, "R S"]
    positions: Int[Tensor, "R S"] | None
    segment: Int[Tensor, "R S"] | None
    before: Int[Tensor, " N"]
    own: Int[Tensor, " N"]
    last: Int[Tensor, " M"]


@dataclass(frozen=True, kw_only=True)
class States:
    """Hidden states that a head can read, taken out of the rows when they are asked for."""

    flat: Float[Tensor, "F D"]
    layout: Layout

    @property
    def before(self) -> Float[Tensor, "N D"]:
        """For each response token, in the order of the true entries of `batch.mask`, the state that predicts it."""
        return self.flat[self.layout.before]

    @property
    def own(self) -> Float[Tensor, "N D"]:
        """For each response token, in the same order, the state after it was read."""
        return self.flat[self.layout.own]

    @property
    def last(self) -> Float[Tensor, "M D"]:
        """For each existing response, the state after its last token."""
        return self.flat[self.layout.last]


def states(trunk: Trunk, batch: Batch) -> States:
    """Run the body once over prompts and responses, with the adapters that are switched on now."""
    return read(trunk, lay_out(batch, shared=_should_share(trunk, batch)))


def read(trunk: Trunk, layout: Layout) -> States:
    """Run the body over rows that are laid out."""
    return States(flat=_body(trunk, layout).flatten(0, 1), layout=layout)


def lay_out(batch: Batch, *, shared: bool) -> Layout:
    """Place prompts and responses in rows: one row for each prompt when shared, else one for each response.

    Padding is on the right, so a causal model never looks at it and dense rows need no mask at all.
    """
    prompts, prompt_mask, responses, mask = batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.mask
    sharing = shared and mask.shape[1] > 1
    if not sharing:
        owner = batch.exists.nonzero()[:, 0]
        prompts, prompt_mask = prompts[owner], prompt_mask[owner]
        responses, mask = responses[batch.exists][:, None], mask[batch.exists][:, None]
    (R, K, T), P = mask.shape, prompts.shape[1]
    real = torch.cat([prompt_mask, mask.flatten(1)], 1)
    column = real.cumsum(1) - 1
    width = int(column.max()) + 1
    place = column + width * torch.arange(R, device=real.device)[:, None]

    def fill(values: Int[Tensor, "R L"], rest: int) -> Int[Tensor, "R S"]:
        return values.new_full((R * width,), rest).index_copy_(0, place[real], values[real]).view(R, width)

    own = place[:, P:].view(R, K, T)
    ends = place[:, P - 1, None, None].expand(R, K, 1)  # prompts are padded on the left, so all end here
    before = torch.cat([ends, own[..., :-1]], -1)
    last = own[mask & ~pad(mask[..., 1:], (0, 1))]
    ids = fill(torch.cat([prompts, responses.flatten(1)], 1), 0)
    if not sharing:
        return Layout(ids=ids, positions=None, segment=None, before=before[mask], own=own[mask], last=last)
    number = torch.arange(1, K + 1, device=real.device).repeat_interleave(T)
    segment = pad(number, (P, 0)).expand(R, -1)
    steps = column[:, P - 1, None, None] + torch.arange(1, T + 1, device=real.device)
    positions = torch.cat([column[:, :P], steps.expand(R, K, T).flatten(1)], 1)
    return Layout(
        ids=ids, positions=fill(positions, 0), segment=fill(segment, -1), before=before[mask], own=own[mask], last=last
    )


def window(trunk: Trunk) -> float:
    """How many tokens back the model can look; infinite where its attention has no window."""
    config = trunk.lm.config.get_text_config()
    found = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([float(n) for n in found if n], default=float("inf"))


def additive(trunk: Trunk, seen: Bool[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Give a mask the form that every attention takes: nothing for what is seen, very much less for the rest.

    Made once for all layers, in the number format they compute in; they would else convert it one by one.
    """
    kind = trunk.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else trunk.embedding.dtype
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


@torch.no_grad()
def probe(trunk: Trunk) -> None:
    """Find out by computing what this architecture can do, and note it on the trunk.

    A model without shared prompts or a linear head is used in its slow, general form. Raises ModelError when a
    token's state depends on later tokens, for then the model is not causal.
    """
    g = torch.Generator().manual_seed(0)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, len(trunk.embedding), (n,), generator=g).tolist())

    first = Row(prompt=draw(5), responses=(draw(3), draw(4)))
    batch = collate([first, Row(prompt=draw(2), responses=(draw(4), draw(2)))]).to(trunk.device)
    rows = lay_out(batch, shared=False)
    dense = _body(trunk, rows)
    if not is_close(dense[0, :5], dense[1, :5]):
        raise ModelError(
            f"{trunk.source}: {type(trunk.lm).__name__} looks at later tokens, so it is not a causal language model"
        )
    head = trunk.head
    if isinstance(head, nn.Linear) and head.weight.is_floating_point():
        asked = trunk.lm(input_ids=rows.ids, use_cache=False).logits
        trunk.has_linear_head = is_close(linear(dense, head.weight, head.bias).float(), asked.float())
    try:
        together, apart = read(trunk, lay_out(batch, shared=True)).before, dense.flatten(0, 1)[rows.before]
        trunk.shares_prompts = is_close(together, apart)
    except (TypeError, ValueError, RuntimeError, IndexError):
        trunk.shares_prompts = False  # an architecture without position_ids or without custom masks says so this way


def _should_share(trunk: Trunk, batch: Batch) -> bool:
    """Whether the shared form is possible for this batch, and the cheaper one."""
    K = batch.mask.shape[1]
    if not trunk.shares_prompts or K == 1:
        return False
    prompts, responses = batch.prompt_mask.sum(-1), batch.mask.sum(-1)
    together = int((prompts + responses.sum(-1)).max())
    if together > window(trunk):
        return False  # a mask of our own would override the window
    alone = int((prompts[:, None] + responses).max())
    products = 6 * trunk.width  # with weights, for one token, over those with one token that it looks at
    shared = together * (1 + MASKED_LOOK * together / products)
    dense = int(batch.exists.sum()) / len(batch) * alone * (1 + CAUSAL_LOOK * alone / products)
    return shared < dense


def _body(trunk: Trunk, layout: Layout) -> Float[Tensor, "R S D"]:
    if layout.positions is None or layout.segment is None:
        return trunk.body(input_ids=layout.ids, use_cache=False).last_hidden_state
    mask = additive(trunk, _mask(layout.segment))
    return trunk.body(
        input_ids=layout.ids, attention_mask=mask, position_ids=layout.positions, use_cache=False
    ).last_hidden_state


def _mask(segment: Int[Tensor, "R S"]) -> Bool[Tensor, "R 1 S S"]:
    """Who may look at whom: back in time, at the prompt or at tokens of its own kind."""
    S = segment.shape[1]
    causal = torch.ones(S, S, dtype=torch.bool, device=segment.device).tril()
    at_prompt = (segment == 0)[:, None, :]
    own = segment[:, :, None] == segment[:, None, :]
    return ((at_prompt | own) & causal)[:, None]


def is_close(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by rounding only, relative to the largest of them."""
    return bool(a.isfinite().all()) and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-6))

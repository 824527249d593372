"""The shared-prompt forward: a prompt is computed once for its K responses, and padding not at all.

All tokens of a batch stand in one row: the prompts', then the responses'. A response sees its prompt and
itself, never its siblings, and its positions go on where the prompt's ended; so every hidden state is what
it would be in a row of its own (see attention.py).

Not every architecture lets its attention be arranged like that. `probe` computes a few random tokens both
ways when a model is loaded and compares; where they differ the dense form is used, one row for each response.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from sparring.core.errors import ModelError
from sparring.data.batch import Batch, Row, collate
from sparring.models.attention import Rectangles, rectangles
from sparring.models.trunk import Trunk

TOLERANCE = 1e-3  # relative; a token that sees the wrong ones is off by orders of magnitude, 4-bit weights by less


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where every token of a batch sits in the rows that the model sees.

    `before`, `own` and `last` are places in the flattened rows: of the token before each response token, of that
    token itself, and of the last token of each response. `positions` and `rectangles` are there when all is packed
    in one row.
    """

    ids: Int[Tensor, "R S"]
    positions: Int[Tensor, "R S"] | None = None
    rectangles: Rectangles | None = None
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


def states(trunk: Trunk, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None) -> States:
    """Run the body once over prompts and responses, with the adapters that are switched on now.

    Where `relaxed` is given, its mixtures of tokens are read in place of the response tokens, in their order.
    """
    layout = lay_out_packed(trunk, batch) if _can_pack(trunk, batch) else lay_out_dense(batch)
    if relaxed is None:
        return read(trunk, layout)
    found = trunk.lm.get_input_embeddings()(layout.ids)
    mixed = embed(trunk, relaxed).to(found.dtype)
    return read(trunk, layout, found.flatten(0, 1).index_copy(0, layout.own, mixed).view_as(found))


def read(trunk: Trunk, layout: Layout, embedded: Float[Tensor, "R S D"] | None = None) -> States:
    """Run the body over tokens that are laid out, or over what stands in their places."""
    return States(flat=_body(trunk, layout, embedded).flatten(0, 1), layout=layout)


def embed(trunk: Trunk, relaxed: Float[Tensor, "*N V"]) -> Float[Tensor, "*N D"]:
    """Mix input embeddings; of an exact one-hot this is the lookup, bit for bit, so it is never done in 16 bits."""
    with torch.autocast(trunk.device.type, enabled=False):
        return relaxed.to(trunk.embedding.dtype) @ trunk.embedding


def lay_out_packed(trunk: Trunk, batch: Batch) -> Layout:
    """Place all prompts and then all responses in one row, without padding."""
    prompt_mask, mask = batch.prompt_mask, batch.mask
    prompt_mask = prompt_mask[:, int(prompt_mask.any(0).to(torch.uint8).argmax()) :]  # no wider than the longest one
    ids = torch.cat([batch.prompt_ids[batch.prompt_mask], batch.response_ids[mask]])
    lengths = prompt_mask.sum(-1)
    steps = lengths[:, None, None] + torch.arange(mask.shape[-1], device=mask.device)
    positions = torch.cat([(prompt_mask.cumsum(-1) - 1)[prompt_mask], steps.expand(mask.shape)[mask]])
    own = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    own[mask] = torch.arange(int(lengths.sum()), len(ids), device=mask.device)
    ends = (lengths.cumsum(0) - 1)[:, None, None].expand(*mask.shape[:2], 1)
    before = torch.cat([ends, own[..., :-1]], -1)
    return Layout(
        ids=ids[None], positions=positions[None], rectangles=rectangles(prompt_mask, mask, compute_dtype(trunk)),
        before=before[mask], own=own[mask], last=own[mask & ~pad(mask[..., 1:], (0, 1))],
    )  # fmt: skip


def lay_out_dense(batch: Batch) -> Layout:
    """Place each response in a row of its own, after its prompt.

    Padding is on the right, so a causal model never looks at it and needs no mask at all.
    """
    owner = batch.exists.nonzero()[:, 0]
    mask, P = batch.mask[batch.exists], batch.prompt_ids.shape[1]
    tokens = torch.cat([batch.prompt_ids[owner], batch.response_ids[batch.exists]], 1)
    real = torch.cat([batch.prompt_mask[owner], mask], 1)
    column = real.cumsum(1) - 1
    width = int(column.max()) + 1
    place = column + width * torch.arange(len(real), device=real.device)[:, None]
    ids = tokens.new_zeros(len(real) * width).index_copy_(0, place[real], tokens[real]).view(-1, width)
    own = place[:, P:]
    before = place[:, P - 1 : -1]  # prompts are padded on the left, so all end just before the responses
    return Layout(ids=ids, before=before[mask], own=own[mask], last=own[mask & ~pad(mask[:, 1:], (0, 1))])


def window(trunk: Trunk) -> float:
    """How many tokens back the model can look; infinite where its attention has no window."""
    config = trunk.lm.config.get_text_config()
    found = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([float(n) for n in found if n], default=float("inf"))


def compute_dtype(trunk: Trunk) -> torch.dtype:
    """The number format in which products are computed now."""
    kind = trunk.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else trunk.embedding.dtype


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
    rows = lay_out_dense(batch)
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
        together, apart = read(trunk, lay_out_packed(trunk, batch)).before, dense.flatten(0, 1)[rows.before]
        trunk.shares_prompts = is_close(together, apart)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        trunk.shares_prompts = False  # an architecture that cannot be asked for this says so in one of these ways


def _can_pack(trunk: Trunk, batch: Batch) -> bool:
    """Whether the packed form is possible: the architecture allows it, and no window is narrower than the text."""
    if not trunk.shares_prompts:
        return False
    limit = window(trunk)
    return limit == float("inf") or int((batch.prompt_mask.sum(-1)[:, None] + batch.mask.sum(-1)).max()) <= limit


def _body(trunk: Trunk, layout: Layout, embedded: Float[Tensor, "R S D"] | None = None) -> Float[Tensor, "R S D"]:
    shown = {"input_ids": layout.ids} if embedded is None else {"inputs_embeds": embedded}
    if layout.rectangles is None:
        return trunk.body(**shown, use_cache=False).last_hidden_state
    with trunk.attending(layout.rectangles.attend):
        return trunk.body(**shown, position_ids=layout.positions, use_cache=False).last_hidden_state


def is_close(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by rounding only, relative to the largest of them."""
    return bool(a.isfinite().all()) and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-6))

"""The shared-prompt forward: a prompt is computed once for its K responses.

A row is the prompt followed by all its responses, without padding between them. A response sees the
prompt and itself, never its siblings, and its positions go on where the prompt's ended; so every
hidden state is what it would be in a row of its own.

Not every architecture honours such a mask. `probe` computes a few random tokens both ways when a model
is loaded and compares; where they differ the dense form is used, one row for each response.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparring.data.batch import Batch, Row, collate
from sparring.models.backbone import Trunk

TOLERANCE = 1e-3  # relative; a mask that is ignored is off by orders of magnitude, 4-bit weights by less


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where every token of a batch sits in the rows that the model sees."""

    ids: Int[Tensor, "R S"]
    positions: Int[Tensor, "R S"] | None
    mask: Bool[Tensor, "R 1 S S"] | None
    before: Int[Tensor, " N"]
    last: Int[Tensor, " M"]


@dataclass(frozen=True, kw_only=True)
class States:
    """Hidden states that a head can read.

    `before` holds one for each response token, in the order of the true entries of `batch.mask`: the state
    from which that token is predicted. `last` holds one for each existing response, after its last token.
    """

    before: Float[Tensor, "N D"]
    last: Float[Tensor, "M D"]


def states(trunk: Trunk, batch: Batch) -> States:
    """Run the body once over prompts and responses, with the adapters that are switched on now."""
    layout = lay_out(batch, shared=trunk.shares_prompts)
    if layout.positions is not None and layout.ids.shape[1] > window(trunk):
        layout = lay_out(batch, shared=False)  # a custom mask would override a sliding window
    hidden = _body(trunk, layout)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return States(before=flat[layout.before], last=flat[layout.last])


def lay_out(batch: Batch, *, shared: bool) -> Layout:
    """Place prompts and responses in rows: one row for each prompt when shared, else one for each response.

    Padding is on the right, so a causal model never looks at it and dense rows need no mask at all.
    """
    prompt_lengths = batch.prompt_mask.sum(-1).tolist()
    lengths = batch.mask.sum(-1).tolist()
    K = batch.mask.shape[1]
    sharing = shared and K > 1
    per_row = [[(b, k) for k in range(K)] for b in range(len(batch))] if sharing else [
        [(b, k)] for b in range(len(batch)) for k in range(K)
    ]
    width = max(prompt_lengths[row[0][0]] + sum(lengths[b][k] for b, k in row) for row in per_row)
    ids = torch.zeros(len(per_row), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)
    before: dict[tuple[int, int], Tensor] = {}
    last = {}
    prompts, responses = batch.prompt_ids.cpu(), batch.response_ids.cpu()
    for r, row in enumerate(per_row):
        start = P = prompt_lengths[row[0][0]]
        ids[r, :P] = prompts[row[0][0], prompts.shape[1] - P :]
        positions[r, :P] = torch.arange(P)
        segment[r, :P] = 0
        for b, k in row:
            n = lengths[b][k]
            if not n:
                continue
            ids[r, start : start + n] = responses[b, k, :n]
            positions[r, start : start + n] = torch.arange(P, P + n)
            segment[r, start : start + n] = k + 1
            at = torch.arange(start - 1, start + n - 1)
            at[0] = P - 1
            before[b, k] = at + r * width
            last[b, k] = start + n - 1 + r * width
            start += n
    order = sorted(before)
    device = batch.prompt_ids.device
    return Layout(
        ids=ids.to(device),
        positions=positions.to(device) if sharing else None,
        mask=_mask(segment.to(device)) if sharing else None,
        before=torch.cat([before[key] for key in order]).to(device),
        last=torch.tensor([last[key] for key in order], device=device),
    )


def window(trunk: Trunk) -> float:
    """How many tokens back the model can look; infinite without a sliding window."""
    return getattr(trunk.lm.config.get_text_config(), "sliding_window", None) or float("inf")


@torch.no_grad()
def probe(trunk: Trunk) -> None:
    """Find out by computing what this architecture can do, and note it on the trunk.

    Raises AssertionError never: a model that can do neither is used in its slow, general form.
    """
    g = torch.Generator().manual_seed(0)
    vocabulary = trunk.lm.config.get_text_config().vocab_size
    draw = lambda n: tuple(torch.randint(0, vocabulary, (n,), generator=g).tolist())  # noqa: E731 - local shorthand
    batch = collate([Row(prompt=draw(5), responses=(draw(3), draw(4))), Row(prompt=draw(2), responses=(draw(4), draw(2)))])
    batch = batch.to(trunk.device)
    dense = _body(trunk, lay_out(batch, shared=False))
    logits = trunk.head(dense).float()
    asked = trunk.lm(input_ids=lay_out(batch, shared=False).ids, use_cache=False)
    if "logits" in asked and asked.logits.shape[-1] == logits.shape[-1]:
        trunk.has_linear_head = _close(logits, asked.logits.float())
    try:
        trunk.shares_prompts = True
        together = states(trunk, batch)
        trunk.shares_prompts = False
        apart = states(trunk, batch)
        trunk.shares_prompts = _close(together.before, apart.before)
    except (TypeError, ValueError, RuntimeError, IndexError):
        trunk.shares_prompts = False  # an architecture without position_ids or without custom masks says so this way


def _body(trunk: Trunk, layout: Layout) -> Float[Tensor, "R S D"]:
    if layout.positions is None:
        return trunk.body(input_ids=layout.ids, use_cache=False).last_hidden_state
    mask: Tensor | None = layout.mask
    if trunk.lm.config._attn_implementation != "sdpa" and mask is not None:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return trunk.body(
        input_ids=layout.ids, attention_mask=mask, position_ids=layout.positions, use_cache=False
    ).last_hidden_state


def _mask(segment: Int[Tensor, "R S"]) -> Bool[Tensor, "R 1 S S"]:
    """Who may look at whom: back in time, at the prompt or at one's own response; padding only at itself."""
    S = segment.shape[1]
    causal = torch.ones(S, S, dtype=torch.bool, device=segment.device).tril()
    at_prompt = (segment == 0)[:, None, :]
    own = segment[:, :, None] == segment[:, None, :]
    return ((at_prompt | own) & causal)[:, None]


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(a.isfinite().all()) and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp(min=1e-6))

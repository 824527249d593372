"""Let the policy answer: prompts to K responses each, in the same Batch that a file would give.

A prompt is computed once, its keys and values are copied to its K responses, and a response that has
ended leaves the batch. Every response draws from a stream of its own, so what it says does not depend on
its batch mates. Two log-probabilities are kept for each token: of the distribution it was really drawn
from, and of the model's whole distribution before top-k and top-p; they are one when nothing is cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad

from sparring.core.errors import ModelError, SettingError
from sparring.core.seeds import rng
from sparring.data.batch import Batch, Row, collate
from sparring.models.allowed import pack, restrict
from sparring.models.cache import Past
from sparring.models.decode import Decoder, past_of
from sparring.models.roles import Network
from sparring.rollout.nucleus import Masker, MaskingDecoder, cut

ROWS = 256  # responses that are decoded together, at most
CACHE_NUMBERS = 2**29  # keys and values held at once, at most: 2 GB in 32 bits
BLOCK = 64  # probabilities that are added up before they are searched

Tick = Callable[[int], None]


class Stop(Enum):
    """Why a response ended."""

    EOS = "it ended itself"
    LENGTH = "it was cut at the longest length allowed"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: temperature 0 takes the likeliest; top_k 0 and top_p 1 cut nothing off."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def cuts(self) -> bool:
        """Whether some tokens are never drawn, though the model gives them a chance."""
        return self.top_k > 0 or self.top_p < 1

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise SettingError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise SettingError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise SettingError(f"top_k must be 0 (off) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top_p must be above 0 and at most 1, got {self.top_p}")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Sampled responses and how they were drawn. Log-probabilities and entropies are in nats."""

    batch: Batch
    sampled_logps: Float[Tensor, "B K T"]
    token_logps: Float[Tensor, "B K T"]
    entropy: Float[Tensor, "B K T"]
    stops: tuple[tuple[Stop, ...], ...]


@torch.no_grad()
def sample(
    policy: Network,
    prompts: Sequence[tuple[int, ...]],
    K: int,
    how: Sampling,
    *,
    seed: int,
    keys: Sequence[str | int] | None = None,
    tick: Tick | None = None,
    masker: Masker | None = None,
) -> Rollout:
    """Sample K responses to each prompt.

    `keys` name the random stream of each prompt (its place in the list when not given); `tick` is called
    with the number of tokens after each of them. With a `masker` only tokens in its nucleus are drawn, and all
    figures are those of the policy restricted to them. Raises ModelError when a prompt leaves no room to answer.
    """
    keys = range(len(prompts)) if keys is None else keys
    trunk = policy.trunk
    longest = max(len(p) for p in prompts)
    if trunk.context is not None and longest + how.max_tokens > trunk.context:
        raise ModelError(
            f"{trunk.source}: {longest} prompt tokens and {how.max_tokens} new ones exceed its {trunk.context} "
            "positions; lower --max-prompt or --max-tokens"
        )
    drawn: list[_Drawn | None] = [None] * len(prompts)
    with trunk.using(policy.adapter):
        past = past_of(trunk, longest + how.max_tokens)
        rows = rows_at_once(trunk.remembered, longest + how.max_tokens)
        for group in _groups(prompts, K, rows, mixed=past is Past.PADDED):
            asked = [prompts[i] for i in group]
            decoder = Decoder(trunk, asked, K, how.max_tokens, past)
            beside = MaskingDecoder(masker, policy, asked, K, how.max_tokens, past) if masker else None
            streams = [rng(seed, "sample", keys[i]) for i in group]
            found = _decode(decoder, K, how, streams, end_tokens(policy), tick, beside)
            for i, one in zip(group, found, strict=True):
                drawn[i] = one
    return _gather(prompts, [d for d in drawn if d is not None], trunk.tokenizer.pad_token_id or 0, trunk.device)


@dataclass(frozen=True)
class _Drawn:
    """The K responses to one prompt, still ragged."""

    tokens: list[list[int]]
    figures: list[Float[Tensor, "3 _"]]  # sampled log-probability, whole log-probability, entropy
    stops: list[Stop]
    allowed: list[UInt8[Tensor, "_ W"]] | None = None


def _groups(prompts: Sequence[tuple[int, ...]], K: int, rows: int, *, mixed: bool) -> list[list[int]]:
    """Split prompts into groups of similar length (of one length when masks cannot hide the padding)."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = max(1, rows // K)
    groups: list[list[int]] = []
    for i in order:
        fits = groups and len(groups[-1]) < size
        if fits and (mixed or len(prompts[groups[-1][0]]) == len(prompts[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def rows_at_once(remembered: int, length: int) -> int:
    """How many rows of `length` tokens are decoded together; `remembered` are the keys and values of a token."""
    return max(1, min(ROWS, CACHE_NUMBERS // (remembered * length)))


def _decode(
    decoder: Decoder,
    K: int,
    how: Sampling,
    streams: list[np.random.Generator],
    eos: list[int],
    tick: Tick | None,
    beside: MaskingDecoder | None,
) -> list[_Drawn]:
    rows, device = len(streams) * K, decoder.trunk.device
    uniforms = torch.from_numpy(np.stack([s.random((K, how.max_tokens)) for s in streams])).float()
    uniforms = uniforms.reshape(rows, how.max_tokens).to(device)
    tokens = torch.zeros(rows, how.max_tokens, dtype=torch.long, device=device)
    figures = torch.zeros(3, rows, how.max_tokens, device=device)
    lengths = torch.full((rows,), how.max_tokens, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    ends = torch.tensor(eos, device=device)
    alive = torch.arange(rows, device=device)
    sets: Tensor | None = None
    for t in range(how.max_tokens):
        allowed = None if beside is None else pack(beside.allowed(how.temperature or 1.0))
        if allowed is not None:
            sets = allowed.new_zeros(rows, how.max_tokens, allowed.shape[-1]) if sets is None else sets
            sets[alive, t] = allowed
        chosen, found = draw(restrict(decoder.logits(), allowed), uniforms[alive, t], how)
        tokens[alive, t] = chosen
        figures[:, alive, t] = found
        if tick is not None:
            tick(len(alive))
        over = torch.isin(chosen, ends)
        if bool(over.any()):
            ended[alive[over]], lengths[alive[over]] = True, t + 1
            if bool(over.all()):
                break
            order = decoder.keep(~over)
            if beside is not None:
                beside.keep(~over)
            alive, chosen = alive[order], chosen[order]
        if t + 1 < how.max_tokens:
            decoder.advance(chosen)
            if beside is not None:
                beside.advance(chosen)
    sets = None if sets is None else sets.cpu()
    return _split(len(streams), K, tokens.cpu(), figures.cpu(), lengths.tolist(), ended.tolist(), sets)


def _split(
    B: int, K: int, tokens: Tensor, figures: Tensor, lengths: list[int], ended: list[bool], sets: Tensor | None
) -> list[_Drawn]:
    out = []
    for b in range(B):
        mine = range(b * K, (b + 1) * K)
        out.append(
            _Drawn(
                [tokens[r, : lengths[r]].tolist() for r in mine],
                [figures[:, r, : lengths[r]] for r in mine],
                [Stop.EOS if ended[r] else Stop.LENGTH for r in mine],
                None if sets is None else [sets[r, : lengths[r]] for r in mine],
            )
        )
    return out


def draw(
    logits: Float[Tensor, "rows V"], uniform: Float[Tensor, " rows"], how: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "3 rows"]]:
    """Draw one token in each row by inverting the cumulative distribution at `uniform`.

    Returns the tokens, and for each its log-probability under the cut distribution, under the whole one,
    and the entropy of the whole one.
    """
    heat = how.temperature or 1.0
    logits = logits if heat == 1.0 else logits / heat
    probs = logits.softmax(-1)
    share = None  # of the whole distribution that is left after the cut
    if how.temperature == 0:
        chosen = logits.argmax(-1, keepdim=True)
        share = probs.gather(-1, chosen)[:, 0]
    elif how.cuts:
        kept, ids = cut(probs, top_k=how.top_k, top_p=how.top_p)
        chosen, share = ids.gather(-1, _invert(kept, uniform)), kept.sum(-1)
    else:
        chosen = _invert(probs, uniform)
    picked = logits.gather(-1, chosen)[:, 0]
    whole = probs.gather(-1, chosen)[:, 0].log()
    sampled = whole if share is None else whole - share.log()
    entropy = picked - whole - probs.mul_(logits).sum(-1)  # the first two are the log of the softmax's denominator
    return chosen[:, 0], torch.stack([sampled, whole, entropy])


def _invert(probs: Float[Tensor, "rows n"], uniform: Float[Tensor, " rows"]) -> Int[Tensor, "rows 1"]:
    """Find the place where the running sum of each row passes `uniform` of its total: first the block, then in it."""
    rows, n = probs.shape
    blocks = pad(probs, (0, -n % BLOCK)).view(rows, -1, BLOCK)
    sums = blocks.sum(-1)
    block, rest = _passes(sums, uniform * sums.sum(-1))
    inside = blocks[torch.arange(rows, device=probs.device), block]
    place = (block * BLOCK + _passes(inside, rest)[0])[:, None].clamp(max=n - 1)
    # Rounding can land on a token of probability zero; the likeliest one stands in for it.
    lost = probs.gather(-1, place) == 0
    return place.where(~lost, probs.argmax(-1, keepdim=True)) if bool(lost.any()) else place


def _passes(
    parts: Float[Tensor, "rows n"], goal: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The first part at which the running sum passes the goal, and how far into that part the goal is."""
    sums = parts.cumsum(-1)
    at = torch.searchsorted(sums, goal[:, None], right=True).clamp(max=parts.shape[-1] - 1)
    return at[:, 0], goal - (sums - parts).gather(-1, at)[:, 0]


def end_tokens(policy: Network) -> list[int]:
    """The token ids that end a response: the tokenizer's, and those that the model's own settings name."""
    named = getattr(policy.trunk.lm, "generation_config", None)
    named = getattr(named, "eos_token_id", None)
    more = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({policy.trunk.tokenizer.eos_token_id, *more})


def _gather(prompts: Sequence[tuple[int, ...]], drawn: list[_Drawn], pad: int, device: torch.device) -> Rollout:
    rows = [
        Row(prompt=p, responses=tuple(map(tuple, d.tokens)), index=i)
        for i, (p, d) in enumerate(zip(prompts, drawn, strict=True))
    ]
    batch = collate(rows, pad=pad)
    filled = torch.zeros(3, *batch.mask.shape)
    for b, d in enumerate(drawn):
        for k, figures in enumerate(d.figures):
            filled[:, b, k, : figures.shape[1]] = figures
    if drawn[0].allowed is not None:
        batch = replace(batch, allowed=_spread([sets for d in drawn for sets in d.allowed or []], batch.mask))
    filled = filled.to(device)
    return Rollout(
        batch=batch.to(device),
        sampled_logps=filled[0],
        token_logps=filled[1],
        entropy=filled[2],
        stops=tuple(tuple(d.stops) for d in drawn),
    )


def _spread(sets: list[UInt8[Tensor, "_ W"]], mask: Bool[Tensor, "B K T"]) -> UInt8[Tensor, "B K T W"]:
    """Put the sets of all response tokens, in their order, where the tokens are."""
    out = sets[0].new_zeros(*mask.shape, sets[0].shape[-1])
    out[mask] = torch.cat(sets)
    return out

"""Let the policy answer: prompts to K responses each, in the same Batch that a file would give.

A prompt is computed once, its keys and values are copied to its K responses, and a response that has
ended leaves the batch. Every response draws from a stream of its own, so what it says does not depend on
its batch mates. Two log-probabilities are kept for each token: of the distribution it was really drawn
from, and of the model's whole distribution before top-k and top-p; they are one when nothing is cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparring.core.errors import ModelError, SettingError
from sparring.core.seeds import rng
from sparring.data.batch import Batch, Row, collate
from sparring.models.cache import library_cache, new_cache
from sparring.models.forward import window
from sparring.models.signals import Network

ROWS = 256  # responses that are decoded together


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
    tick: Callable[[int], None] | None = None,
) -> Rollout:
    """Sample K responses to each prompt.

    `keys` name the random stream of each prompt (its place in the list when not given); `tick` is called
    with the number of tokens after each of them. Raises ModelError when a prompt leaves no room to answer.
    """
    keys = range(len(prompts)) if keys is None else keys
    trunk = policy.trunk
    longest = max(len(p) for p in prompts)
    if trunk.context is not None and longest + how.max_tokens > trunk.context:
        raise ModelError(
            f"{trunk.source}: {longest} prompt tokens and {how.max_tokens} new ones exceed its {trunk.context} positions; "
            "lower --max-prompt or --max-tokens"
        )
    drawn: list[_Drawn | None] = [None] * len(prompts)
    with trunk.using(policy.adapter):
        for group in _groups(prompts, K, mixed=_takes_masks(policy, longest + how.max_tokens)):
            found = _decode(policy, [prompts[i] for i in group], K, how, [rng(seed, "sample", keys[i]) for i in group], tick)
            for i, one in zip(group, found, strict=True):
                drawn[i] = one
    return _gather(prompts, [d for d in drawn if d is not None], trunk.tokenizer.pad_token_id or 0, trunk.device)


@dataclass(frozen=True)
class _Drawn:
    """The K responses to one prompt, still ragged."""

    tokens: list[list[int]]
    figures: list[Float[Tensor, "3 n"]]  # sampled log-probability, whole log-probability, entropy
    stops: list[Stop]


def _groups(prompts: Sequence[tuple[int, ...]], K: int, *, mixed: bool) -> list[list[int]]:
    """Split prompts into groups of similar length (of one length when masks cannot hide the padding)."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = max(1, ROWS // K)
    groups: list[list[int]] = []
    for i in order:
        fits = groups and len(groups[-1]) < size
        if fits and (mixed or len(prompts[groups[-1][0]]) == len(prompts[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _takes_masks(policy: Network, length: int) -> bool:
    return policy.trunk.shares_prompts and length <= window(policy.trunk)


def _decode(policy: Network, prompts: list[tuple[int, ...]], K: int, how: Sampling, streams: list, tick) -> list[_Drawn]:
    trunk, rows = policy.trunk, len(prompts) * K
    uniforms = torch.from_numpy(np.stack([s.random((K, how.max_tokens)) for s in streams])).float()
    uniforms = uniforms.reshape(rows, how.max_tokens).to(trunk.device)
    decoder = _Decoder(policy, prompts, K, how.max_tokens)
    tokens = torch.zeros(rows, how.max_tokens, dtype=torch.long, device=trunk.device)
    figures = torch.zeros(3, rows, how.max_tokens, device=trunk.device)
    lengths = torch.full((rows,), how.max_tokens, device=trunk.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=trunk.device)
    eos = torch.tensor(end_tokens(policy), device=trunk.device)
    alive = torch.arange(rows, device=trunk.device)
    for t in range(how.max_tokens):
        chosen, found = draw(decoder.logits(), uniforms[alive, t], how)
        tokens[alive, t] = chosen
        figures[:, alive, t] = found
        over = torch.isin(chosen, eos) & ~ended[alive]
        ended[alive[over]], lengths[alive[over]] = True, t + 1
        if tick is not None:
            tick(len(alive))
        going = ~ended[alive]
        if not bool(going.any()) or t + 1 == how.max_tokens:
            break
        if int(going.sum()) <= 0.9 * len(alive):
            decoder.keep(going.nonzero()[:, 0])
            alive, chosen = alive[going], chosen[going]
        decoder.advance(chosen)
    return _split(len(prompts), K, tokens.cpu(), figures.cpu(), lengths.tolist(), ended.tolist())


def _split(B: int, K: int, tokens: Tensor, figures: Tensor, lengths: list[int], ended: list[bool]) -> list[_Drawn]:
    out = []
    for b in range(B):
        mine = range(b * K, (b + 1) * K)
        out.append(
            _Drawn(
                [tokens[r, : lengths[r]].tolist() for r in mine],
                [figures[:, r, : lengths[r]] for r in mine],
                [Stop.EOS if ended[r] else Stop.LENGTH for r in mine],
            )
        )
    return out


class _Decoder:
    """The model between two tokens: its cache, who may be looked at, and the last hidden states."""

    def __init__(self, policy: Network, prompts: list[tuple[int, ...]], K: int, max_tokens: int) -> None:
        self.trunk = trunk = policy.trunk
        batch = collate([Row(prompt=p, responses=()) for p in prompts]).to(trunk.device)
        P = batch.prompt_ids.shape[1]
        self.masked = _takes_masks(policy, P + max_tokens)
        config = trunk.lm.config.get_text_config()
        self.cache = new_cache(config.num_hidden_layers, P + max_tokens) if self.masked else library_cache(trunk.lm.config)
        self.seen = torch.cat([batch.prompt_mask, batch.prompt_mask.new_ones(len(prompts), max_tokens)], -1)
        self.length, self.position = P, batch.prompt_mask.sum(-1)
        extra = {}
        if self.masked:
            causal = torch.ones(P, P, dtype=torch.bool, device=trunk.device).tril()
            itself = torch.eye(P, dtype=torch.bool, device=trunk.device)  # padding sees itself, else its softmax is empty
            extra["attention_mask"] = self._form((batch.prompt_mask[:, None, :] & causal | itself)[:, None])
            extra["position_ids"] = (batch.prompt_mask.cumsum(-1) - 1).clamp(min=0)
        self.hidden = self._run(batch.prompt_ids, extra).repeat_interleave(K, 0)
        self.cache.batch_repeat_interleave(K)
        self.seen, self.position = self.seen.repeat_interleave(K, 0), self.position.repeat_interleave(K, 0)

    def logits(self) -> Float[Tensor, "rows V"]:
        """What the model thinks of every next token, in 32 bits."""
        trunk = self.trunk
        if trunk.has_linear_head:
            return trunk.head(self.hidden).float()
        return self.full_logits.float()

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Let only these rows go on."""
        self.cache.batch_select_indices(rows)
        self.seen, self.position = self.seen[rows], self.position[rows]

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Read one more token in each row."""
        extra = {}
        self.length += 1
        if self.masked:
            extra = {"attention_mask": self._form(self.seen[:, None, None, : self.length]), "position_ids": self.position[:, None]}
        self.hidden = self._run(tokens[:, None], extra)
        self.position = self.position + 1

    def _run(self, ids: Tensor, extra: dict[str, Tensor]) -> Tensor:
        if self.trunk.has_linear_head:
            out = self.trunk.body(input_ids=ids, past_key_values=self.cache, use_cache=True, **extra)
            return out.last_hidden_state[:, -1]
        out = self.trunk.lm(input_ids=ids, past_key_values=self.cache, use_cache=True, **extra)
        self.full_logits = out.logits[:, -1]
        return self.full_logits

    def _form(self, mask: Tensor) -> Tensor:
        """Give a mask the form that the attention in use wants: true/false, or an amount to add."""
        if self.trunk.lm.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)


def draw(
    logits: Float[Tensor, "rows V"], uniform: Float[Tensor, " rows"], how: Sampling
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "3 rows"]]:
    """Draw one token in each row by inverting the cumulative distribution at `uniform`.

    Returns the tokens, and for each its log-probability under the cut distribution, under the whole one,
    and the entropy of the whole one.
    """
    if how.temperature == 0:
        logps = logits.log_softmax(-1)
        chosen = logits.argmax(-1)
        whole = logps.gather(-1, chosen[:, None])[:, 0]
        return chosen, torch.stack([torch.zeros_like(whole), whole, -(logps.exp() * logps).sum(-1)])
    logps = (logits / how.temperature).log_softmax(-1)
    probs = logps.exp()
    kept = _cut(probs, how)
    mass = kept.cumsum(-1)
    chosen = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True).clamp(max=logits.shape[-1] - 1)
    # Rounding can land on a token of probability zero at the very end; the likeliest one stands in for it.
    chosen = torch.where(kept.gather(-1, chosen) > 0, chosen, kept.argmax(-1, keepdim=True))
    whole = logps.gather(-1, chosen)[:, 0]
    sampled = whole if kept is probs else whole - mass[:, -1].log()
    return chosen[:, 0], torch.stack([sampled, whole, -(probs * logps).sum(-1)])


def _cut(probs: Float[Tensor, "rows V"], how: Sampling) -> Float[Tensor, "rows V"]:
    """Zero what top-k and top-p leave out; the likeliest token always stays."""
    out = probs
    if 0 < how.top_k < probs.shape[-1]:
        least = out.topk(how.top_k, -1).values[:, -1:]
        out = out.where(out >= least, 0.0)
    if how.top_p < 1:
        ranked, order = out.sort(-1, descending=True)
        total = ranked.sum(-1, keepdim=True)
        before = ranked.cumsum(-1) - ranked
        out = torch.zeros_like(out).scatter(-1, order, ranked.where(before < how.top_p * total, 0.0))
    return out


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
    filled = filled.to(device)
    return Rollout(
        batch=batch.to(device),
        sampled_logps=filled[0],
        token_logps=filled[1],
        entropy=filled[2],
        stops=tuple(tuple(d.stops) for d in drawn),
    )

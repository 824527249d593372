"""Measure responses: what judges say, how far from the start model they are, and what they look like.

This is the part of an evaluation that needs nothing but responses in memory, so a script that has drawn
some can have their figures in one call:

    rollout = sample(policy, prompts, 1, Sampling(max_tokens=48), seed=0)
    scores = {"gold": rule.score(read_out(rollout.batch, tokenizer))}
    figures = measure(rollout, tokenizer, scores=scores, start=start)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.credit import kl_k1, kl_k3
from sparring.core.masked import masked_sum
from sparring.data.batch import Batch
from sparring.data.responses import read_out
from sparring.evaluation.figures import FIGURES, SCORE
from sparring.evaluation.intervals import Estimate, mean_of, ratio_of, share_of
from sparring.evaluation.text import text_figures
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from sparring.models.update import micro_batches
from sparring.rollout.sample import Rollout, Stop

MICRO_TOKENS = 8192

Tick = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def measure(
    rollout: Rollout,
    tokenizer: Any,
    *,
    scores: Mapping[str, Float[Tensor, "B K"]] | None = None,
    start: Network | None = None,
    temperature: float = 1.0,
    is_selected: bool = False,
    micro_tokens: int = MICRO_TOKENS,
    tick: Tick | None = None,
) -> dict[str, Estimate]:
    """Compute every figure that responses alone allow, by name, in the order of FIGURES after the scores.

    `scores` are what judges said of the responses, by name; `temperature` is the one these were drawn at. KL is
    left out without a start model, at temperature 0, and when the responses were selected by a judge: then they
    are no samples of the policy's distribution.
    """
    responses = read_out(rollout.batch, tokenizer)
    judged = {SCORE + name: mean_of(own.double().mean(-1).tolist()) for name, own in (scores or {}).items()}
    found = text_figures(responses) | _token_figures(rollout)
    if start is not None:
        found |= fluency(rollout, start, micro_tokens=micro_tokens, tick=tick)
        if temperature > 0 and not is_selected:
            found |= distance(rollout, start, temperature=temperature, micro_tokens=micro_tokens, tick=tick)
    return judged | {name: found[name] for name in FIGURES if name in found}


def distance(
    rollout: Rollout, start: Network, *, temperature: float, micro_tokens: int = MICRO_TOKENS, tick: Tick | None = None
) -> dict[str, Estimate]:
    """Estimate the KL from the start model in nats for a response, both models at the sampling temperature."""
    batch = rollout.batch
    ref = token_logps(batch, start, temperature=temperature, micro_tokens=micro_tokens, tick=tick)
    own = rollout.token_logps
    return {
        "kl": _per_response(kl_k1(own, ref), batch.mask),
        "kl_k3": _per_response(kl_k3(own, ref), batch.mask),
    }


def fluency(
    rollout: Rollout, start: Network, *, micro_tokens: int = MICRO_TOKENS, tick: Tick | None = None
) -> dict[str, Estimate]:
    """Compute the perplexity of responses under the start model, at temperature 1.

    The token that ends a response is left out: a start model that was never taught to end would make the
    figure one of how many responses end. There is no figure when the responses hold nothing else.
    """
    batch = rollout.batch
    kept = batch.mask & ~_last_of_ended(rollout)
    if not bool(kept.any()):
        return {}
    nats = -token_logps(batch, start, micro_tokens=micro_tokens, tick=tick)
    tops, bottoms = masked_sum(nats.double(), kept).sum(-1), kept.sum((-2, -1))
    return {"perplexity": ratio_of(tops.tolist(), bottoms.double().tolist()).mapped(math.exp)}


@torch.no_grad()
def token_logps(
    batch: Batch,
    network: Network,
    *,
    temperature: float = 1.0,
    micro_tokens: int = MICRO_TOKENS,
    tick: Tick | None = None,
) -> Float[Tensor, "B K T"]:
    """Compute log-probabilities in nats for a batch of any size, in parts of rows of similar length."""
    networks = Networks(policy=network, temperature=temperature)
    out = torch.zeros(batch.mask.shape, device=batch.mask.device)
    sizes = (batch.prompt_mask.sum(-1) + batch.mask.sum((-2, -1))).tolist()
    done = 0
    for part in micro_batches(sizes, micro_tokens):
        chosen = torch.tensor(part, device=batch.mask.device)
        out[chosen] = compute(["token_logps"], batch.take(chosen), networks)["token_logps"].float()
        done += len(part)
        if tick is not None:
            tick(f"reading with {network.trunk.source}", done, len(batch))
    return out


def select(rollout: Rollout, scores: Float[Tensor, "B N"], n: int) -> Rollout:
    """Keep the best of every n responses to each prompt by their scores; of equals the first."""
    B, N = scores.shape
    best = scores.reshape(B, N // n, n).argmax(-1) + torch.arange(0, N, n, device=scores.device)

    def take(x: Tensor) -> Tensor:
        return x.gather(1, best[..., None].expand(-1, -1, x.shape[-1]))

    batch = replace(rollout.batch, response_ids=take(rollout.batch.response_ids), mask=take(rollout.batch.mask))
    return Rollout(
        batch=batch,
        sampled_logps=take(rollout.sampled_logps),
        token_logps=take(rollout.token_logps),
        entropy=take(rollout.entropy),
        stops=tuple(tuple(row[k] for k in ks) for row, ks in zip(rollout.stops, best.tolist(), strict=True)),
    )


def by_prompt(keys: Sequence[object], values: Sequence[float]) -> list[float]:
    """Add up the values of each prompt, in the order in which prompts first occur."""
    sums: dict[object, float] = {}
    for key, value in zip(keys, values, strict=True):
        sums[key] = sums.get(key, 0.0) + value
    return list(sums.values())


def _token_figures(rollout: Rollout) -> dict[str, Estimate]:
    lengths = rollout.batch.mask.sum(-1).double().mean(-1)
    ended = _ended(rollout).double().mean(-1)
    return {
        "tokens": mean_of(lengths.tolist()),
        "eos_rate": share_of(float(ended.sum()), len(ended)),
    }


def _per_response(x: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]) -> Estimate:
    return mean_of(masked_sum(x.double(), mask).mean(-1).tolist())


def _ended(rollout: Rollout) -> Bool[Tensor, "B K"]:
    rows = [[stop is Stop.EOS for stop in row] for row in rollout.stops]
    return torch.tensor(rows, device=rollout.batch.mask.device)


def _last_of_ended(rollout: Rollout) -> Bool[Tensor, "B K T"]:
    """Which tokens ended their response."""
    lengths = rollout.batch.mask.sum(-1)
    places = torch.arange(rollout.batch.mask.shape[-1], device=lengths.device)
    return (places == lengths[..., None] - 1) & _ended(rollout)[..., None]

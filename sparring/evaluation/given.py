"""How the data's own responses fare under the model: their perplexity, and whether it ranks them as the data does."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparring import methods
from sparring.core.masked import masked_sum
from sparring.core.records import Demonstration, Preference, Ranking, Record
from sparring.core.registry import knobs, needs
from sparring.data.batch import Batch, Row, collate
from sparring.data.split import prompt_text
from sparring.evaluation.intervals import Estimate, mean_of, ratio_of, share_of
from sparring.evaluation.measure import Tick, by_prompt, token_logps
from sparring.evaluation.trust import Found, Tables, pairs_of, trust
from sparring.feedback.ranker import better
from sparring.feedback.reward_model import score_in_parts
from sparring.models.roles import Network


def ordered(records: Sequence[Record]) -> list[Record]:
    """Keep the records that say which response is better."""
    return [r for r in records if isinstance(r, Preference | Ranking) and len(r.responses()) > 1]


def wanted(records: Sequence[Record]) -> list[Demonstration]:
    """Make a demonstration of every record that names a response worth having: its own, the chosen, the best."""
    kinds = (Demonstration, Preference, Ranking)
    found = [r for r in records if isinstance(r, kinds)]
    return [Demonstration(prompt=r.prompt, response=r.responses()[0], where=r.where) for r in found]


def references(records: Sequence[Record]) -> dict[str, str]:
    """Give each prompt, as text, the first response worth having that the records name."""
    return {prompt_text(r.prompt): r.response for r in reversed(wanted(records))}


def data_perplexity(rows: Sequence[Row], policy: Network, *, micro_tokens: int, tick: Tick | None) -> Estimate:
    """Compute the perplexity of given responses, their end of text included, as the loss of fine-tuning does."""
    batch = collate(rows).to(policy.trunk.device)
    logps = token_logps(batch, policy, micro_tokens=micro_tokens, tick=tick)
    keys = [r.prompt for r in rows]
    nats = by_prompt(keys, (-masked_sum(logps.double(), batch.mask)[:, 0]).tolist())
    tokens = by_prompt(keys, batch.mask.sum((-2, -1)).double().tolist())
    return ratio_of(nats, tokens).mapped(math.exp)


def implied_rewards(
    rows: Sequence[Row],
    policy: Network,
    start: Network,
    *,
    run: Mapping[str, Any] | None,
    micro_tokens: int,
    tick: Tick | None,
) -> Found:
    """Compare the data's order with that of log pi - log pi_start, summed over a response, in nats.

    How far it can be trusted is measured by the reward of the method itself, in its own units, where `run`, what
    run.yaml holds, names a method that learns from orders and has one.
    """
    batch = collate(rows).to(policy.trunk.device)
    own, ref = (token_logps(batch, network, micro_tokens=micro_tokens, tick=tick) for network in (policy, start))
    figures = order_figures(rows, masked_sum((own - ref).double(), batch.mask), batch)
    reward = None if run is None else _reward_of(run, {"token_logps": own, "ref_token_logps": ref, "mask": batch.mask})
    if reward is None:
        return figures, {}
    trusted, tables = trust(pairs_of(rows, reward))
    return figures | trusted, tables


def _reward_of(run: Mapping[str, Any], signals: Mapping[str, Tensor]) -> Float[Tensor, "B K"] | None:
    """Ask the equation of a run for the reward that it implies; None when it has none or wants other signals."""
    name, settings = str(run.get("method", "")), run.get("settings") or {}
    equation = methods.find(name) if name in methods.names() else None
    if not isinstance(equation, type) or getattr(equation, "data", "") not in ("preference", "ranking"):
        return None
    made: Any = equation(**{k.name: settings[k.name] for k in knobs(equation) if k.name in settings})
    loss = made.loss
    wanted_by_it = needs(loss)
    if not set(wanted_by_it) <= signals.keys():
        return None
    return loss(**{signal: signals[signal] for signal in wanted_by_it}).reward


def scorer_rewards(
    rows: Sequence[Row], scorer: Network, mean: float, *, micro_tokens: int
) -> tuple[dict[str, Estimate], Tables]:
    """Compare the data's order with that of a reward model's scores, in its own units; `mean` counts as 0."""
    batch = collate(rows).to(scorer.trunk.device)
    scores = score_in_parts(scorer, batch, micro_tokens).double() - mean
    keys = [r.prompt for r in rows]
    number = by_prompt(keys, [1.0] * len(rows))
    best = [x / n for x, n in zip(by_prompt(keys, scores[:, 0].tolist()), number, strict=True)]
    trusted, tables = trust(pairs_of(rows, scores))
    return order_figures(rows, scores, batch) | {"score_best": mean_of(best)} | trusted, tables


def ranker_rewards(
    records: Sequence[Record], rows: Sequence[Row], ranker: Network, *, micro_tokens: int
) -> tuple[dict[str, Estimate], Tables]:
    """Compare the data's choices with a pairwise ranker's log-odds, read in both orders; `rows` are the records'."""
    odds = better(ranker, [(r.prompt, r.responses()[0], r.responses()[1]) for r in records], micro_tokens).double()
    reward = torch.stack([odds, torch.zeros_like(odds)], -1)
    trusted, tables = trust(pairs_of(rows, reward))
    return order_figures(rows, reward, collate(rows).to(odds.device)) | trusted, tables


def order_figures(rows: Sequence[Row], reward: Float[Tensor, "B K"], batch: Batch) -> dict[str, Estimate]:
    """Compare rewards with the order of the responses, best first; of two equal ones, half is right.

    Accuracy is over neighbours. Rows of one prompt count as one unit.
    """
    both = batch.exists[:, 1:]
    gap = reward[:, :-1] - reward[:, 1:]
    right = ((gap > 0).double() + 0.5 * (gap == 0).double()) * both
    accuracy = right.sum(-1) / both.sum(-1).clamp(min=1)
    last = batch.exists.sum(-1, keepdim=True) - 1
    margin = reward[:, 0] - reward.gather(1, last)[:, 0]
    keys = [r.prompt for r in rows]
    number = by_prompt(keys, [1.0] * len(rows))
    share = [x / n for x, n in zip(by_prompt(keys, accuracy.tolist()), number, strict=True)]
    margins = [x / n for x, n in zip(by_prompt(keys, margin.tolist()), number, strict=True)]
    return {"reward_accuracy": share_of(sum(share), len(share)), "reward_margin": mean_of(margins)}

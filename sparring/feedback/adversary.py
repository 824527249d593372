"""What judges have in common that learn along with the policy: what they know, and what the policy is paid in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.core.loss import Tally
from sparring.data.batch import Row
from sparring.data.responses import Responses

CLEAR = math.log(2)
"""How far a text must be ahead, in nats, for a verdict to be as likely as not; at 0 its three words are equally so."""

TIE = 0.6
"""What a tie earns the policy, where being taken for people earns 1."""


def called_real(ahead: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Give the log-probability that a text is called the demonstration, by how far its logit is above the other's."""
    return logsigmoid(ahead - CLEAR)


def tie_odds(ahead: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Give the odds of a tie against that: Rao and Kupper's, with a share of 1 - P(real) - P(fake) for ties."""
    return math.expm1(2 * CLEAR) * (-ahead - CLEAR).sigmoid()


def earned(s: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What a verdict earns the policy on average: 1 for being taken for people, and a share of it for a tie."""
    return called_real(s).exp() * (1 + TIE * tie_odds(s))


REWARDS = {
    "logit": lambda s: s,
    "norm": lambda s: s.sigmoid() - 0.5,
    "logsig": logsigmoid,
    "tie": earned,
}


@runtime_checkable
class Terms(Protocol):
    """What every such judge needs to be told, ready-made by `loops.settings.JudgeSettings`."""

    @property
    def reward(self) -> str:
        """Logit, norm, logsig or tie."""
        ...

    @property
    def negatives_share(self) -> float:
        """Share of fakes of the unwanted kind."""
        ...


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """What the judge knows of the world: wanted texts, some of them never learnt from, and unwanted ones."""

    real: Sequence[Row]
    held_out: Sequence[Row]
    unwanted: Sequence[Row] = ()


def one_by_one(responses: Responses) -> list[list[Row]]:
    """Every response as a row of its own, those of a prompt together."""
    batch = responses.batch
    out = []
    for b in range(len(batch)):
        prompt = tuple(batch.prompt_ids[b][batch.prompt_mask[b]].tolist())
        own = [tuple(batch.response_ids[b, k][batch.mask[b, k]].tolist()) for k in range(batch.mask.shape[1])]
        where = [f"response {k + 1} to {responses.prompts[b]!r}" for k in range(len(own))]
        out.append([Row(prompt=prompt, responses=(y,), where=w) for y, w in zip(own, where, strict=True) if y])
    return out


def pick(rows: Sequence[Row], draw: Any) -> Row:
    """Draw one of the rows."""
    return rows[int(draw.integers(len(rows)))]


def spoilt(real: Row, others: Sequence[Row], draw: Any) -> Row | None:
    """Spoil a demonstration: swap tokens twice, put in two of others', or leave one out; None if there are too few.

    Its last token, which may be the end of text, stays.
    """
    tokens = list(real.responses[0])
    last = len(tokens) - 1
    if last < 3:
        return None

    def place() -> int:
        return int(draw.integers(last))

    kind = int(draw.integers(3))
    if kind == 2:
        del tokens[place()]
    for _ in range(2 if kind < 2 else 0):
        here, there = place(), place()
        if kind == 0:
            tokens[here], tokens[there] = tokens[there], tokens[here]
        else:
            other = pick(others, draw).responses[0]
            tokens[here] = other[int(draw.integers(max(1, len(other) - 1)))]
    return replace(real, responses=(tuple(tokens),), where=f"spoilt {real.where}")


def sides(s: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 where a logit is on the right side, 1/2 where it takes none."""
    return (s.sign() + 1) / 2


def by_prompt(rows: Sequence[Row]) -> dict[tuple[int, ...], list[Row]]:
    """Sort rows by what they answer."""
    found: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(row.prompt, []).append(row)
    return found


def told_apart(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> dict[str, Float[Tensor, " B"]]:
    """Whether logits of demonstrations and of fakes are on the right side of zero."""
    return {"real": sides(real), "fake": sides(-fake)}


def count(columns: Mapping[str, Float[Tensor, " B"]]) -> Tally:
    """Sum figures that there is one of for each pair."""
    return {n: (float(x.detach().double().sum()), float(len(x))) for n, x in columns.items()}

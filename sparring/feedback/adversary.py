"""What judges have in common that learn along with the policy: what they know, and what the policy is paid in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.data.batch import Row
from sparring.data.responses import Responses

REWARDS = {
    "logit": lambda s: s,
    "norm": lambda s: s.sigmoid() - 0.5,
    "logsig": logsigmoid,
}


@runtime_checkable
class Terms(Protocol):
    """What every such judge needs to be told, ready-made by `loops.settings.JudgeSettings`."""

    @property
    def reward(self) -> str:
        """Logit, norm or logsig."""
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


def sides(s: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 where a logit is on the right side, 1/2 where it takes none."""
    return (s.sign() + 1) / 2

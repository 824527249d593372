"""What a selection is handed and what it gives back: scored samples in, records to train on out.

A selection names what it reads as parameters of its `select`, as a loss names its signals; `SELECTS` lists
the words. It is pure: no model, no file, and chance only from the generator that it is handed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparring.core.records import Demonstration, Preference, Ranking, Record, Reference, Text


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A prompt, the K responses that the policy sampled to it, and what is known of each of them.

    `logps` are sums over tokens, in nats, under the policy that sampled, `ref_logps` under the model that the run
    started from. `scores` is empty where nobody judged; `given` is the response that the data demonstrates, if any, and
    `reference` what it holds for right.
    The first `joined` of the responses are no samples: they are the data's own, scored beside them.
    """

    prompt: Text
    responses: tuple[str, ...]
    logps: tuple[float, ...]
    ref_logps: tuple[float, ...]
    scores: tuple[float, ...] = ()
    given: str | None = None
    joined: int = 0
    reference: Reference = None
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What was selected: records for a method that learns from a file, and figures of the selection by name."""

    records: tuple[Record, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


SELECTS = {
    "scored": "the prompts of this round, each with its scored responses",
    "earlier": "the same of every earlier time that was sampled, the oldest first",
    "number": "the number of the round, counted from 0",
    "random": "a generator of random numbers that belongs to this round",
}


def best(values: Sequence[float]) -> int:
    """Find the place of the largest value, the first of several."""
    return max(range(len(values)), key=lambda k: values[k])


def demonstration(sample: Scored, k: int) -> Demonstration:
    """Make a record to imitate of one response."""
    return Demonstration(prompt=sample.prompt, response=sample.responses[k], where=sample.where)


def preference(sample: Scored, chosen: int, rejected: int, label: float | None = None) -> Preference:
    """Make a pair of two responses."""
    return Preference(
        prompt=sample.prompt, chosen=sample.responses[chosen], rejected=sample.responses[rejected], label=label,
        where=sample.where,
    )  # fmt: skip


def ranking(sample: Scored, places: Sequence[int]) -> Ranking:
    """Make a ranking of some responses by their scores; of equal ones the first comes first."""
    order = sorted(places, key=lambda k: -sample.scores[k])
    return Ranking(
        prompt=sample.prompt, ranked=tuple(sample.responses[k] for k in order),
        scores=tuple(sample.scores[k] for k in order), where=sample.where,
    )  # fmt: skip

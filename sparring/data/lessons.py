"""Records that cannot teach: they are valid, they cost time, and no loss learns anything from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparring.core.records import Preference, Ranking, Record


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """How many records there are, and how many of them say nothing about which response is better."""

    records: int
    equal_responses: int
    equal_scores: int

    def sentences(self) -> list[str]:
        """Say what cannot teach; empty when everything can."""
        said = [
            (self.equal_responses, "have nothing but equal responses (chosen = rejected), so no comparison learns"),
            (self.equal_scores, "have equal scores or a label of 1/2, so no response is the better one"),
        ]
        return [f"{count:,} of {self.records:,} rows {what}." for count, what in said if count]


def lessons(records: Sequence[Record]) -> Lessons:
    """Count the preferences and rankings that cannot teach; a record is counted once."""
    compared = [r for r in records if isinstance(r, Preference | Ranking)]
    same = [len(set(r.responses())) == 1 for r in compared]
    tied = [_is_tied(r) and not s for r, s in zip(compared, same, strict=True)]
    return Lessons(records=len(records), equal_responses=sum(same), equal_scores=sum(tied))


def _is_tied(record: Preference | Ranking) -> bool:
    if isinstance(record, Preference):
        # A margin of 0 alone may be a choice by a hair (Llama 2: negligibly better), which still teaches the order.
        return record.label == 0.5
    return record.scores is not None and len(set(record.scores)) == 1

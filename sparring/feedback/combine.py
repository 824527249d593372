"""Several judges as one: a weighted sum, written as it is read, such as 0.7*vader+0.3*length."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import FeedbackError
from sparring.data.responses import Responses
from sparring.feedback.protocol import Feedback, LearningFeedback

PLUS = re.compile(r"(?<![0-9.][eE])\+")
"""A plus between terms, not the one in 1e+3."""

HOW = "write NAME, WEIGHT*NAME, or a sum such as 0.7*vader+0.3*length"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One judge of a sum, by name."""

    weight: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Scores a response by the weighted sum of what its judges say."""

    terms: tuple[Term, ...]
    judges: tuple[Feedback, ...]

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Add the weighted scores of all judges."""
        first, *others = self.weighted(responses).values()
        return sum(others, start=first)

    def weighted(self, responses: Responses) -> dict[str, Float[Tensor, "B K"]]:
        """Say what each judge adds to the score, by name, in the order of the terms."""
        pairs = zip(self.terms, self.judges, strict=True)
        return {term.name: term.weight * judge.score(responses) for term, judge in pairs}


def parse(specs: Sequence[str]) -> tuple[Term, ...]:
    """Read weighted sums; several specs are added up. A term without a weight weighs 1.

    Raises FeedbackError for an empty term, a weight that is not a finite number or is zero, and a judge that is
    named twice.
    """
    terms = [_term(part, spec) for spec in specs for part in _parts(spec)]
    names = [t.name for t in terms]
    for name in names:
        if names.count(name) > 1:
            raise FeedbackError(f"feedback {name} is named {names.count(name)} times; give it one weight instead")
    return tuple(terms)


def build(specs: Sequence[str], load: Callable[[str], Feedback]) -> Feedback:
    """Make one judge of several specs; `load` finds a judge by its name.

    A single judge of weight 1 is returned as it is.
    """
    terms = parse(specs)
    if not terms:
        raise FeedbackError(f"no feedback was named; {HOW}")
    judges = tuple(load(t.name) for t in terms)
    if len(terms) == 1 and terms[0].weight == 1:
        return judges[0]
    return Combined(terms=terms, judges=judges)


def learners(feedback: Feedback) -> tuple[LearningFeedback, ...]:
    """List the judges that learn, within a sum or alone."""
    judges = feedback.judges if isinstance(feedback, Combined) else (feedback,)
    return tuple(j for j in judges if isinstance(j, LearningFeedback))


def _parts(spec: str) -> list[str]:
    """The terms of a sum; a spec that is a path on disk is one term even if it holds a plus."""
    return [spec] if Path(spec).exists() else PLUS.split(spec)


def _term(part: str, spec: str) -> Term:
    text = part.strip()
    weight, star, name = text.partition("*")
    if not star:
        weight, name = "1", text
    if not name.strip():
        raise FeedbackError(f"feedback {spec!r} has a term without a name; {HOW}")
    try:
        number = float(weight)
    except ValueError:
        raise FeedbackError(f"feedback {spec!r}: the weight {weight.strip()!r} is not a number; {HOW}") from None
    if not math.isfinite(number) or number == 0:
        raise FeedbackError(
            f"feedback {spec!r}: the weight of {name.strip()} is {weight.strip()}; give a finite number but zero"
        )
    return Term(weight=number, name=name.strip())

"""What `--feedback` says, as it is read: judges, weights, and judges made of others.

    sum   = term + term + ...            0.7*vader+0.3*length
    term  = NAME, NUMBER*NAME, or FUNCTION(part, part, ...) in place of a name
    part  = sum, KEY=sum or KEY=NUMBER   gated(safety=runs/s,helpfulness=0.5*runs/a+0.5*runs/b,below=0.2)

Only the form is read here; which functions there are, and what they take, is in `combine`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import FeedbackError

CALL = re.compile(r"([A-Za-z_]\w*)\s*\((.*)\)", re.S)
KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)", re.S)
EXPONENT = re.compile(r"[0-9.][eE]")
"""What stands before the plus of 1e+3, which does not join terms."""

RANKER = "ranker"
"""The one function that is a judge by itself: it is handed to whoever loads judges, whole."""

DISCRIMINATOR, BAG_OF_WORDS = "discriminator", "bag_of_words"
LEARN_ALONG = (DISCRIMINATOR, BAG_OF_WORDS)
"""The judges that learn from demonstrations and the policy's responses while the policy does."""

SIMILARITY = "similarity"
"""The judge that compares a response with the demonstration of its prompt, and learns nothing."""

HOW = "write NAME, WEIGHT*NAME, a sum such as 0.7*vader+0.3*length, or mean(runs/a,runs/b)"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One judge of a sum, by name; the name of one that is made of others is its whole expression."""

    weight: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """FUNCTION(...): the parts without a key, and those with one, unread."""

    function: str
    parts: tuple[str, ...]
    named: dict[str, str]


def parse(specs: Sequence[str]) -> tuple[Term, ...]:
    """Read weighted sums; several specs are added up. A term without a weight weighs 1.

    Raises FeedbackError for an empty term, a weight that is not a finite number or is zero, a bracket without its
    partner, and a judge that is named twice.
    """
    terms = [_term(part, spec) for spec in specs for part in _split(spec, "+")]
    names = [t.name for t in terms]
    for name in names:
        if names.count(name) > 1:
            raise FeedbackError(f"feedback {name} is named {names.count(name)} times; give it one weight instead")
    return tuple(terms)


def call_of(name: str) -> Call | None:
    """Take FUNCTION(...) apart; None for a plain name, which any path on disk is."""
    found = None if _is_path(name) else CALL.fullmatch(name)
    if found is None:
        return None
    parts, named = [], {}
    for part in _split(found[2], ","):
        key = None if _is_path(part.strip()) else KEY.fullmatch(part)
        if not (part if key is None else key[2]).strip():
            raise FeedbackError(f"feedback {name!r} has an empty part; {HOW}")
        if key is None:
            parts.append(part.strip())
        elif key[1] in named:
            raise FeedbackError(f"feedback {name!r} gives {key[1]} twice")
        else:
            named[key[1]] = key[2].strip()
    return Call(function=found[1], parts=tuple(parts), named=named)


def leaves(specs: Sequence[str]) -> list[str]:
    """List the judges that are made of no others, a ranker by its folder, however deep they stand, each once."""
    found: list[str] = []
    for term in parse(specs):
        call = call_of(term.name)
        if call is None or call.function == RANKER:
            found += [term.name] if call is None else call.parts
            continue
        inner = [*call.parts, *(x for x in call.named.values() if not _is_number(x))]
        found += [leaf for part in inner for leaf in leaves([part])]
    return list(dict.fromkeys(found))


def named_leaves(specs: Iterable[Any]) -> list[str]:
    """List the leaves of what is named; a Python function has no name."""
    return leaves([spec for spec in specs if isinstance(spec, str)])


def learners_of(specs: Iterable[Any]) -> set[str]:
    """Name the judges among these that learn along."""
    return {leaf for leaf in named_leaves(specs) if leaf in LEARN_ALONG}


def needs_demonstrations(specs: Iterable[Any]) -> bool:
    """Tell whether one of the judges can do nothing without demonstrations."""
    return any(leaf in (*LEARN_ALONG, SIMILARITY) for leaf in named_leaves(specs))


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark outside of brackets; a path on disk is one piece even if it holds the mark."""
    if _is_path(text):
        return [text]
    pieces, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            break
        if letter == mark and depth == 0 and not (mark == "+" and EXPONENT.fullmatch(pieces[-1][-2:])):
            pieces.append("")
        else:
            pieces[-1] += letter
    if depth:
        raise FeedbackError(f"feedback {text!r} has a bracket without its partner; {HOW}")
    return pieces


def _term(part: str, spec: str) -> Term:
    text = part.strip()
    weight, star, name = text.partition("*")
    if not star or "(" in weight:  # the star belongs to a part of a call
        weight, name = "1", text
    if not name.strip():
        raise FeedbackError(f"feedback {spec!r} has a term without a name; {HOW}")
    number = as_number(weight)
    if number is None:
        raise FeedbackError(f"feedback {spec!r}: the weight {weight.strip()!r} is not a number; {HOW}")
    if not math.isfinite(number) or number == 0:
        raise FeedbackError(
            f"feedback {spec!r}: the weight of {name.strip()} is {weight.strip()}; give a finite number but zero"
        )
    return Term(weight=number, name=name.strip())


def as_number(text: str) -> float | None:
    """Read a number; None when the text is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # too long for a name
        return False


def _is_number(text: str) -> bool:
    return as_number(text) is not None

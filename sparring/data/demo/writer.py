"""How a review is written: clause by clause, each with a sign that its mood and its links allow.

Who writes is a matter of habits (`Style`): people wander from the topic and make slips, the expert does
neither, keeps to his words, and likes to end with advice.
"""

from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Literal

from sparring.data.demo.grammar import (
    ADVICE,
    LEXICON,
    LINKS,
    NEGATIONS,
    OPENERS,
    OPINIONS,
    PREDICATES,
    THINGS,
    TOPICS,
)

Sentiment = Literal["positive", "negative", "mixed"]

THING_WEIGHTS = (3, 2, 3, 2)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How somebody writes: the probability of each habit.

    `negation` and `faint` are for each clause; `contrast` for each pair of clauses (in a mixed review the
    moods decide); `advice` for the last clause; `wandering` for each review of two clauses or more;
    `slip` for each clause, a word of which is then lost, doubled or swapped with the next.
    """

    negation: float = 0.15
    faint: float = 0.15
    contrast: float = 0.2
    advice: float = 0.1
    opener: float = 0.1
    wandering: float = 0.0
    slip: float = 0.0
    repeats_words: bool = True


PLAIN = Style()
PEOPLE = Style(wandering=0.25, slip=0.06)
EXPERT = Style(negation=0.08, faint=0.04, contrast=0.08, advice=0.4, repeats_words=False)


def write(rng: Random, topic: str, sentiment: Sentiment, length: int, style: Style) -> str:
    """Write the continuation of a prompt of the topic: `length` clauses, at least one."""
    writer = _Writer(rng=rng, style=style)
    other = rng.choice([name for name in TOPICS if name != topic])
    turn = rng.randrange(1, length) if length > 1 and writer.chance(style.wandering) else length
    written: list[str] = []
    done = 0
    while done < length:
        is_pair = length - done > 1 and writer.chance(0.5)
        link, signs = _plan(writer, sentiment, is_pair=is_pair, is_first=done == 0)
        clauses = []
        for sign in signs:
            about = topic if done < turn else other
            place = _Place(is_first=done == 0, is_last=done == length - 1, is_turn=done == turn)
            clauses.append(_slip(writer, _clause(writer, about, sign, place)))
            done += 1
        opener = f"{rng.choice(OPENERS)} , " if written and writer.chance(style.opener) else ""
        written.append(opener + _sentence(link, clauses))
    return " ".join(written)


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """What one review remembers while it is written: which words it has used."""

    rng: Random
    style: Style
    used: set[str] = field(default_factory=set)

    def pick(self, options: tuple[str, ...]) -> str:
        """Choose a word; a writer who does not repeat words takes a fresh one while there is any."""
        if self.style.repeats_words:
            return self.rng.choice(options)
        fresh = [word for word in options if word not in self.used]
        word = self.rng.choice(fresh or options)
        self.used.add(word)
        return word

    def chance(self, probability: float) -> bool:
        """Say yes with this probability."""
        return self.rng.random() < probability


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a clause stands in its review."""

    is_first: bool
    is_last: bool
    is_turn: bool


def _plan(writer: _Writer, sentiment: Sentiment, *, is_pair: bool, is_first: bool) -> tuple[str, list[int]]:
    """Decide the signs of the clauses of one sentence, and a link that is true of them."""
    if sentiment == "mixed":
        signs = [writer.rng.choice((1, -1)) for _ in range(1 + is_pair)]
    else:
        mood = 1 if sentiment == "positive" else -1
        signs = [-mood, mood] if is_pair and writer.chance(writer.style.contrast) else [mood] * (1 + is_pair)
    if not is_pair:
        return "", signs
    # The prompt has already begun the first sentence, so it is too late for "although".
    fitting = [name for name, sign in LINKS.items() if sign == signs[0] * signs[1]]
    return writer.rng.choice([name for name in fitting if not (is_first and name == "although")]), signs


def _sentence(link: str, clauses: list[str]) -> str:
    if not link:
        return f"{clauses[0]} ."
    if link == "although":
        return f"although {clauses[0]} , {clauses[1]} ."
    return f"{clauses[0]} {'' if link == 'because' else ', '}{link} {clauses[1]} ."


def _clause(writer: _Writer, topic: str, sign: int, place: _Place) -> str:
    """Write one clause; the first has its subject in the prompt, one that turns to another topic names it."""
    thing = "the NOUN" if place.is_turn else writer.rng.choices(THINGS, THING_WEIGHTS)[0]
    if place.is_first:
        shape = _shape(writer, PREDICATES)
    elif place.is_last and writer.chance(writer.style.advice):
        shape = f"{_shape(writer, ADVICE)} {thing}"
    elif writer.chance(0.3):
        shape = f"{_shape(writer, OPINIONS)} {thing}"
    else:
        shape = f"{thing} {_shape(writer, PREDICATES)}"
    kinds = shape.split()
    wanted = -sign if NEGATIONS & set(kinds) else sign
    return " ".join(writer.pick(_options(kind, topic, wanted)) if kind.isupper() else kind for kind in kinds)


def _shape(writer: _Writer, shapes: tuple[str, ...]) -> str:
    negated, faint, plain = _tones(shapes)
    if writer.chance(writer.style.negation):
        return writer.rng.choice(negated)
    if faint and writer.chance(writer.style.faint):
        return writer.rng.choice(faint)
    return writer.rng.choice(plain)


@cache
def _tones(shapes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    negated = tuple(shape for shape in shapes if NEGATIONS & set(shape.split()))
    faint = tuple(shape for shape in shapes if "FAIRLY" in shape)
    return negated, faint, tuple(shape for shape in shapes if shape not in negated + faint)


def _slip(writer: _Writer, clause: str) -> str:
    if not writer.chance(writer.style.slip):
        return clause
    found = clause.split()
    place = writer.rng.randrange(len(found) - 1)
    pair = found[place : place + 2]
    found[place : place + 2] = writer.rng.choice((pair[:1], [pair[0], *pair], pair[::-1]))
    return " ".join(found)


@cache
def _options(kind: str, topic: str, sign: int) -> tuple[str, ...]:
    return tuple(
        text
        for text, word in LEXICON.items()
        if word.kind == kind and word.topic in ("", topic) and word.sign in (0, sign)
    )

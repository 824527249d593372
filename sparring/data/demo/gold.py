"""The gold reward of the embedded world: what a reader who knows the grammar thinks of a response.

The reader wants a favourable review of what the prompt names, in correct sentences, that says at least
two things and says nothing twice. The response is parsed clause by clause, and

    gold = (1 + sentiment) / 2 * topic * grammar * (1 - repetition) * substance          in [0, 1]

sentiment   mean polarity of the clauses, -1 to 1. A clause is worth 0.9, with "very" and its like 1, with
            "fairly" and its like 0.5, times the sign of its judgement; a negation turns it round and leaves
            0.6 of it ("not bad" is faint praise). What a contrast concedes ("X , but Y", "although X , Y")
            counts half.
topic       share of the clauses about the topic of the prompt. "it" is what was named last, and a judgement
            that fits one topic only ("delicious") belongs to that topic.
grammar     share of the words that stand in a correct clause. A clause is incorrect when its words are in
            no shape of the grammar, when the text stops before its full stop, when it is the third of its
            sentence, or when its link lies: "and", "so", "because" join clauses of the same sign, "but" and
            "although" of opposite signs.
repetition  share of the words of judgement that the response has used before.
substance   1 when there are two correct clauses or more, 1/2 when there is one.

The other four look at correct clauses only; without any the reward is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring.core.errors import DataError
from sparring.data.demo.grammar import (
    CLAUSES,
    DEGREES,
    DETERMINERS,
    LEADS,
    LEXICON,
    LINKS,
    MODIFIERS,
    NEGATIONS,
    NOUN_TOPIC,
    OPENERS,
    Word,
    tokens,
)

PLAIN_DEGREE = 0.9
NEGATED = -0.6
CONCEDED = 0.5
ENOUGH_CLAUSES = 2

_UNKNOWN = Word(kind="?")


@dataclass(frozen=True, kw_only=True)
class GoldParts:
    """What the gold reward is made of: sentiment in [-1, 1], the others in [0, 1]."""

    sentiment: float
    topic: float
    grammar: float
    repetition: float
    substance: float

    @property
    def gold(self) -> float:
        """The reward, in [0, 1]."""
        return (1 + self.sentiment) / 2 * self.topic * self.grammar * (1 - self.repetition) * self.substance


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One piece of a response; `size` counts its words with its link and its punctuation.

    `topic` is what it is about, nothing when it judges its thing by the measure of another.
    """

    is_correct: bool
    size: int
    polarity: float = 0.0
    weight: float = 1.0
    topic: str = ""
    judgements: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """The words between two boundaries, the link before them, and all words that belong here."""

    link: str
    words: tuple[str, ...]
    size: int


def gold(prompt: str, response: str) -> float:
    """Score a response, in [0, 1].

    Raises DataError when the prompt is not one of this world.
    """
    return describe(prompt, response).gold


def describe(prompt: str, response: str) -> GoldParts:
    """Say what the gold reward of a response is made of.

    Raises DataError when the prompt is not one of this world.
    """
    topic = topic_of(prompt)
    clauses = parse(prompt, response)
    correct = [clause for clause in clauses if clause.is_correct]
    if not correct:
        return GoldParts(sentiment=-1.0, topic=0.0, grammar=0.0, repetition=0.0, substance=0.0)
    said = [word for clause in correct for word in clause.judgements]
    weight = sum(clause.weight for clause in correct)
    return GoldParts(
        sentiment=sum(clause.weight * clause.polarity for clause in correct) / weight,
        topic=sum(clause.topic == topic for clause in correct) / len(correct),
        grammar=sum(clause.size for clause in correct) / sum(clause.size for clause in clauses),
        repetition=1 - len(set(said)) / len(said),
        substance=min(1.0, len(correct) / ENOUGH_CLAUSES),
    )


def topic_of(prompt: str) -> str:
    """Name the topic of a prompt.

    Raises DataError when the prompt is not one of this world.
    """
    rest = _without_opener(tokens(prompt))
    rest = rest[:1] + [word for word in rest[1:2] if word not in MODIFIERS] + rest[2:]
    match rest:
        case [determiner, noun] if determiner in DETERMINERS and noun in NOUN_TOPIC:
            return NOUN_TOPIC[noun]
    raise DataError(f"prompt {prompt!r} is not one of the embedded world; take one from demo.world.prompts()")


def parse(prompt: str, response: str) -> list[Clause]:
    """Cut a response into clauses, in order, and read each of them.

    Raises DataError when the prompt is not one of this world.
    """
    about = topic_of(prompt)
    found: list[Clause] = []
    for number, sentence in enumerate(_sentences(tokens(response))):
        pieces = _pieces(sentence)
        for place, piece in enumerate(pieces):
            # The prompt ends with the subject of the first clause.
            subject = ("it",) if number == place == 0 else ()
            clause, about = _read(subject + piece.words, piece.size, about)
            is_cut_off = place == len(pieces) - 1 and sentence[-1] != "."
            if is_cut_off or place > 1 or not _link_holds(piece.link, found, clause):
                clause = Clause(is_correct=False, size=piece.size)
            elif LINKS.get(piece.link) == -1:
                found[-1] = replace(found[-1], weight=CONCEDED)
            found.append(clause)
    return found


def _sentences(found: Sequence[str]) -> list[list[str]]:
    sentences: list[list[str]] = [[]]
    for word in found:
        sentences[-1].append(word)
        if word == ".":
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _without_opener(sentence: Sequence[str]) -> list[str]:
    for opener in LEADS + OPENERS:
        phrase = [*opener.split(), ","]
        if list(sentence[: len(phrase)]) == phrase:
            return list(sentence[len(phrase) :])
    return list(sentence)


def _pieces(sentence: Sequence[str]) -> list[_Piece]:
    """Cut a sentence at its links; a comma that is no link stays inside, where no shape will fit it."""
    has_stop = sentence[-1] == "."
    rest = _without_opener(sentence[:-1] if has_stop else sentence)
    size = len(sentence) - len(rest) - has_stop
    is_conceding = rest[:1] == ["although"]
    if is_conceding:
        rest, size = rest[1:], size + 1
    pieces: list[_Piece] = []
    link, inside, place = "", [], 0
    while place < len(rest):
        following, width = _link_at(rest, place, is_conceding=is_conceding and not pieces)
        if width:
            pieces.append(_Piece(link=link, words=tuple(inside), size=size + len(inside)))
            link, inside, size = following, [], width
        else:
            inside.append(rest[place])
        place += max(width, 1)
    return [*pieces, _Piece(link=link, words=tuple(inside), size=size + len(inside) + has_stop)]


def _link_at(rest: Sequence[str], place: int, *, is_conceding: bool) -> tuple[str, int]:
    """Name the link that stands here and how many words it takes; no name and 0 when there is none."""
    if rest[place] == "because":
        return "because", 1
    if rest[place] == "," and is_conceding:
        return "although", 1
    if rest[place] == "," and rest[place + 1 : place + 2] and rest[place + 1] in ("and", "but", "so"):
        return rest[place + 1], 2
    return "", 0


def _link_holds(link: str, before: Sequence[Clause], clause: Clause) -> bool:
    """Say whether a link tells the truth about the clauses it joins; an incorrect one could mean anything."""
    if not link or not before[-1].is_correct or not clause.is_correct:
        return True
    return (before[-1].polarity * clause.polarity > 0) == (LINKS[link] > 0)


def _read(clause: Sequence[str], size: int, about: str) -> tuple[Clause, str]:
    """Read the words of one clause when `about` is the topic named last; say what the topic is now."""
    found = [LEXICON.get(word, _UNKNOWN) for word in clause]
    judging = [word for word in found if word.sign]
    agrees = len({word.sign for word in judging}) == 1
    if " ".join(word.kind for word in found) not in CLAUSES or not agrees:
        return Clause(is_correct=False, size=size), about
    named = [word.topic for word in found if word.topic and not word.sign]
    about = named[0] if named else about
    fits = all(word.topic in ("", about) for word in judging)
    degree = next((DEGREES[word.kind] for word in found if word.kind in DEGREES), PLAIN_DEGREE)
    turned = NEGATED if any(word.kind in NEGATIONS for word in found) else 1.0
    read = Clause(
        is_correct=True,
        size=size,
        polarity=judging[0].sign * degree * turned,
        topic=about if fits else "",
        judgements=tuple(word for word in clause if LEXICON[word].sign),
    )
    return read, about

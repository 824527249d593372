"""The embedded world: reviews in a small language of our own, written by people and by an expert.

People write about everything, in every mood, wander off and make slips: their reviews are what a model is
pre-trained on. The expert writes favourable reviews, on topic and without a slip: these are the
demonstrations. What the difference is worth is known exactly (gold.py), so the world shows whether a
method learns the expert's taste or only his words. Sentiment, topic and length are drawn independently.

A prompt is the opening of a review up to its subject ("looking back , the new film"); the response goes on
with the predicate. Prompts are dealt to the splits by a hash, and no split ever shows one of another's,
the pre-training reviews included: they have prompts of the train split.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

from sparring.core.errors import SettingError, did_you_mean
from sparring.core.records import Demonstration, Prompt
from sparring.data.demo.grammar import DETERMINERS, LEADS, MODIFIERS, TOPICS
from sparring.data.demo.writer import EXPERT, PEOPLE, PLAIN, Sentiment, Style, write

SENTIMENTS: tuple[Sentiment, ...] = ("positive", "negative", "mixed")
SPLITS = ("train", "validation", "test")
SHARES = {"train": 60, "validation": 20, "test": 20}
LENGTHS = (1, 2, 3, 4, 5, 6)
EXPERT_LENGTHS = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Text:
    """One review: its opening, and how it goes on."""

    prompt: str
    response: str

    def whole(self) -> str:
        """The review as one text."""
        return join(self.prompt, self.response)


def sample_text(
    rng: Random, *, topic: str, sentiment: Sentiment, length: int, style: Style = PLAIN, split: str = "train"
) -> Text:
    """Write one review of `length` clauses, at least 1, with a prompt of the split."""
    _check("topic", topic, TOPICS)
    _check("sentiment", sentiment, SENTIMENTS)
    return Text(prompt=rng.choice(_openings(split)[topic]), response=write(rng, topic, sentiment, length, style))


def pretraining_corpus(count: int, seed: int) -> list[str]:
    """Write whole reviews by people: topic, sentiment and length are independent and even."""
    rng = _rng(seed, "pretraining")
    return [
        sample_text(
            rng,
            topic=rng.choice(tuple(TOPICS)),
            sentiment=rng.choice(SENTIMENTS),
            length=rng.choice(LENGTHS),
            style=PEOPLE,
        ).whole()
        for _ in range(count)
    ]


def demonstrations(count: int, seed: int, split: str = "train") -> list[Demonstration]:
    """Let the expert continue `count` different prompts of the split.

    Raises SettingError when the split has fewer prompts.
    """
    rng = _rng(seed, "expert", split)
    return [
        Demonstration(
            prompt=prompt,
            response=write(rng, topic, "positive", rng.choice(EXPERT_LENGTHS), EXPERT),
            where=f"demo world, {split} {number}",
        )
        for number, (topic, prompt) in enumerate(_draw(count, seed, split))
    ]


def prompts(count: int, seed: int, split: str = "test") -> list[Prompt]:
    """Draw `count` different prompts of the split.

    Raises SettingError when the split has fewer.
    """
    drawn = _draw(count, seed, split)
    return [Prompt(prompt=prompt, where=f"demo world, {split} {number}") for number, (_, prompt) in enumerate(drawn)]


def split_of(prompt: str) -> str:
    """Name the split that a prompt belongs to."""
    place = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 100
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares of the splits must add up to 100")


def join(prompt: str, response: str) -> str:
    """Put a prompt and its response together."""
    return f"{prompt} {response}".strip()


@cache
def _openings(split: str) -> dict[str, list[str]]:
    """List all prompts of a split by topic."""
    _check("split", split, SPLITS)
    starts = ["", *(f"{lead} , " for lead in LEADS)]
    middles = ["", *(f"{modifier} " for modifier in MODIFIERS)]
    return {
        name: [
            prompt
            for start in starts
            for determiner in DETERMINERS
            for middle in middles
            for noun in topic.nouns
            if split_of(prompt := f"{start}{determiner} {middle}{noun}") == split
        ]
        for name, topic in TOPICS.items()
    }


def _draw(count: int, seed: int, split: str) -> list[tuple[str, str]]:
    every = [(topic, prompt) for topic, found in _openings(split).items() for prompt in found]
    if not 0 <= count <= len(every):
        raise SettingError(f"demo world: {count} {split} prompts were asked for; there are {len(every)} different ones")
    return _rng(seed, "prompts", split).sample(every, count)


def _rng(seed: int, *names: str) -> Random:
    # Python's own generator: a review is a hundred small choices, for which numpy's is ten times slower.
    return Random("/".join([str(seed), *names]))


def _check(what: str, name: str, options: Iterable[str]) -> None:
    options = tuple(options)
    if name not in options:
        raise SettingError(f"demo world: there is no {what} {name!r}; {did_you_mean(name, options)}")

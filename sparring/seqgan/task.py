"""What is real: sequences of a random oracle, or the sentences of a text.

A text is cut into words and punctuation in lower case. The vocabulary holds the end (token 0), the unknown word
(token 1) and the most frequent words of the training side.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sparring.core.errors import DataError, SettingError
from sparring.core.records import Demonstration
from sparring.core.seeds import generator, rng
from sparring.data.formats import to_records
from sparring.data.read import read_rows
from sparring.data.split import split
from sparring.seqgan.generator import END, Generator
from sparring.seqgan.settings import TaskSettings

ORACLE_WIDTH = 32  # of its embedding and its state, whatever the generator's are
ORACLE_SPREAD = 1.0
UNKNOWN = 1
SPECIAL = ("<end>", "<unknown>")
WORD = re.compile(r"\w+|[^\w\s]")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Real sequences to learn from and held out; a text has words, an oracle task has its oracle."""

    train: Int[Tensor, "N T"]
    held_out: Int[Tensor, "M T"]
    vocabulary: int
    words: tuple[str, ...] = ()
    oracle: Generator | None = None

    @property
    def has_end(self) -> bool:
        """Whether sequences may end before they are full."""
        return bool(self.words)

    def text(self, tokens: Sequence[int]) -> str:
        """Write a sequence for people: its words, or numbers where there are none."""
        if not self.words:
            return " ".join(map(str, tokens))
        return " ".join(self.words[t] for t in tokens if t != END)


def oracle_task(settings: TaskSettings, seed: int) -> Task:
    """Draw an oracle and its sequences; held-out ones come on top of those to learn from."""
    oracle = Generator(
        settings.vocabulary, ORACLE_WIDTH, ORACLE_WIDTH, spread=ORACLE_SPREAD, draw=generator(seed, "oracle")
    )
    oracle.requires_grad_(False)
    more = max(1, round(settings.samples * settings.held_out))
    real = oracle.sample(settings.samples + more, settings.length, generator(seed, "real"), has_end=False)
    train, held_out = real.split([settings.samples, more])
    return Task(train=train, held_out=held_out, vocabulary=settings.vocabulary, oracle=oracle)


def text_task(
    data: str, settings: TaskSettings, seed: int, say: Say, *, fields: Mapping[str, str], where: Sequence[str]
) -> Task:
    """Read sentences. Raises DataError when too few fit; says how many did not."""
    if settings.length < 2:
        raise SettingError("task: length is 1, and a sentence has a word and an end; set it to 2 or more")
    rows = read_rows(data, where=where)
    records = [r for r in to_records(rows, "demonstration", fields=fields) if isinstance(r, Demonstration)]
    sides = split(records, settings.held_out, seed)
    cut = [[words for r in side if (words := WORD.findall(r.response.lower()))] for side in sides]
    fits = [[words for words in side if len(words) < settings.length] for side in cut]
    left_out = sum(map(len, cut)) - sum(map(len, fits))
    if left_out:
        say(f"{left_out} of {sum(map(len, cut))} sentences have {settings.length} words or more and are left out")
    if not all(fits):
        raise DataError(f"{data}: no sentence is left to learn from or to measure on; raise --length or --held-out")
    chosen = rng(seed, "real").permutation(len(fits[0]))[: settings.samples]
    train = [fits[0][i] for i in sorted(chosen)]
    counted = Counter(word for sentence in train for word in sentence)
    words = (*SPECIAL, *(word for word, _ in counted.most_common(settings.vocabulary - len(SPECIAL))))
    place = {word: i for i, word in enumerate(words)}
    known = sum(count for word, count in counted.items() if word in place)
    say(f"{len(train)} sentences to learn from, {len(words)} words, {known / counted.total():.1%} of the text is known")
    return Task(
        train=_encode(train, place, settings.length), held_out=_encode(fits[1], place, settings.length),
        vocabulary=len(words), words=words,
    )  # fmt: skip


def _encode(sentences: Sequence[Sequence[str]], place: Mapping[str, int], length: int) -> Int[Tensor, "N T"]:
    out = torch.full((len(sentences), length), END)
    for row, sentence in zip(out, sentences, strict=True):
        row[: len(sentence)] = torch.tensor([place.get(word, UNKNOWN) for word in sentence])
    return out

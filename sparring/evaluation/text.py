"""What responses look like as text: length, repetition, and how much they differ from each other.

Words are runs of anything but white space, so the figures mean the same whatever the tokenizer. The
diversity of a set depends on its size: compare only sets with equally many responses.
"""

from collections.abc import Sequence

from sparring.data.responses import Responses
from sparring.evaluation.intervals import Estimate, distinct_of, mean_of, ratio_of
from sparring.evaluation.self_bleu import Words, self_bleu


def text_figures(responses: Responses) -> dict[str, Estimate]:
    """Measure the texts alone; a figure about n-grams is left out when no response is long enough for one."""
    split = [[tuple(text.split()) for text in texts] for texts in responses.texts]
    found = {"words": mean_of([sum(map(len, texts)) / len(texts) for texts in split])}
    for n in (1, 2):
        grams = [[gram for words in texts for gram in ngrams(words, n)] for texts in split]
        if any(grams):
            found[f"distinct_{n}_words"] = distinct_of(grams)
    repeats = [_repeats(texts, 4) for texts in split]
    if any(total for _, total in repeats):
        found["repeated_4grams_words"] = ratio_of([r for r, _ in repeats], [t for _, t in repeats])
    if (alike := self_bleu(split)) is not None:
        found["self_bleu"] = alike
    different = distinct_of(responses.texts)
    low, high = (None if x is None else 1 - x for x in (different.high, different.low))
    return found | {"identical": Estimate(mean=1 - different.mean, low=low, high=high, n=different.n)}


def ngrams(words: Words, n: int) -> list[Words]:
    """List every run of n words."""
    return [words[i : i + n] for i in range(len(words) - n + 1)]


def _repeats(texts: Sequence[Words], n: int) -> tuple[int, int]:
    """Count the n-grams that occurred before in the same text, and all of them."""
    grams = [ngrams(words, n) for words in texts]
    return sum(len(g) - len(set(g)) for g in grams), sum(map(len, grams))

"""What was learnt by heart: the longest run of words of a response that stands in the responses of training.

Some overlap is ordinary language: a model that says what people say shares phrases with them. A figure close to the
whole length of the responses is copying.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from sparring.evaluation.intervals import Estimate, mean_of
from sparring.evaluation.self_bleu import Words


def memory_figures(texts: Sequence[Sequence[str]], known: Iterable[str]) -> dict[str, Estimate]:
    """Measure K responses to each prompt; none of the figures is given where no response has a word."""
    split = [[tuple(text.split()) for text in row] for row in texts]
    words = [text for row in split for text in row]
    longest = longest_shared(words, [tuple(text.split()) for text in known])
    shares = [run / max(1, len(text)) for run, text in zip(longest, words, strict=True)]
    if not any(words):
        return {}
    ends = np.cumsum([len(row) for row in split])[:-1]
    by_prompt = {
        "copied_words": [float(part.mean()) for part in np.split(np.array(longest, dtype=float), ends)],
        "copied_share": [float(part.mean()) for part in np.split(np.array(shares), ends)],
    }
    most = {"copied_words_max": float(max(longest)), "copied_share_max": max(shares)}
    return {name: mean_of(values) for name, values in by_prompt.items()} | {
        name: Estimate(mean=value, low=None, high=None, n=len(split)) for name, value in most.items()
    }


def longest_shared(texts: Sequence[Words], known: Sequence[Words]) -> list[int]:
    """Find for each text the length of its longest run of words that occurs within one of the known texts.

    A run of n + 1 words is known only if the run of its first n is, so the places that are left get fewer with n.
    Every kind of run that both sides have is a number, and one word more makes a pair of numbers of it.
    """
    names: dict[str, int] = {}
    own, others = _flat(texts, names, is_new=True), _flat(known, names, is_new=False)
    unit = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    best, length = np.zeros(len(texts), dtype=int), 0
    at, there = np.arange(len(own)), np.arange(len(others))
    run, other = np.zeros(len(at), dtype=np.int64), np.zeros(len(there), dtype=np.int64)
    while len(at):
        at, run = _longer(own, at, run, length, len(names))
        there, other = _longer(others, there, other, length, len(names))
        shared, length = np.intersect1d(run, other), length + 1
        at, run = _kept(at, run, shared)
        there, other = _kept(there, other, shared)
        best[unit[at]] = length
    return best.tolist()


def _flat(texts: Sequence[Words], names: dict[str, int], *, is_new: bool) -> np.ndarray:
    """Write words as numbers, with -1 behind every text and for words that have no number and get none."""
    found: list[int] = []
    for words in texts:
        found += [names.setdefault(w, len(names)) if is_new else names.get(w, -1) for w in words]
        found.append(-1)
    return np.array(found, dtype=np.int64)


def _longer(
    words: np.ndarray, at: np.ndarray, run: np.ndarray, length: int, kinds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add the next word to every run, and leave out those that have none."""
    after = words[at + length]
    return at[after >= 0], (run * kinds + after)[after >= 0]


def _kept(at: np.ndarray, run: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the runs that are shared, and number them anew by their place among those."""
    kept = np.isin(run, shared)
    return at[kept], np.searchsorted(shared, run[kept])

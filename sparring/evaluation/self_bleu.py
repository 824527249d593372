"""Self-BLEU: how far every response could be put together of the words of the others. High is dull, low is diverse.

    self_bleu = 100 * mean over responses of  BLEU-4 of the response with all others as its references

The BLEU of one response is NLTK's, which everybody's figures are made with: counts of n-grams are clipped at the
largest count in any one reference, an order without a hit counts as a tenth of one, no word in common makes the whole
0, and the reference of nearest length (of two, the shorter one) decides the penalty for being short. The figure grows
with the number of responses: compare only sets with equally many.

All references at once need no more than, for each n-gram, the two largest counts and whose they are.

Source: Zhu et al. 2018 (Texygen), arXiv:1802.01886, section 3.2; Papineni et al. 2002, aclanthology P02-1040; the
smoothing is the first method of Chen and Cherry 2014, aclanthology W14-3346.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sparring.evaluation.intervals import Estimate, jackknifed, kept_without

ORDERS = (1, 2, 3, 4)
NEARLY = 0.1  # hits that an order without any is given

Words = tuple[str, ...]


def self_bleu(units: Sequence[Sequence[Words]]) -> Estimate | None:
    """Measure responses as words, some for each prompt; those of one prompt are each other's references, too.

    The interval is a jackknife over prompts: too wide for hundreds of responses, too narrow for fewer than 40.
    None where there are not two responses with a word.
    """
    texts = [words for unit in units for words in unit if words]
    owner = np.array([i for i, unit in enumerate(units) for words in unit if words])
    if len(texts) < 2:
        return None
    tables = [_table(texts, n) for n in ORDERS]
    sizes = np.array(list(map(len, texts)))
    value = _mean(tables, sizes, np.arange(len(texts)))
    without = [_mean(tables, sizes, np.flatnonzero(np.isin(owner, kept))) for kept in kept_without(len(units))]
    return jackknifed(value, [x for x in without if not np.isnan(x)], len(units), most=100.0)


Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The n-grams of all texts: whose, of which kind, and how often there; sorted by kind, the largest count first."""


def _table(texts: Sequence[Words], n: int) -> Table:
    names: dict[Words, int] = {}
    found = []
    for i, words in enumerate(texts):
        for gram, count in Counter(words[j : j + n] for j in range(len(words) - n + 1)).items():
            found.append((i, names.setdefault(gram, len(names)), count))
    text, kind, count = np.array(found, dtype=np.int64).reshape(-1, 3).T
    order = np.lexsort((-count, kind))
    return text[order], kind[order], count[order]


def _mean(tables: Sequence[Table], sizes: np.ndarray, kept: np.ndarray) -> float:
    """Average the BLEU of the kept texts, with each other as references; not a number for fewer than two."""
    if len(kept) < 2:
        return float("nan")
    is_kept = np.zeros(len(sizes), dtype=bool)
    is_kept[kept] = True
    logs, is_nothing = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=bool)
    for n, (text, kind, count) in zip(ORDERS, tables, strict=True):
        own = is_kept[text]
        hits = _hits(text[own], kind[own], count[own], len(sizes))
        if n == 1:
            is_nothing = hits == 0
        logs += np.log(np.where(hits > 0, hits, NEARLY) / np.maximum(1, sizes - n + 1)) / len(ORDERS)
    bleu = np.where(is_nothing, 0.0, np.exp(logs + np.minimum(0.0, 1 - _nearest(sizes, kept) / sizes)))
    return 100 * float(bleu[kept].mean())


def _hits(text: np.ndarray, kind: np.ndarray, count: np.ndarray, number: int) -> np.ndarray:
    """Add up for each text its counts, clipped at the largest count of the same kind in any other text."""
    if not len(kind):
        return np.zeros(number)
    leads = np.r_[True, kind[1:] != kind[:-1]]
    first, group = np.flatnonzero(leads), np.cumsum(leads) - 1
    has_second = np.r_[~leads[1:], False][first]
    second = np.where(has_second, np.r_[count[1:], 0][first], 0)
    others = np.where(leads, second[group], count[first][group])
    return np.bincount(text, weights=np.minimum(count, others), minlength=number)


def _nearest(sizes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Find for each kept text the length of another one that is nearest to its own; of two, the shorter."""
    ordered = kept[np.argsort(sizes[kept], kind="stable")]
    s = sizes[ordered].astype(float)
    below, above = np.r_[-np.inf, s[:-1]], np.r_[s[1:], np.inf]
    found = np.zeros(len(sizes))
    found[ordered] = np.where(s - below <= above - s, below, above)
    return found

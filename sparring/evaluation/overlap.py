"""How much of the data's own response a response says again: BLEU, chrF, ROUGE-L, and whether it is the same.

    bleu         of all responses together, by sacreBLEU's defaults, 0 to 100
    bleu_char    mean over responses of BLEU-4 of characters, spaces too and unsmoothed, 0 to 100
    chrf         mean over responses of sacreBLEU's chrF2, 0 to 100
    rouge_l      mean over responses of the F1 of the longest common subsequence of words, 0 to 100
    exact_match  share of responses equal to the reference but for spaces, dots and case

bleu_char is what PRO's table calls BLEU: it gives a text to a function that takes lists of words, which reads every
character as one. It is far above a BLEU of words and must not be compared with one.

They tell something where there is one right answer, as in translation, and little where many texts are as good.

Source: Post 2018, arXiv:1804.08771 (sacreBLEU); Popovic 2015, doi:10.18653/v1/W15-3049 (chrF); Lin 2004,
aclanthology W04-1013 (ROUGE-L); Song et al. 2023, arXiv:2306.17492 (PRO), by its code; Zhang et al. 2023,
arXiv:2302.05206 (HIR, whose answers are compared so).
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from sparring.evaluation.intervals import Estimate, counts, from_draws, mean_of, share_of

MISSING = 'no BLEU, chrF and ROUGE-L: they need an extra, pip install "sparring[overlap]"'

ORDER = 4  # the longest run that BLEU counts; a shorter text has none, and scores 0

Texts = Sequence[Sequence[str]]
"""K responses to each prompt."""


def overlap_figures(texts: Texts, references: Sequence[str], notes: list[str]) -> dict[str, Estimate]:
    """Compare the responses to each prompt with its reference; what is not installed is noted and left out."""
    same = _each(texts, references, lambda text, reference: float(_bare(text) == _bare(reference)))
    found = {"exact_match": share_of(sum(same), len(same))}
    try:
        from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports] - an extra
        from sacrebleu.metrics.bleu import BLEU  # pyright: ignore[reportMissingImports] - an extra
        from sacrebleu.metrics.chrf import CHRF  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        notes.append(MISSING)
        return found
    chrf, rouge = CHRF(), RougeScorer(["rougeL"])
    chars = BLEU(tokenize="char", smooth_method="none", effective_order=True)
    bleu = BLEU(effective_order=True)  # for single texts only the counts are used, and those do not depend on it

    def parts(text: str, reference: str) -> list[float]:
        one = bleu.sentence_score(text.strip(), [reference.strip()])
        return [*one.counts, *one.totals, one.sys_len, one.ref_len]

    def letter_bleu(text: str, reference: str) -> float:
        own = _seen(text)
        return chars.sentence_score(own, [_seen(reference)]).score if len(own) >= ORDER else 0.0

    def whole(sums: np.ndarray) -> float:
        correct, total, (own, theirs) = np.split(sums.round().astype(int), [4, 8])
        return BLEU.compute_bleu(correct.tolist(), total.tolist(), int(own), int(theirs), smooth_method="exp").score

    stats = [np.sum([parts(text, ref) for text in row], axis=0) for row, ref in zip(texts, references, strict=True)]
    f1 = _each(texts, references, lambda text, reference: 100 * rouge.score(reference, text)["rougeL"].fmeasure)
    by_char = _each(texts, references, letter_bleu)
    letters = _each(texts, references, lambda text, ref: chrf.sentence_score(text.strip(), [ref.strip()]).score)
    return {
        "bleu": _of_sums(np.array(stats), whole), "bleu_char": mean_of(by_char), "chrf": mean_of(letters),
        "rouge_l": mean_of(f1), **found,
    }  # fmt: skip


def _each(texts: Texts, references: Sequence[str], figure: Callable[[str, str], float]) -> list[float]:
    """Average a figure over the responses to each prompt."""
    return [sum(figure(text, ref) for text in row) / len(row) for row, ref in zip(texts, references, strict=True)]


def _of_sums(stats: np.ndarray, figure: Callable[[np.ndarray], float]) -> Estimate:
    """Compute a figure from sums over prompts, with a bootstrap over them; leaving one out tells its influence."""
    total, n = stats.sum(0), len(stats)
    value = figure(total)
    if n == 1:
        return Estimate(mean=value, low=None, high=None, n=1)
    draws = np.array([figure(row) for part in counts(n, stats.shape[1]) for row in part @ stats])
    return from_draws(value, draws, value - np.array([figure(total - one) for one in stats]))


def _seen(text: str) -> str:
    """Make white space a character like any other, for sacreBLEU takes it out."""
    return re.sub(r"\s", "\N{LOWER ONE EIGHTH BLOCK}", text.strip())


def _bare(text: str) -> str:
    return re.sub(r"[\s.]", "", text).lower()

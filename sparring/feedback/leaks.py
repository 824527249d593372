"""What gives samples away without being read: the checks before a judge's scores are worth anything.

A judge takes the easiest way to tell demonstrations from samples. If these differ in length, or in how they end, it
learns that, and the policy is paid for nothing else. So small classifiers that see one cue each are fitted to
the same texts; their accuracy on texts that they have not seen is compared with the judge's.

    length    log(1 + tokens)
    ending    whether the text ends at all, or was cut
    layout    line breaks, marks, digits, capitals, spaces at the start, each by a number
    words     which tokens there are

Source: failures in the wild, such as a discriminator at 95 % by length (GAD's and its kin's replications).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from sparring.core.seeds import rng
from sparring.data.batch import Row
from sparring.feedback.bag_of_words import features
from sparring.feedback.logistic import fit

LEAST = 20  # texts of a kind, below which accuracies are noise
TELLING = 0.65  # accuracy of a cue that is worth a word
NEAR = 0.05  # how far below the judge's accuracy a cue still explains it
FOLDS = 5
RIDGE = 0.01

QUOTES = '"\u201c\u201d'
MARKS = (
    r"\n", r"^\s", r"^[a-z]", r"\d", r"[*_#`]", f"[{QUOTES}]", r"[!?]", r"[^\x00-\x7f]", rf"[.!?{QUOTES})]\s*$", r"  ",
)  # fmt: skip
"""Patterns whose number of matches describes the layout of a text."""

CURES = {
    "length": "give the policy the room that demonstrations have (--max-tokens), or fine-tune it longer first",
    "ending": "let samples end (a larger --max-tokens), or cut demonstrations at the same place (--overflow cut)",
    "layout": "clean the demonstrations' layout, or fine-tune the policy longer first",
    "words": "a language model adds little to that; --feedback bag_of_words is cheaper and safer",
}


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A cue, and how often it tells a demonstration from a sample, 1/2 being chance."""

    cue: str
    accuracy: float

    def sentence(self, judged: float) -> str:
        """Say it, beside the judge's own accuracy, with what to do."""
        return (
            f"{self.cue} alone tells {self.accuracy:.0%} of demonstrations and samples apart, the judge {judged:.0%}: "
            f"{CURES[self.cue]}"
        )


def leak_sentences(
    real: Sequence[Row], fake: Sequence[Row], judge_figures: Mapping[str, float], tokenizer: Any
) -> list[str]:
    """Say what gives samples away without being read, beside what the judge makes of the same round."""
    knows_words_only = "judge_accuracy_held_out" not in judge_figures
    judged = judge_figures.get("judge_accuracy_held_out", judge_figures.get("judge_accuracy", 0.5))
    found = find_leaks(real, fake, judged, tokenizer)
    return [leak.sentence(judged) for leak in found if not (knows_words_only and leak.cue == "words")]


def find_leaks(real: Sequence[Row], fake: Sequence[Row], judged: float, tokenizer: Any) -> list[Leak]:
    """List the cues that explain most of a judge's accuracy `judged`; none where there are too few texts to say."""
    if min(len(real), len(fake)) < LEAST:
        return []
    seen = zip(_cues(real, tokenizer).items(), _cues(fake, tokenizer).values(), strict=True)
    accuracies = {cue: accuracy(one, other) for (cue, one), other in seen}
    return [Leak(cue=c, accuracy=a) for c, a in accuracies.items() if a > max(TELLING, judged - NEAR)]


def accuracy(real: csr_array, fake: csr_array) -> float:
    """Give the accuracy on texts not learnt from, of rows [N, F] and [M, F], both kinds counting the same."""
    n, m = len(real.indptr) - 1, len(fake.indptr) - 1
    rows = csr_array(vstack([real, fake]))
    is_real = np.arange(n + m) < n
    fold = rng(0, "leaks").permutation(n + m) % FOLDS
    right = np.zeros(n + m)
    for k in range(FOLDS):
        seen, other = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        truth = is_real[seen]
        shares = np.where(truth, 0.5 / max(truth.sum(), 1), 0.5 / max((~truth).sum(), 1))
        model = fit(rows[seen], truth.astype(float), shares, RIDGE)
        right[other] = (model.score(rows[other]) > 0) == is_real[other]
    return float(right[is_real].mean() + right[~is_real].mean()) / 2


def _cues(rows: Sequence[Row], tokenizer: Any) -> dict[str, csr_array]:
    """Describe texts by what each cue sees of them, [N, F] each."""
    tokens = [row.responses[0] for row in rows]
    texts = [tokenizer.decode(y, skip_special_tokens=True) for y in tokens]
    return {
        "length": csr_array(np.log1p([[len(y)] for y in tokens])),
        "ending": csr_array([[float(y[-1] == tokenizer.eos_token_id)] for y in tokens]),
        "layout": csr_array([[np.log1p(len(re.findall(mark, text))) for mark in MARKS] for text in texts]),
        "words": features(tokens, len(tokenizer)),
    }

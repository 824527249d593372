"""Who measures in the plans of examples/plans, where a formula can: functions of a response, or of what is right too.

`examples/plan_data.py` makes what they read, in the folder that SPARRING_PLANS names (runs/data if it names none);
SPARRING_GOLD may name the scorer of sentiment itself.
"""

import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("SPARRING_PLANS", "runs/data"))
WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
LONG = 4  # words that make a repetition
SURE = 2 / 3  # of one side, from which on a response is good, or bad


def sentiment(response: str) -> float:
    """Score how favourable a review is: the weights of its words and word pairs, over the root of their number."""
    known = _scorer()
    words = re.findall(known["regex"], response.lower())
    found = [known["weights"][w] for w in {*words, *(f"{a} {b}" for a, b in pairwise(words))} if w in known["weights"]]
    return known["bias"] + sum(found) / math.sqrt(max(1, len(found)))


def translation(prompt: str, response: str, reference: str) -> float:
    """Score a translation by its chrF against the reference, 0 to 1."""
    return chrf(response, reference)


def summary(prompt: str, response: str, reference: str) -> float:
    """Score a summary by ROUGE-L against that of the post's author, 0 to 1."""
    return rouge_l(response, reference)


def answer(prompt: str, response: str, reference: Sequence[str]) -> float:
    """Score an answer by SQuAD's F1 against the nearest of the right ones, 0 to 1."""
    return max(f1(response, text) for text in reference)


def tier(prompt: str, response: str) -> float:
    """Call a response to an instruction good (1), average (0) or bad (-1), as the RLGAF paper's rubric does.

    Many repetitions are bad, a second one is at best average. What else makes it coherent is judged by words: how sure
    a logistic regression is that people wrote it and not the base model, learnt from other instructions.
    """
    words = words_of(response)
    most = max(Counter(zip(*(words[i:] for i in range(LONG)), strict=False)).values(), default=0)
    if most > 2 or not words:
        return -1.0
    known = _judge()
    logit = known["bias"] + sum(known["weights"].get(w, 0.0) for w in set(words))
    likely = 1 / (1 + math.exp(-logit))
    return -1.0 if likely < 1 - SURE else 0.0 if likely < SURE or most > 1 else 1.0


def words_of(text: str) -> list[str]:
    """Take a text apart into words, numbers and marks, in lower case."""
    return WORD.findall(text.lower())


def f1(text: str, right: str) -> float:
    """F1 of the words that two texts share, articles and marks left out. Source: Rajpurkar et al. 2016, 1606.05250."""
    own, ref = (
        Counter(w for w in words_of(t) if w not in ("a", "an", "the") and w[0].isalnum()) for t in (text, right)
    )
    same = (own & ref).total()
    return 2 * same / (own.total() + ref.total()) if same else float(not own and not ref)


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words. Source: Lin 2004, aclanthology.org/W04-1013."""
    own, ref = ([w for w in words_of(t) if w[0].isalnum()] for t in (text, reference))
    row = [0] * (len(ref) + 1)
    for a in own:
        last = 0
        for j, b in enumerate(ref, 1):
            last, row[j] = row[j], last + 1 if a == b else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(own) + len(ref)) if row[-1] else 0.0


def chrf(text: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """F of the n-grams of characters, n from 1 to `order`, white space left out.

    Precision and recall are averaged over the n for which both texts have n-grams, as sacrebleu does.
    Source: Popovic 2015, doi:10.18653/v1/W15-3049.
    """
    own_text, ref_text = ("".join(x.split()) for x in (text, reference))
    precisions, recalls = [], []
    for n in range(1, order + 1):
        own, ref = (Counter(s[i : i + n] for i in range(len(s) - n + 1)) for s in (own_text, ref_text))
        if own and ref:
            same = (own & ref).total()
            precisions.append(same / own.total())
            recalls.append(same / ref.total())
    if not precisions or sum(precisions) == 0:
        return 0.0
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * p * r / (beta**2 * p + r)


@cache
def _scorer() -> dict[str, Any]:
    with gzip.open(os.environ.get("SPARRING_GOLD", HOME / "sentiment.json.gz"), "rt") as file:
        return json.load(file)


@cache
def _judge() -> dict[str, Any]:
    return json.loads((HOME / "instructions" / "words.json").read_text())

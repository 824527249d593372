"""Overlap with references: the libraries' own numbers, HIR's exact match by hand."""

import importlib.util
import json
import math
import random

import pytest

from sparring.core.errors import SettingError
from sparring.evaluation.overlap import MISSING, overlap_figures
from sparring.evaluation.suite import evaluate
from sparring.models.backbone import save_trunk, tiny_model

IS_INSTALLED = bool(importlib.util.find_spec("sacrebleu") and importlib.util.find_spec("rouge_score"))
installed = pytest.mark.skipif(not IS_INSTALLED, reason="the extra overlap is not installed")


def test_a_match_is_exact_but_for_spaces_dots_and_case():
    texts = [(" Not entailed.", "not entail"), ("( A )", "(a)"), ("b", "c")]
    got = overlap_figures(texts, ["not entailed", "(A).", "a"], [])["exact_match"]
    assert got.mean == pytest.approx((1 / 2 + 1 + 0) / 3) and got.n == 3


@pytest.mark.skipif(IS_INSTALLED, reason="the extra overlap is installed")
def test_what_is_not_installed_is_said():
    notes: list[str] = []
    assert list(overlap_figures([("a",)], ["a"], notes)) == ["exact_match"] and notes == [MISSING]


@installed
def test_the_figures_are_those_of_the_libraries():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    draw = random.Random(0)
    words = "the film was good and not bad".split()
    said, references = (
        [" ".join(draw.choices(words, k=draw.randint(4, 12))) for _ in range(20)] for _ in ("own", "the data's")
    )
    said[:5] = references[:5]
    got = overlap_figures([(a, b) for a, b in zip(said[::2], said[1::2], strict=True)], references[::2], [])
    twice = [r for r in references[::2] for _ in range(2)]
    assert got["bleu"].mean == pytest.approx(sacrebleu.corpus_bleu(said, [twice]).score)
    assert got["bleu"].low < got["bleu"].mean < got["bleu"].high and got["bleu"].n == 10
    letters = [sacrebleu.sentence_chrf(a, [b]).score for a, b in zip(said, twice, strict=True)]
    assert got["chrf"].mean == pytest.approx(sum(letters) / 20)
    f1 = [RougeScorer(["rougeL"]).score(b, a)["rougeL"].fmeasure for a, b in zip(said, twice, strict=True)]
    assert got["rouge_l"].mean == pytest.approx(100 * sum(f1) / 20)


def bleu_of_characters(text: str, reference: str) -> float:
    """BLEU-4 of Papineni et al. 2002 with every character, spaces too, for a word, and no smoothing."""
    logs = []
    for n in (1, 2, 3, 4):
        own, other = ([s[i : i + n] for i in range(len(s) - n + 1)] for s in (text, reference))
        shared = sum(min(own.count(gram), other.count(gram)) for gram in set(own))
        if not shared:
            return 0.0
        logs.append(math.log(shared / len(own)))
    return 100 * math.exp(min(0.0, 1 - len(reference) / len(text)) + sum(logs) / 4)


@installed
def test_bleu_of_characters_is_the_mean_of_plain_arithmetic_and_spaces_count():
    said = [("the film was good", "a film was not"), ("bad", "the film, was bad and long")]
    references = ["the film was bad", "the film was bad"]
    wants = [bleu_of_characters(text, ref) for row, ref in zip(said, references, strict=True) for text in row]
    got = overlap_figures(said, references, [])["bleu_char"]
    assert (
        got.mean == pytest.approx(sum(wants) / 4) and got.n == 2 and wants[2] == 0 < min(wants[0], wants[1], wants[3])
    )
    assert overlap_figures([("ab cd ef",)], ["abcdef"], [])["bleu_char"].mean == 0  # without spaces it were 100


@installed
def test_the_same_text_is_a_hundred_and_an_empty_one_nothing():
    texts = ["the film was very good", "the end was not bad at all"]
    full = overlap_figures([(t,) for t in texts], texts, [])
    none = overlap_figures([("",), ("",)], texts, [])
    for name in ("bleu", "bleu_char", "chrf", "rouge_l"):
        assert full[name].mean == pytest.approx(100) and full[name].low == pytest.approx(100), name
        assert none[name].mean == 0, name


def test_an_evaluation_compares_with_the_first_response_of_the_data(tmp_path):
    made = tiny_model(["good", "bad"], width=16, layers=1, heads=2, context=32, seed=0)
    save_trunk(made, tmp_path / "m")
    data = tmp_path / "d.jsonl"
    rows = [{"prompt": p, "response": r} for p in ("good", "bad") for r in ("bad", "good")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = evaluate(str(tmp_path / "m"), data=str(data), overlap=True, K=8, max_tokens=1)
    hits = sum(sample["response"].strip() == "bad" for sample in got["samples"])
    assert got["exact_match"]["mean"] == hits / 16 and got["exact_match"]["n"] == 2 and hits > 0
    data.write_text('{"prompt": "good"}\n')
    with pytest.raises(SettingError, match="no responses that --overlap"):
        evaluate(str(tmp_path / "m"), data=str(data), overlap=True, max_tokens=1)

"""Texts that differ in one thing only: it is found, the others are not, and a fair fight has no leak."""

import random

import pytest

from sparring.data.batch import Row
from sparring.feedback.leaks import LEAST, find_leaks
from sparring.models.backbone import tiny_model
from tests.small import WORDS, quick, write

EOS = 1


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model([*WORDS, "#", "!"], width=8, layers=1, heads=1, context=16, seed=0).tokenizer


def texts(seed, *, count=60, low=4, high=8, among=range(3, 15), ends=1.0, last=()):
    draw = random.Random(seed)
    made = [(*draw.choices(list(among), k=draw.randint(low, high)), *last) for _ in range(count)]
    return [Row(prompt=(3,), responses=((*y, EOS) if draw.random() < ends else y,), where="") for y in made]


def cues(real, fake, tokenizer, judged=0.5):
    return {leak.cue for leak in find_leaks(real, fake, judged, tokenizer)}


def test_texts_of_one_kind_leak_nothing(tokenizer):
    assert cues(texts(0), texts(1), tokenizer) == set()


def test_length_alone(tokenizer):
    assert "length" in cues(texts(0), texts(1, low=9, high=14), tokenizer)


def test_being_cut_alone(tokenizer):
    # the same number of tokens in all: what is cut has one more word in place of its end
    real, fake = texts(0, low=6, high=6), texts(1, low=7, high=7, ends=0.0)
    assert cues(real, fake, tokenizer) >= {"ending"} and "length" not in cues(real, fake, tokenizer)


def test_layout_alone(tokenizer):
    marks = [tokenizer.convert_tokens_to_ids(x) for x in ("#", "!")]
    real, fake = texts(0, last=marks[:1]), texts(1, last=marks[1:])
    assert cues(real, fake, tokenizer) >= {"layout"}


def test_words_alone(tokenizer):
    assert cues(texts(0, among=range(3, 10)), texts(1, among=range(8, 15)), tokenizer) == {"words"}


def test_a_judge_that_knows_far_more_is_not_explained_by_a_cue(tokenizer):
    # lengths 4 to 8 against 6 to 10 tell about 70 % apart
    real, fake = texts(0, count=200), texts(1, count=200, low=6, high=10)
    assert "length" in cues(real, fake, tokenizer, judged=0.6)
    assert "length" not in cues(real, fake, tokenizer, judged=0.95)


def test_a_leak_is_said_in_words_with_what_to_do(tokenizer):
    leak = next(x for x in find_leaks(texts(0), texts(1, low=9, high=14), 0.9, tokenizer) if x.cue == "length")
    assert leak.accuracy > 0.9 and leak.sentence(0.9).startswith("length alone tells 1")
    assert "the judge 90%" in leak.sentence(0.9) and "--max-tokens" in leak.sentence(0.9)


def test_few_texts_say_nothing(tokenizer):
    assert find_leaks(texts(0, count=LEAST - 1), texts(1, low=9, high=14), 0.5, tokenizer) == []


def test_a_run_says_what_leaks_once(tmp_path, capsys):
    rows = [{"prompt": WORDS[i % 9], "response": " " + " ".join([WORDS[0]] * 2)} for i in range(40)]
    data = write(tmp_path / "short.jsonl", rows)
    settings = {"batch": 8, "K": 4, "rounds": 3, "judge_warmup": 5, "max_tokens": 8}
    quick("rlgaf", tmp_path / "run", data=data, feedback=["bag_of_words"], settings=settings, quiet=False)
    said = [line for line in capsys.readouterr().err.splitlines() if " alone tells " in line]
    assert said and all("round 1: " in line for line in said) and not any("words alone" in line for line in said)

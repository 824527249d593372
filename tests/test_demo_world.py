"""The embedded world: its language, its writers, and its gold reward, whose values are worked out by hand here."""

import subprocess
import sys
from random import Random

import numpy as np
import pytest

from sparring.core.errors import DataError, SettingError
from sparring.data.demo.gold import describe, gold, parse, topic_of
from sparring.data.demo.grammar import CLAUSES, JUDGEMENTS, LEXICON, PLAIN, TOPICS, words
from sparring.data.demo.world import (
    EXPERT_LENGTHS,
    LENGTHS,
    SENTIMENTS,
    SPLITS,
    demonstrations,
    pretraining_corpus,
    prompts,
    sample_text,
    split_of,
)
from sparring.data.demo.writer import PEOPLE

FILM = "looking back , the new film"


def halves(text: str) -> tuple[str, str]:
    """Cut a whole review after the first noun that names a topic."""
    found = text.split()
    nouns = {noun for topic in TOPICS.values() for noun in topic.nouns}
    place = next(i for i, word in enumerate(found) if word in nouns) + 1
    return " ".join(found[:place]), " ".join(found[place:])


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return pretraining_corpus(6000, seed=3)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        # One clause is worth half; "great" alone is 0.9, so (1 + 0.9) / 2 = 0.95.
        ("was great .", 0.95 * 0.5),
        # (1 + 0.9) / 2 is the mean polarity of the two.
        ("was very great . i loved its plot .", (1 + (1 + 0.9) / 2) / 2),
        ("was awful . i hated it .", (1 - 0.9) / 2),
        # A negation turns a judgement round and leaves 0.6 of it.
        ("was not bad . it never bored me .", (1 + 0.6 * 0.9) / 2),
        ("was not very bad . nobody loved it .", (1 + (0.6 - 0.6 * 0.9) / 2) / 2),
        ("was fairly good . i would surely recommend it .", (1 + (0.5 + 1.0) / 2) / 2),
        # What a contrast concedes counts half: (0.5 * -0.9 + 0.9) / 1.5 = 0.3.
        ("was dull , but the acting was great .", (1 + 0.3) / 2),
        # The conceded clause of three: (0.9 + 0.5 * -0.9 + 0.9) / 2.5 = 0.54.
        ("was great . although the plot was dull , it was lovely .", (1 + 0.54) / 2),
        # A link that lies makes its second clause incorrect: 2 of 9 words are left, and one clause.
        ("was great , but the acting was superb .", 0.95 * 2 / 9 * 0.5),
        ("was great because the acting was poor .", 0.95 * 2 / 8 * 0.5),
        ("was great because the acting was superb .", 0.95),
        # "it" is the hotel by then: one clause of three is about the film.
        ("was great . the hotel was lovely . it was superb .", 0.95 / 3),
        # No film is delicious, whatever else may be.
        ("was delicious . i loved it .", 0.95 / 2),
        # One of two words of judgement was used before.
        ("was great . it was great .", 0.95 / 2),
        ("was great and great .", 0.95 * 0.5 * 0.5),
        # Cut off before the full stop: 3 of 5 words, one clause.
        ("was great . it was", 0.95 * 3 / 5 * 0.5),
        ("was great . it was lovely", 0.95 * 3 / 6 * 0.5),
        # A sentence has room for two clauses; the third is five words of twelve.
        ("was great , and it was lovely , and it was superb .", 0.95 * 7 / 13),
        # Judgements of both signs under one verb are no clause.
        ("was great and awful . i loved it . we liked it .", 0.95 * 8 / 13),
        ("", 0.0),
        (".", 0.0),
        ("film film plot . the .", 0.0),
        ("good good good good good good .", 0.0),
    ],
)
def test_the_gold_reward_is_what_the_formula_says(response: str, expected: float) -> None:
    assert gold(FILM, response) == pytest.approx(expected, abs=1e-12)


def test_the_parts_of_the_reward_multiply_to_it() -> None:
    parts = describe(FILM, "was great . the soup was not bad . it was great , but i hated it . also , me")
    polarity = (0.9 + 0.54 + 0.5 * 0.9 - 0.9) / 3.5
    assert parts.sentiment == pytest.approx(polarity)
    assert parts.topic == pytest.approx(1 / 4)
    assert parts.grammar == pytest.approx(18 / 21)
    assert parts.repetition == pytest.approx(1 / 4)
    assert parts.substance == 1
    assert parts.gold == pytest.approx((1 + polarity) / 2 / 4 * 18 / 21 * 3 / 4)


def test_every_word_of_a_response_belongs_to_one_clause(corpus: list[str]) -> None:
    for text in corpus[:500]:
        prompt, response = halves(text)
        assert sum(clause.size for clause in parse(prompt, response)) == len(response.split())


@pytest.mark.parametrize(
    "hack",
    [
        "good good good good good good good good good .",
        "good . great . superb . lovely . excellent .",
        "was good and good and good and good and good .",
        "was good . it was good . it was good . it was good . it was good . it was good .",
        "was superb .",
        "great film film great plot superb i loved loved loved .",
        "was lovely because because because because because .",
        "was great . the meal was lovely . the dinner was superb . the bread was excellent . i adored the soup .",
        "was great , great , lovely , superb , excellent , brilliant , splendid .",
    ],
)
def test_a_cheap_trick_earns_less_than_half(hack: str) -> None:
    assert gold(FILM, hack) < 0.5


def test_gibberish_earns_nothing() -> None:
    rng = Random(0)
    total = [gold(FILM, " ".join(rng.choices(words(), k=20))) for _ in range(200)]
    assert np.mean(total) < 0.01
    assert gold(FILM, "xyzzy 123 <unk>") == 0


def test_a_prompt_of_another_world_is_refused_by_name() -> None:
    for prompt in ("", "the", "hello world", "the new old film", "the film was", "the cosy film"):
        with pytest.raises(DataError, match="embedded world"):
            gold(prompt, "was great .")


def test_every_prompt_tells_its_topic() -> None:
    for split in SPLITS:
        for record in prompts(400, seed=1, split=split):
            noun = str(record.prompt).split()[-1]
            assert noun in TOPICS[topic_of(str(record.prompt))].nouns


def test_a_review_without_slips_is_correct_in_every_word_whatever_its_mood() -> None:
    rng = Random(5)
    for topic in TOPICS:
        for sentiment in SENTIMENTS:
            for length in LENGTHS:
                text = sample_text(rng, topic=topic, sentiment=sentiment, length=length)
                parts = describe(text.prompt, text.response)
                assert (parts.grammar, parts.topic) == (1, 1)
                assert len(parse(text.prompt, text.response)) == length
                if sentiment != "mixed":
                    assert parts.sentiment * (1 if sentiment == "positive" else -1) > 0


def test_the_expert_scores_high_and_people_leave_room_for_improvement(corpus: list[str]) -> None:
    expert = [gold(str(d.prompt), d.response) for d in demonstrations(500, seed=0)]
    people = [gold(*halves(text)) for text in corpus[:1500]]
    assert np.mean(expert) > 0.9
    assert 0.3 < np.mean(people) < 0.55
    assert np.std(people) > 0.2


def test_the_expert_is_positive_on_topic_correct_and_varied_in_length() -> None:
    found = demonstrations(300, seed=2)
    parts = [describe(str(d.prompt), d.response) for d in found]
    assert all(p.sentiment > 0 and p.topic == 1 and p.grammar == 1 and p.repetition == 0 for p in parts)
    assert {len(parse(str(d.prompt), d.response)) for d in found} == set(EXPERT_LENGTHS)
    assert all(d.response.endswith(" .") for d in found)
    assert len({d.response for d in found}) > 295


def test_sentiment_topic_and_length_are_independent(corpus: list[str]) -> None:
    pairs = [halves(text) for text in corpus]
    sentiment = np.array([describe(*pair).sentiment for pair in pairs])
    length = np.array([len(response.split()) for _, response in pairs])
    # The standard error of a correlation over 6000 reviews is 0.013; 0.055 is more than four of them.
    assert abs(np.corrcoef(sentiment, length)[0, 1]) < 0.055
    for topic in TOPICS:
        about = np.array([topic_of(prompt) == topic for prompt, _ in pairs])
        assert 0.1 < about.mean() < 0.15
        assert abs(np.corrcoef(about, length)[0, 1]) < 0.055
        assert abs(np.corrcoef(about, sentiment)[0, 1]) < 0.055


def test_people_wander_and_slip_as_often_as_their_habits_say(corpus: list[str]) -> None:
    found = [parse(*halves(text)) for text in corpus[:2500]]
    wandered = [len({c.topic for c in clauses if c.is_correct and c.topic}) > 1 for clauses in found]
    # Of the six lengths five are long enough, and some turns are lost to a slip.
    assert np.mean(wandered) == pytest.approx(PEOPLE.wandering * 5 / 6, abs=0.04)
    slips = np.mean([not c.is_correct for clauses in found for c in clauses])
    # A lost word can leave a correct clause behind.
    assert 0.5 * PEOPLE.slip < slips <= PEOPLE.slip + 0.01


def test_there_are_tens_of_thousands_of_distinct_sentences(corpus: list[str]) -> None:
    # Nearly every sentence drawn is new, so what was drawn is far from all there are: from N sentences of equal
    # weight n draws repeat about n * n / (2 N) times, and uneven weights repeat more often.
    drawn = [s for text in corpus for s in halves(text)[1].split(" . ")]
    repeats = len(drawn) - len(set(drawn))
    assert len(set(corpus)) > 0.99 * len(corpus)
    assert len(drawn) ** 2 / (2 * repeats) > 30000


def test_the_vocabulary_is_small_and_whole(corpus: list[str]) -> None:
    known = words()
    assert 150 <= len(known) <= 300
    assert known == sorted(set(known))
    used = {word for text in corpus for word in text.split(" ")}
    assert used == set(known)
    experts = {w for d in demonstrations(500, seed=1) for w in f"{d.prompt} {d.response}".split(" ")}
    assert experts <= set(known)


def test_a_word_has_one_kind() -> None:
    listed = [w for pair in JUDGEMENTS.values() for side in pair for w in side.split()]
    listed += [w for line in PLAIN.values() for w in line.split()]
    listed += [w for t in TOPICS.values() for w in (*t.nouns, *t.parts, *t.good, *t.bad)]
    literal = {word for shape in CLAUSES for word in shape.split() if not word.isupper()}
    assert len(listed) == len(set(listed))
    assert not literal & set(listed)
    assert all(LEXICON[word].kind == word for word in literal)


def test_splits_share_no_prompt_and_are_large() -> None:
    drawn = {split: {str(p.prompt) for p in prompts(1000, seed=0, split=split)} for split in SPLITS}
    assert all(len(found) == 1000 for found in drawn.values())
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]


def test_pretraining_and_demonstrations_never_show_a_prompt_of_another_split(corpus: list[str]) -> None:
    assert {split_of(halves(text)[0]) for text in corpus} == {"train"}
    for split in SPLITS:
        assert {split_of(str(d.prompt)) for d in demonstrations(100, seed=0, split=split)} == {split}


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    assert pretraining_corpus(50, seed=1) == pretraining_corpus(50, seed=1)
    assert pretraining_corpus(50, seed=1) != pretraining_corpus(50, seed=2)
    assert demonstrations(50, seed=1) == demonstrations(50, seed=1)
    assert prompts(50, seed=1) != prompts(50, seed=2)


def test_a_wrong_name_or_too_large_a_number_is_refused_with_the_cure() -> None:
    with pytest.raises(SettingError, match="did you mean validation"):
        prompts(10, seed=0, split="validaton")
    with pytest.raises(SettingError, match="did you mean hotel"):
        sample_text(Random(0), topic="hotle", sentiment="mixed", length=2)
    with pytest.raises(SettingError, match="there are"):
        demonstrations(100000, seed=0)


def test_the_world_needs_no_heavy_library() -> None:
    code = "import sys, sparring.data.demo.world, sparring.data.demo.gold; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"

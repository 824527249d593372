import pytest

from sparring.core.errors import SettingError
from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking
from sparring.data.lessons import lessons
from sparring.data.split import duplicates, shared_prompts, split


def demonstrations(prompts):
    return [Demonstration(prompt=p, response=f"r{i}", where=f"f:{i}") for i, p in enumerate(prompts)]


def test_all_rows_of_a_prompt_go_to_one_side_and_none_is_lost():
    records = demonstrations([f"p{i % 20}" for i in range(100)])
    train, held_out = split(records, 0.25, seed=3)
    assert shared_prompts(train, held_out) == ()
    assert len({r.prompt for r in held_out}) == 5  # a quarter of 20 prompts
    assert sorted([*train, *held_out], key=records.index) == records
    assert train == sorted(train, key=records.index)


def test_the_seed_decides_and_the_order_of_the_file_does_not():
    records = demonstrations([f"p{i}" for i in range(40)])
    first = {r.prompt for r in split(records, 0.5, seed=0)[1]}
    assert {r.prompt for r in split(records[::-1], 0.5, seed=0)[1]} == first
    assert {r.prompt for r in split(records, 0.5, seed=1)[1]} != first


@pytest.mark.parametrize(
    ("prompts", "share", "held_out"), [(1, 0.9, 0), (2, 0.9, 1), (3, 0.9, 2), (10, 0.01, 1), (10, 0, 0), (0, 0.5, 0)]
)
def test_few_prompts_never_leave_the_train_side_empty(prompts, share, held_out):
    train, kept = split(demonstrations([f"p{i}" for i in range(prompts)]), share, seed=0)
    assert (len(train), len(kept)) == (prompts - held_out, held_out)


def test_rows_without_a_prompt_are_split_one_by_one():
    train, held_out = split(demonstrations([""] * 10), 0.3, seed=0)
    assert (len(train), len(held_out)) == (7, 3)


def test_conversations_are_compared_turn_by_turn():
    a = (Message(role="user", content="Hi"),)
    records = [Prompt(prompt=a), Prompt(prompt=(Message(role="user", content="Hi"),)), Prompt(prompt="Hi")]
    assert duplicates(records) == 1
    assert shared_prompts(records[:1], records[1:]) == ("user: Hi",)


def test_a_share_out_of_range_is_an_error():
    with pytest.raises(SettingError, match="held_out"):
        split(demonstrations(["a"]), 1.0, seed=0)


def test_duplicates_are_equal_in_prompt_and_responses():
    records = [Demonstration(prompt=p, response=r) for p, r in ("ab", "ab", "ac", "bb", "ab")]
    assert duplicates(records) == 2


def test_rows_that_cannot_teach_are_counted_and_said():
    records = [
        Preference(prompt="p", chosen="a", rejected="a", margin=0.0),
        Preference(prompt="p", chosen="a", rejected="b", margin=0.0, label=0.5),
        Preference(prompt="p", chosen="a", rejected="b", margin=0.0),  # better by a hair is better all the same
        Preference(prompt="p", chosen="a", rejected="b"),
        Ranking(prompt="p", ranked=("a", "a"), scores=(2.0, 1.0)),
        Ranking(prompt="p", ranked=("a", "b"), scores=(1.0, 1.0)),
        Ranking(prompt="p", ranked=("a", "b")),
        Demonstration(prompt="p", response="a"),
    ]
    found = lessons(records)
    assert (found.records, found.equal_responses, found.equal_scores) == (8, 2, 2)
    assert found.sentences()[0].startswith("2 of 8 rows have nothing but equal responses")
    assert found.sentences()[1].startswith("2 of 8 rows have equal scores")
    assert lessons(records[-1:]).sentences() == []

import pytest

from sparring.core.errors import DataError
from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking, Rating
from sparring.data.formats import recognise, to_records
from sparring.data.read import RawRow
from sparring.data.views import VIEWS

USER, ASSISTANT = Message(role="user", content="Hi"), Message(role="assistant", content="Hello")
TURN_USER, TURN_ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
TURN_OTHER = {"role": "assistant", "content": "Go away"}
W = "file:1"


def row(**values):
    return RawRow(values=values, where=W)


def table(**values):
    return RawRow(values=values, where=W, is_typed=False)


@pytest.mark.parametrize(
    ("values", "record"),
    [
        ({"prompt": "p", "response": "r"}, Demonstration(prompt="p", response="r", where=W)),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tie": True},
            Preference(prompt="p", chosen="a", rejected="b", label=0.5, where=W),
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tie": False},
            Preference(prompt="p", chosen="a", rejected="b", where=W),
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "tie": "silk"},
            Preference(prompt="p", chosen="a", rejected="b", where=W),
        ),
        ({"prompt": "p", "completion": " r"}, Demonstration(prompt="p", response=" r", where=W)),
        ({"question": "p", "answer": "r"}, Demonstration(prompt="p", response="r", where=W)),
        ({"query": "p", "output": "r"}, Demonstration(prompt="p", response="r", where=W)),
        ({"input": "p", "output": "r"}, Demonstration(prompt="p", response="r", where=W)),
        ({"instruction": "p", "input": "", "output": "r"}, Demonstration(prompt="p", response="r", where=W)),
        (
            {"instruction": "p", "input": "i", "output": "r", "text": "all"},
            Demonstration(prompt="p\n\ni", response="r", where=W),
        ),
        (
            {"prompt": "p", "completion": "r", "answer": 7},
            Demonstration(prompt="p", response="r", reference="7", where=W),
        ),
        ({"prompt": "p", "solution": ["a", "b"]}, Prompt(prompt="p", reference=("a", "b"), where=W)),
        ({"prompt": "p", "reference": {"text": "a"}}, Prompt(prompt="p", where=W)),
        ({"text": "r"}, Demonstration(prompt="", response="r", where=W)),
        ({"text": "r", "label": None, "tie": None}, Demonstration(prompt="", response="r", where=W)),
        ({"messages": [TURN_USER, TURN_ASSISTANT]}, Demonstration(prompt=(USER,), response="Hello", where=W)),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            Demonstration(prompt=(USER,), response="Hello", where=W),
        ),
        (
            {"prompt": [TURN_USER], "completion": [TURN_ASSISTANT]},
            Demonstration(prompt=(USER,), response="Hello", where=W),
        ),
        ({"prompt": [TURN_USER], "response": "Hello"}, Demonstration(prompt=(USER,), response="Hello", where=W)),
        (
            {"prompt": "Hi", "messages": [TURN_USER, TURN_ASSISTANT]},
            Demonstration(prompt=(USER,), response="Hello", where=W),
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, Preference(prompt="p", chosen="a", rejected="b", where=W)),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "label": 0.75},
            Preference(prompt="p", chosen="a", rejected="b", margin=2.0, label=0.75, where=W),
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": None, "label": "cooking"},
            Preference(prompt="p", chosen="a", rejected="b", where=W),
        ),
        (
            {"chosen": [TURN_USER, TURN_ASSISTANT], "rejected": [TURN_USER, TURN_OTHER]},
            Preference(prompt=(USER,), chosen="Hello", rejected="Go away", where=W),
        ),
        (
            {"prompt": "Hi", "chosen": [TURN_ASSISTANT], "rejected": [TURN_OTHER]},
            Preference(prompt=(USER,), chosen="Hello", rejected="Go away", where=W),
        ),
        (
            {"prompt": [TURN_USER], "chosen": [TURN_USER, TURN_ASSISTANT], "rejected": [TURN_USER, TURN_OTHER]},
            Preference(prompt=(USER,), chosen="Hello", rejected="Go away", where=W),
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: You no"},
            Preference(prompt="\n\nHuman: Hi\n\nAssistant:", chosen=" Yes", rejected=" You no", where=W),
        ),
        (
            {"prompt": "p", "completions": ["a", "b", "c", "d"], "scores": [1, 3, 1, 2]},
            Ranking(prompt="p", ranked=("b", "d", "a", "c"), scores=(3.0, 2.0, 1.0, 1.0), where=W),
        ),
        (
            {"prompt": "p", "responses": ["a", "b"], "scores": [0.5, 0.5]},
            Ranking(prompt="p", ranked=("a", "b"), scores=(0.5, 0.5), where=W),
        ),
        ({"prompt": "p", "ranked": ["a", "b"]}, Ranking(prompt="p", ranked=("a", "b"), where=W)),
        ({"prompt": "p", "completion": "r", "label": False}, Rating(prompt="p", response="r", rating=0.0, where=W)),
        ({"text": "r", "label": 1}, Rating(prompt="", response="r", rating=1.0, where=W)),
        ({"prompt": "p", "category": "x"}, Prompt(prompt="p", where=W)),
        ({"prompt": [TURN_USER]}, Prompt(prompt=(USER,), where=W)),
        ({"messages": [TURN_USER]}, Prompt(prompt=(USER,), where=W)),
    ],
)
def test_the_columns_of_the_field_are_recognised(values, record):
    rows = [row(**values)]
    kind = recognise(rows).kind
    assert kind == record.kind
    assert to_records(rows, kind) == [record]


@pytest.mark.parametrize(
    ("values", "record"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, Demonstration(prompt="p", response="a", where=W)),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, Ranking(prompt="p", ranked=("a", "b"), where=W)),
        (
            {"prompt": "p", "completions": ["a", "b", "c"], "scores": [0, 2, 5]},
            Demonstration(prompt="p", response="c", where=W),
        ),
        (
            {"prompt": "p", "completions": ["a", "b", "c"], "scores": [0, 2, 5]},
            Preference(prompt="p", chosen="c", rejected="a", margin=5.0, where=W),
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": [2, 2]},
            Preference(prompt="p", chosen="a", rejected="b", margin=0.0, label=0.5, where=W),
        ),
        ({"prompt": "p", "ranked": ["a", "b"]}, Preference(prompt="p", chosen="a", rejected="b", where=W)),
        ({"prompt": "p", "completion": "r", "rating": 7}, Rating(prompt="p", response="r", rating=7.0, where=W)),
        ({"prompt": "p", "response": ""}, Prompt(prompt="p", where=W)),
        ({"chosen": [TURN_USER, TURN_ASSISTANT], "rejected": [TURN_USER, TURN_OTHER]}, Prompt(prompt=(USER,), where=W)),
        (
            {"prompt": "Hi", "chosen": [TURN_USER, TURN_ASSISTANT], "rejected": [TURN_USER, TURN_OTHER]},
            Prompt(prompt=(USER,), where=W),
        ),
        ({"messages": [TURN_USER, TURN_ASSISTANT]}, Prompt(prompt=(USER,), reference="Hello", where=W)),
        ({"prompt": "p", "completion": "r"}, Prompt(prompt="p", reference="r", where=W)),
        ({"prompt": "p", "completion": "r", "label": 0}, Prompt(prompt="p", where=W)),
        ({"question": "p", "answer": "r", "text": "t"}, Prompt(prompt="p", reference="r", where=W)),
    ],
)
def test_a_richer_file_serves_a_poorer_kind(values, record):
    assert to_records([row(**values)], record.kind) == [record]


@pytest.mark.parametrize("kind", ["demonstration", "preference", "ranking", "prompt"])
def test_what_is_known_of_a_prompt_is_known_of_every_kind_of_record(kind):
    about = {"prompt": "p", "tag": "safety", "reference": ["a", "b"]}
    for more in ({"chosen": "a", "rejected": "b"}, {"ranked": ["a", "b"]}):
        (made,) = to_records([row(**about, **more)], kind)
        assert (made.kind, made.tag, made.reference, made.where) == (kind, "safety", ("a", "b"), W)


@pytest.mark.parametrize(
    ("values", "fields", "record"),
    [
        ({"en": "p", "de": "r"}, {"prompt": "en", "response": "de"}, Demonstration(prompt="p", response="r", where=W)),
        (
            {"prompt": "p", "other": "q", "response": "r"},
            {"prompt": "other"},
            Demonstration(prompt="q", response="r", where=W),
        ),
        (
            {"question": "p", "context": "c", "answer": "r"},
            {"input": "context"},
            Demonstration(prompt="p\n\nc", response="r", where=W),
        ),
        (
            {"prompt": "p", "good": "a", "bad": "b"},
            {"chosen": "good", "rejected": "bad"},
            Preference(prompt="p", chosen="a", rejected="b", where=W),
        ),
        ({"review": "r"}, {"response": "review"}, Demonstration(prompt="", response="r", where=W)),
        (
            {"prompt": "p", "reply": "r", "messages": [TURN_USER, TURN_ASSISTANT]},
            {"response": "reply"},
            Demonstration(prompt="p", response="r", where=W),
        ),
    ],
)
def test_fields_name_the_columns_that_have_other_names(values, fields, record):
    rows = [row(**values)]
    assert recognise(rows, fields=fields).kind == record.kind
    assert to_records(rows, record.kind, fields=fields) == [record]


def test_a_table_writes_numbers_and_lists_as_text():
    rows = [table(prompt="42", responses='["a", "b"]', scores="[1, 2.5]")]
    assert to_records(rows, "ranking") == [Ranking(prompt="42", ranked=("b", "a"), scores=(2.5, 1.0), where=W)]
    rows = [table(prompt="42", chosen="1", rejected="2", margin="0.5", label=None)]
    assert to_records(rows, "preference") == [Preference(prompt="42", chosen="1", rejected="2", margin=0.5, where=W)]


def test_what_was_recognised_is_said_in_words():
    rows = [row(prompt="p", completion="r", label="pos", id=3), row(prompt="p", completion="r", label="neg", id=4)]
    known = recognise(rows)
    assert known.columns == {"prompt": "prompt", "response": "completion"}
    assert known.unused == ("label", "id") and known.serves == ("prompt",)
    said = " ".join(known.sentences())
    assert "response = completion" in said and "Not used: label, id" in said and "--where label=" in said
    assert not recognise(rows[:1]).notes  # one label only: there is nothing to filter


def test_a_verdict_stands_behind_every_marked_response():
    good, bad = (Rating(prompt="p", response=r, rating=m, where="here") for r, m in ((" yes", 0.9), (" no", 0.5)))
    shown = VIEWS["verdict"]([good, bad], 0, "train")
    assert [r.response for r in shown] == [" yes\n[VERDICT] good", " no\n[VERDICT] bad"]
    assert {r.prompt for r in shown} == {"p"} and {r.where for r in shown} == {"here"}
    with pytest.raises(DataError, match="a prompt has no mark"):
        VIEWS["verdict"]([Prompt(prompt="p", where="there")], 0, "train")

import json

import pytest

from sparring.core.errors import DataError, SettingError, UserError
from sparring.data.formats import recognise, to_records
from sparring.data.read import RawRow, read_rows

TURN_USER, TURN_ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
TURN_OTHER = {"role": "assistant", "content": "Go away"}
W = "file:1"


def row(**values):
    return RawRow(values=values, where=W)


BROKEN = [
    ("demonstration", {"prompt": "p", "reply": "r"}, {}, ["a demonstration needs", "prompt, reply", "--fields"]),
    ("demonstration", {"prompt": "p", "response": ""}, {}, ["'response'", "empty response"]),
    ("demonstration", {"prompt": "p", "response": " \n"}, {}, ["'response'", "white space"]),
    ("demonstration", {"prompt": "p", "response": 7}, {}, ["'response'", "the number 7", "text is needed"]),
    ("demonstration", {"prompt": 3.5, "response": "r"}, {}, ["'prompt'", "the number 3.5"]),
    ("demonstration", {"prompt": {"a": 1}, "response": "r"}, {}, ["'prompt'", "an object of 1"]),
    ("demonstration", {"prompt": "p", "response": "\ud83d"}, {}, ["'response'", "half a character"]),
    ("demonstration", {"response": "r"}, {}, ["a demonstration needs", "response"]),
    ("demonstration", {"messages": "Hi"}, {}, ["'messages'", "a list is needed"]),
    ("demonstration", {"messages": []}, {}, ["'messages'", "without a turn"]),
    ("demonstration", {"messages": ["Hi"]}, {}, ["'messages[0]'", "role and content"]),
    ("demonstration", {"messages": [{"role": "user", "text": "Hi"}]}, {}, ["'messages[0]'", "the keys role, text"]),
    ("demonstration", {"messages": [TURN_ASSISTANT, TURN_USER]}, {}, ["'messages'", "turn from 'user'"]),
    ("demonstration", {"messages": [TURN_ASSISTANT]}, {}, ["no turn before the response"]),
    (
        "demonstration",
        {"messages": [TURN_USER, {"role": "assistant", "content": None}]},
        {},
        ["'messages[1].content'", "null"],
    ),
    (
        "demonstration",
        {"messages": [TURN_USER, {"role": "assistant", "content": " "}]},
        {},
        ["'messages[1]'", "white space"],
    ),
    (
        "demonstration",
        {"messages": [TURN_USER, {"role": "assistant", "content": [{"type": "text"}]}]},
        {},
        ["a list of 1"],
    ),
    ("preference", {"prompt": "p", "chosen": "a"}, {}, ["a preference needs", "prompt, chosen"]),
    ("preference", {"prompt": "p", "response": "a"}, {}, ["a preference needs", "chosen and rejected"]),
    ("preference", {"prompt": "p", "chosen": "a", "rejected": ["b"]}, {}, ["'rejected[0]'", "the text 'b'"]),
    (
        "preference",
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": "1.5"},
        {},
        ["'margin'", "the text '1.5'", "number"],
    ),
    (
        "preference",
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": float("nan")},
        {},
        ["'margin'", "nan", "finite"],
    ),
    (
        "preference",
        {"prompt": "p", "chosen": "a", "rejected": "b", "label": 1.5},
        {},
        ["'label'", "1.5", "between 0 and 1"],
    ),
    ("preference", {"chosen": "a", "rejected": "b"}, {}, ["no prompt", "chosen, rejected", "--fields"]),
    (
        "preference",
        {"chosen": [TURN_USER, TURN_ASSISTANT], "rejected": [TURN_USER, TURN_ASSISTANT, TURN_USER, TURN_OTHER]},
        {},
        ["differ before their last turn"],
    ),
    (
        "preference",
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        },
        {},
        ["differ before their last turn"],
    ),
    (
        "ranking",
        {"prompt": "p", "completions": ["a", "b"]},
        {},
        ["a ranking needs", "scores for completions", "ranked"],
    ),
    (
        "ranking",
        {"prompt": "p", "completions": ["a", "b"], "scores": [1]},
        {},
        ["'scores'", "1 scores for 2 responses"],
    ),
    ("ranking", {"prompt": "p", "completions": ["a", "b"], "scores": [1, float("inf")]}, {}, ["'scores[1]'", "inf"]),
    ("ranking", {"prompt": "p", "completions": ["a", "b"], "scores": [1, None]}, {}, ["'scores[1]'", "null"]),
    ("ranking", {"prompt": "p", "completions": ["a", "b"], "scores": [True, False]}, {}, ["'scores[0]'", "true"]),
    ("ranking", {"prompt": "p", "completions": ["a", " "], "scores": [1, 2]}, {}, ["'completions[1]'", "white space"]),
    ("ranking", {"prompt": "p", "completions": "a", "scores": [1]}, {}, ["'completions'", "a list is needed"]),
    ("ranking", {"prompt": "p", "ranked": ["a"]}, {}, ["'ranked'", "at least two"]),
    ("rating", {"prompt": "p", "response": "r", "rating": "good"}, {}, ["a rating needs", "rating"]),
    ("rating", {"prompt": "p", "response": "r", "mark": "good"}, {"rating": "mark"}, ["'mark'", "the text 'good'"]),
    ("prompt", {"text": "r"}, {}, ["a prompt needs", "text"]),
    ("demonstratoin", {"prompt": "p"}, {}, ["did you mean demonstration"]),
    (
        "demonstration",
        {"prompt": "p", "response": "r"},
        {"promt": "prompt"},
        ["no role 'promt'", "did you mean prompt"],
    ),
    (
        "demonstration",
        {"prompt": "p", "response": "r"},
        {"prompt": "prmpt"},
        ["no column 'prmpt'", "did you mean prompt"],
    ),
]


@pytest.mark.parametrize(("kind", "values", "fields", "words"), BROKEN)
def test_a_row_that_cannot_be_used_gets_one_clear_line(kind, values, fields, words):
    with pytest.raises(UserError) as caught:
        to_records([row(**values)], kind, fields=fields)
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert isinstance(caught.value, SettingError) or W in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ('{"prompt": "p"}', ["x.jsonl:2", "no field 'response'", "fields here are prompt"]),
        ('{"prompt": "p", "response": null}', ["x.jsonl:2", "'response'", "is null"]),
        ('{"prompt": null, "response": "r"}', ["x.jsonl:2", "'prompt'", "is null"]),
        ('{"prompt": "p", "response": NaN}', ["x.jsonl:2", "'response'", "nan"]),
    ],
)
def test_the_file_line_and_field_of_a_bad_row_are_named(tmp_path, second, words):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n" + second + "\n")
    with pytest.raises(DataError) as caught:
        to_records(read_rows(str(tmp_path / "x.jsonl")), "demonstration")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_columns_that_nobody_knows_are_an_error_that_lists_them():
    with pytest.raises(DataError, match=r"no known columns among en, de; .*--fields"):
        recognise([row(en="a", de="b")])
    with pytest.raises(DataError, match="not one row"):
        recognise([])

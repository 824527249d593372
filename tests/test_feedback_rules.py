import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparring.core.errors import FeedbackError
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.feedback.combine import Combined, Term, build, learners, parse
from sparring.feedback.protocol import Feedback, LearningFeedback
from sparring.feedback.rule import SHOWN, as_rule, load_rule


def responses(*texts: tuple[str, ...], prompt: str = "say") -> Responses:
    """Responses with one token for each, or none for the text that is not there."""
    width = max(map(len, texts))
    rows = [Row(prompt=(1,), responses=tuple((2,) for _ in row)) for row in texts]
    padded = tuple(row + ("",) * (width - len(row)) for row in texts)
    return Responses(batch=collate(rows), prompts=tuple(f"{prompt} {i}" for i in range(len(texts))), texts=padded)


def write(folder, text: str) -> str:
    (folder / "my_rewards.py").write_text(text)
    return str(folder / "my_rewards.py")


def test_length_counts_words_and_not_characters():
    got = load_rule("length").score(responses(("one two  three", ""), ("x", "a\nb")))
    assert got.tolist() == [[3.0, 0.0], [1.0, 2.0]]


def test_vader_gives_the_compound_score_of_its_paper():
    # "VADER is smart, handsome, and funny." is the first example of the library's documentation: 0.8316.
    got = load_rule("vader").score(responses(("VADER is smart, handsome, and funny.", "")))
    assert got[0, 0].item() == pytest.approx(0.8316, abs=1e-4) and got[0, 1] == 0


def test_vader_that_is_not_installed_says_how_to_get_it(monkeypatch):
    from sparring.feedback import rule

    rule._vader.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(FeedbackError, match=re.escape('pip install "sparring[vader]"')):
        load_rule("vader")


def test_a_function_of_one_argument_gets_the_response_and_of_two_the_prompt_first(tmp_path):
    path = write(
        tmp_path, "def one(text): return len(text)\ndef two(p, r, weight=1): return p == 'say 1' and r == 'b'\n"
    )
    assert load_rule(f"{path}:one").score(responses(("abc", "b"))).tolist() == [[3.0, 1.0]]
    assert load_rule(f"{path}:two").score(responses(("b",), ("b",))).tolist() == [[0.0], [1.0]]


def test_a_function_of_three_arguments_gets_what_is_right_too(tmp_path):
    path = write(tmp_path, "def exact(prompt, response, reference): return response == reference\n")
    rows = [Row(prompt=(1,), responses=((2,), (2,)), reference=text) for text in "45"]
    found = replace(responses(("4", "5"), ("4", "5")), batch=collate(rows))
    assert load_rule(f"{path}:exact").score(found).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_rule_that_reads_a_reference_where_there_is_none_says_so(tmp_path):
    path = write(tmp_path, "def exact(prompt, response, reference): return 1\n")
    with pytest.raises(FeedbackError, match=r"none for prompt 'say 0'.*--fields reference=COLUMN"):
        load_rule(f"{path}:exact").score(responses(("4",)))


def test_a_function_of_an_installed_module_is_found():
    assert load_rule("builtins:len").score(responses(("abcd",))).tolist() == [[4.0]]


def test_a_response_that_does_not_exist_is_not_judged_and_gets_zero(tmp_path):
    path = write(tmp_path, "def f(text):\n    assert text, 'was asked about nothing'\n    return 7\n")
    assert load_rule(f"{path}:f").score(responses(("a", "b"), ("c",))).tolist() == [[7.0, 7.0], [7.0, 0.0]]


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0), torch.tensor([2.0])])
def test_numbers_of_every_library_are_numbers(value):
    assert as_rule("f", lambda text: value).score(responses(("a",))).tolist() == [[2.0]]


@pytest.mark.parametrize("value", [None, "2", [2.0], {}, torch.ones(2), np.ones(2), 1j])
def test_what_is_no_number_is_refused_with_the_prompt_and_the_response(value):
    with pytest.raises(FeedbackError, match=r"not a number.*'say 1'.*'bad'"):
        as_rule("f", lambda text: value if text == "bad" else 1.0).score(responses(("a",), ("bad",)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_stops_the_training_and_names_the_response(value):
    with pytest.raises(FeedbackError, match=f"{value}; a score must be finite; prompt 'say 0', response 'bad'"):
        as_rule("f", lambda text: value).score(responses(("bad",)))


def test_a_rule_that_fails_says_how_where_and_on_which_response(tmp_path):
    path = write(tmp_path, "\n\ndef f(text):\n    return 1 / len(text.strip())\n")
    with pytest.raises(FeedbackError, match=r"ZeroDivisionError.*my_rewards.py, line 4.*prompt 'say 0', response '  '"):
        load_rule(f"{path}:f").score(responses(("  ",)))


def test_a_long_response_is_not_quoted_in_full():
    with pytest.raises(FeedbackError) as caught:
        as_rule("f", lambda text: None).score(responses(("x" * 10_000,)))
    assert len(str(caught.value)) < 2 * SHOWN


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lenght", "did you mean length?"),
        ("FOLDER/my_reward.py:polite", "my_reward.py does not exist; did you mean my_rewards.py?"),
        ("FOLDER/my_rewards.py:polit", "no function 'polit'; did you mean polite?"),
        ("FOLDER/my_rewards.py", "which function.*it has long, polite"),
        ("FOLDER/my_rewards.py:WEIGHT", "WEIGHT is int, not a function"),
        ("FOLDER/my_rewards.py:", "incomplete"),
        ("FOLDER/my_rewards.py:long", r"takes \(a, b, c\)"),
        ("no.such.module:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_rule_that_cannot_be_loaded_says_what_is_there(tmp_path, spec, said):
    write(tmp_path, "WEIGHT = 1\ndef polite(text): return 1\ndef long(a, b, c): return 1\ndef _own(text): return 1\n")
    with pytest.raises(FeedbackError, match=said):
        load_rule(spec.replace("FOLDER", str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "said"), [("x =\n", "line 1: SyntaxError"), ("\nimport nothing_such\n", "line 2: Mod")]
)
def test_a_file_that_does_not_run_is_named_with_the_line(tmp_path, text, said):
    with pytest.raises(FeedbackError, match=said):
        load_rule(f"{write(tmp_path, text)}:f")


def test_a_rule_is_feedback_that_does_not_learn():
    rule = load_rule("length")
    assert isinstance(rule, Feedback) and not isinstance(rule, LearningFeedback)


@pytest.mark.parametrize(
    ("specs", "terms"),
    [
        (["vader"], [(1.0, "vader")]),
        (["0.7*vader+0.3*length"], [(0.7, "vader"), (0.3, "length")]),
        ([" 2 * a.py:f ", "-1e-1*runs/rm"], [(2.0, "a.py:f"), (-0.1, "runs/rm")]),
        (["1e+1*vader + length"], [(10.0, "vader"), (1.0, "length")]),
        ([], []),
    ],
)
def test_a_sum_is_read_as_it_is_written(specs, terms):
    assert [(t.weight, t.name) for t in parse(specs)] == terms


def test_a_folder_with_a_plus_in_its_name_is_one_judge(tmp_path, monkeypatch):
    (tmp_path / "rm+more").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse(["rm+more"]) == (Term(weight=1.0, name="rm+more"),)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "without a name"),
        ("vader+", "without a name"),
        ("0.5*", "without a name"),
        ("half*vader", "'half' is not a number"),
        ("nan*vader", "finite"),
        ("0*vader", "finite number but zero"),
        ("vader+0.5*vader", "named 2 times"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(spec, said):
    with pytest.raises(FeedbackError, match=said):
        parse([spec])


def test_a_sum_adds_weighted_scores():
    both = build(["2*length", "-0.5*builtins:len"], load_rule)
    assert isinstance(both, Combined)
    assert both.score(responses(("ab c", "d"))).tolist() == [[2 * 2 - 0.5 * 4, 2 * 1 - 0.5 * 1]]
    assert [v.tolist() for v in both.weighted(responses(("ab c",))).values()] == [[[4.0]], [[-2.0]]]


def test_one_judge_of_weight_one_stays_itself_and_no_judge_is_an_error():
    rule = load_rule("length")
    assert build(["length"], lambda name: rule) is rule
    with pytest.raises(FeedbackError, match="no feedback was named"):
        build([], load_rule)


class Learner:
    def score(self, responses):
        return torch.zeros(responses.batch.exists.shape)

    def learn(self, fake, *, updates=None):
        return {}

    def state(self):
        return {}

    def load(self, state):
        pass


def test_judges_that_learn_are_found_inside_a_sum():
    learner = Learner()
    both = build(["judge+length"], lambda name: learner if name == "judge" else load_rule(name))
    assert learners(both) == (learner,) and learners(learner) == (learner,) and learners(load_rule("length")) == ()

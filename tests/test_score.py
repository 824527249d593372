"""Texts that are there already get the scores that a judge gives them anywhere else."""

import pytest
import torch

import sparring
from sparring.core.errors import FeedbackError, SettingError
from sparring.data.batch import Row, collate
from sparring.models.scorers import load_scorer
from sparring.models.signals import score
from tests.small import quick, world


def test_a_rule_scores_every_response_under_its_prompt():
    assert sparring.score("length", ["a", "b"], [["one two", "one"], ["1 2 3"]]) == [[2.0, 1.0], [3.0]]
    assert sparring.score(lambda prompt, response: len(prompt), ["abc"], [["x"]]) == [[3.0]]
    assert sparring.score("length", [], []) == []


def test_what_is_right_is_told_and_a_response_is_never_taken_for_it():
    def exact(prompt, response, reference):
        return response == reference

    asked = ["a", "b"], [["x", "y"], ["x"]]
    assert sparring.score(exact, *asked, references=["y", "x"]) == [[0.0, 1.0], [1.0]]
    with pytest.raises(FeedbackError, match="none for prompt 'a'"):
        sparring.score(exact, *asked)
    with pytest.raises(SettingError, match="2 prompts and references to 1"):
        sparring.score(exact, *asked, references=["y"])


def test_a_reward_model_scores_a_text_as_it_does_by_itself_whatever_stands_beside_it(tmp_path):
    settings = {"steps": 1, "batch": 4, "held_out": 0.0, "lr": 1e-2}
    run = quick("reward_model", tmp_path / "reward", data=world() / "pairs.jsonl", settings=settings)
    texts = [" good", " bad and longer than that", " good"]
    found = sparring.score(str(run), ["the film", "a book"], [texts[:2], texts[2:]])
    network = load_scorer(str(run), device="cpu")
    tokenizer = network.trunk.tokenizer
    prompt = tuple(tokenizer("the film")["input_ids"])
    ends = [(*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text in texts[:2]]
    with torch.no_grad():  # each alone; a reward model's level is another matter
        alone = [float(score(network, collate([Row(prompt=prompt, responses=(tuple(y),))]))[0, 0]) for y in ends]
    assert found[0][0] - found[0][1] == pytest.approx(alone[0] - alone[1], abs=1e-4)
    assert [len(row) for row in found] == [2, 1] and found[0][0] != found[0][1]


@pytest.mark.parametrize(
    ("responses", "words"), [([["a"]], "2 prompts and responses to 1"), ([["a"], ["b", " "]], "prompt 1 is empty")]
)
def test_what_cannot_be_scored_is_refused(responses, words):
    with pytest.raises(SettingError, match=words):
        sparring.score("length", ["x", "y"], responses)

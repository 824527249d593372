"""What is known by heart: runs of words against a search through all of them."""

import json
import random

import pytest
import yaml

from sparring.evaluation.memory import longest_shared, memory_figures
from sparring.evaluation.suite import evaluate
from sparring.models.backbone import save_trunk, tiny_model


def brute(text, known) -> int:
    """Every run of the text in every known text, place by place."""
    runs = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    return max((len(r) for r in runs for k in known for p in range(len(k)) if k[p : p + len(r)] == r), default=0)


def test_the_longest_shared_run_is_that_of_a_search_through_all():
    draw = random.Random(0)
    for _ in range(30):
        words = "abc"[: draw.randint(1, 3)]
        texts, known = (
            [tuple(draw.choices(words + extra, k=draw.randint(0, 12))) for _ in range(draw.randint(1, 6))]
            for extra in ("x", "y")
        )
        assert longest_shared(texts, known) == [brute(text, known) for text in texts]


def test_a_run_does_not_go_on_from_one_text_to_the_next():
    assert longest_shared([("a", "b", "c")], [("a", "b"), ("c",)]) == [2]
    assert longest_shared([("a", "b"), ("c",)], [("a", "b", "c")]) == [2, 1]
    assert longest_shared([("a",), ()], []) == [0, 0]


def test_figures_are_means_by_prompt_and_the_largest_share():
    got = memory_figures([("a b c d", "x"), ("b c", "")], ["a b c", "z d"])
    assert got["copied_words"].values == ((3 + 0) / 2, (2 + 0) / 2)
    assert got["copied_share"].values == ((3 / 4 + 0) / 2, (1 + 0) / 2)
    assert (got["copied_share_max"].mean, got["copied_share_max"].low) == (1.0, None)
    assert (got["copied_words_max"].mean, got["copied_words_max"].low) == (3.0, None)
    assert memory_figures([("",)], ["a"]) == {}


WORDS = ["good", "bad", "film", "was", "the"]


@pytest.fixture
def place(tmp_path):
    made = tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=0)
    made.lm.get_input_embeddings().weight.data.mul_(8)
    save_trunk(made, tmp_path / "run" / "model")
    for name, response in (("train", "was good"), ("other", "xyz"), ("asked", "")):
        row = {"prompt": "the film"} | ({"response": response} if response else {})
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps(row) + "\n" + json.dumps(row | {"prompt": "film the"}) + "\n"
        )
    content = {"method": "sft", "model": str(tmp_path / "run" / "model"), "data": str(tmp_path / "train.jsonl")}
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(content | {"settings": {"held_out": 0.0, "seed": 0}}))
    return tmp_path


def test_a_runs_own_data_is_what_it_may_know_unless_a_file_is_named(place):
    asked = {"data": str(place / "asked.jsonl"), "K": 8, "max_tokens": 8}
    got = evaluate(str(place / "run"), **asked)
    texts = [tuple(sample["response"].split()) for sample in got["samples"]]
    assert got["copied_words"]["mean"] == sum(brute(text, [("was", "good")]) for text in texts) / 16 > 0
    assert evaluate(str(place / "run"), **asked, memory=str(place / "other.jsonl"))["copied_words"]["mean"] == 0
    assert "copied_words" not in evaluate(str(place / "run" / "model"), **asked, memory=str(place / "asked.jsonl"))

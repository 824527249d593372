"""A model beside a rival: where its responses come from, and that every judge is asked as it should be."""

import json

import numpy as np
import pytest
import torch
import yaml

from sparring.core.errors import FeedbackError, SettingError
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.evaluation.against import Rival, by_ranker, by_score
from sparring.evaluation.intervals import share_of
from sparring.evaluation.suite import evaluate
from sparring.feedback.rule import as_rule
from sparring.models.backbone import save_trunk, tiny_model

WORDS = ["good", "bad", "film", "was", "the"]
PROMPTS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]


def trunk(seed: int, words=WORDS):
    made = tiny_model(words, width=16, layers=1, heads=2, context=64, seed=seed)
    made.lm.get_input_embeddings().weight.data.mul_(8)
    return made


def write(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A policy, a rival, one with another tokenizer, a ranker's run that knows nothing, and demonstrations."""
    place = tmp_path_factory.mktemp("against")
    for seed, name in enumerate(("policy", "rival")):
        save_trunk(trunk(seed), place / name)
    save_trunk(trunk(2, [*WORDS, "more"]), place / "other")
    save_trunk(trunk(3, [*WORDS, "A", "B"]), place / "ranker" / "model")
    content = {"method": "pairwise_ranker", "model": str(place / "policy"), "data": str(place / "none.jsonl")}
    (place / "ranker" / "run.yaml").write_text(yaml.safe_dump(content | {"settings": {"held_out": 0.0, "seed": 0}}))
    write(place / "test.jsonl", [{"prompt": p, "response": "was good"} for p in PROMPTS])
    return place


def run(place, against: str, feedback=("length",), **more) -> dict:
    data = {"data": str(place / "test.jsonl"), "max_tokens": 6}
    return evaluate(str(place / "policy"), against=against, feedback=feedback, **(data | more))


def words(text: str) -> float:
    return float(len(text.split()))


def test_references_are_compared_pair_by_pair_as_the_scores_say(place):
    got = run(place, "references", K=2)
    own = [sample["scores"]["length"] for sample in got["samples"]]
    want = [sum((x > 2) + (x == 2) / 2 for x in own[i : i + 2]) / 2 for i in range(0, len(own), 2)]
    assert got["values"]["win_rate length"][: len(want)] == want and got["win_rate length"]["n"] == 50
    (row,) = got["tables"]["against"]
    assert row["judge"] == "length" and row["prompts"] == 50
    assert got["win_rate length"]["mean"] == pytest.approx(row["won"] + row["tied"] / 2)
    assert row["won"] + row["tied"] + row["lost"] == pytest.approx(1) and row["tied"] > 0
    assert list(got)[:2] == ["win_rate length", "win_rate_lc length"] and got["settings"]["against"] == "references"


def test_an_oracle_finds_the_better_of_two_every_time(place):
    # No response of six words can be as long as the file's.
    file = write(place / "long.jsonl", [{"prompt": p, "response": "the film " * 5} for p in PROMPTS])
    got = run(place, file, feedback=["length", shorter])
    assert got["win_rate length"]["mean"] == 0 and got["win_rate shorter"]["mean"] == 1
    assert got["win_rate shorter"]["low"] == pytest.approx(share_of(50, 50).low)
    assert got["win_rate_lc shorter"]["mean"] == 1


def shorter(text: str) -> float:
    return -words(text)


def test_a_file_that_answers_some_prompts_is_measured_on_those_and_an_empty_one_refused(place):
    file = write(place / "few.jsonl", [{"prompt": p, "response": r} for p in PROMPTS[:7] for r in ("bad", "the film")])
    got = run(place, file, feedback=[words])
    assert (
        got["win_rate words"]["n"] == 7
        and f"{file} answers 7 of the 50 prompts; win rates are over those" in got["notes"]
    )
    own = got["samples"][0]["scores"]["words"]
    assert got["values"]["win_rate words"][0] == (own > 1) + (own == 1) / 2  # the first answer counts
    with pytest.raises(SettingError, match=r"none.jsonl has no response to any of the prompts"):
        run(place, write(place / "none.jsonl", [{"prompt": "film", "response": "bad"}]))


def test_a_model_wins_half_against_itself_and_its_draws_are_not_the_same(place):
    got = run(place, str(place / "policy"), K=4)
    figure, (row,) = got["win_rate length"], got["tables"]["against"]
    assert figure["low"] < 0.5 < figure["high"] and row["tied"] < 0.6


def test_a_rival_with_another_tokenizer_is_read_as_text(place):
    got = run(place, str(place / "other"), feedback=[count_of_more], K=2)
    assert got["win_rate count_of_more"]["n"] == 50 and any("another tokenizer" in note for note in got["notes"])


def count_of_more(text: str) -> float:
    return -float(text.count("more"))


def test_a_ranker_is_a_judge_only_beside_a_rival_and_needs_no_scores(place):
    ranker = str(place / "ranker")
    got = run(place, "references", feedback=["length", ranker])
    assert got[f"win_rate {ranker}"]["n"] == 50 and f"score {ranker}" not in got and "score length" in got
    with pytest.raises(FeedbackError, match="pairwise ranker: it scores nothing alone"):
        evaluate(str(place / "policy"), data=str(place / "test.jsonl"), feedback=[ranker], max_tokens=6)
    with pytest.raises(SettingError, match="is for a judge to say; name one with --feedback"):
        run(place, "references", feedback=())


def test_a_ranker_that_always_likes_the_first_of_two_finds_all_of_them_equal(place, monkeypatch):
    def first(names, batch, networks):
        logps = torch.zeros(batch.mask.shape)
        logps[:, 1, 0] = -3.0  # the second letter, whatever stands behind it
        return {"token_logps": logps}

    monkeypatch.setattr("sparring.feedback.ranker.compute", first)
    got = run(place, "references", feedback=[str(place / "ranker")])
    figure, (row,) = got[f"win_rate {place / 'ranker'}"], got["tables"]["against"]
    assert figure["mean"] == 0.5 and figure["low"] < 0.5 < figure["high"] and row["tied"] == 1


def responses(*texts: tuple[str, ...]) -> Responses:
    rows = [Row(prompt=(3,), responses=tuple((4,) for _ in row)) for row in texts]
    return Responses(batch=collate(rows), prompts=("p",) * len(texts), texts=texts)


def test_every_own_response_meets_every_one_of_the_rivals():
    mine, theirs = responses(("a a", "a")), responses(("a", "a a a"))
    assert by_score(mine, theirs, as_rule("words", words)).tolist() == [[1.0, 0.0, 0.5, 0.0]]


def test_a_ranker_is_asked_about_own_first_and_no_odds_are_a_tie():
    mine, theirs = responses(("a", "b"), ("c", "d")), responses(("x",), ("y",))
    asked = []

    def log_odds(pairs):
        asked.extend(pairs)
        return [2.5, 0.0, -0.1, 0.1]

    won = by_ranker(mine, Rival(places=(0, 1), prompts=("p", "q"), responses=theirs), log_odds)
    assert asked == [("p", "a", "x"), ("p", "b", "x"), ("q", "c", "y"), ("q", "d", "y")]
    assert np.array_equal(won, [[1.0, 0.5], [0.0, 1.0]])

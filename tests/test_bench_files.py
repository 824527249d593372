"""MT-Bench and AlpacaEval: two turns, and files with the keys that their own tools read."""

import json

import pytest

from sparring.core.errors import DataError, SettingError
from sparring.core.records import Message
from sparring.data.bench import asked, question_of, winner_of
from sparring.data.read import RawRow
from sparring.evaluation.labels import read_labels
from sparring.evaluation.mt_bench import mt_bench
from sparring.evaluation.suite import evaluate
from sparring.models.backbone import save_trunk, tiny_model

WORDS = ["good", "bad", "film", "was", "the"]
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant>{% endif %}"
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["the film", "was the film good"], "reference": ["a", "b"]},
    {"question_id": 82, "category": "math", "turns": ["film good", "bad film"]},
    {"question_id": 83, "category": "math", "turns": ["bad film", "good"]},
]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def words(text: str) -> float:
    return float(len(text.split()))


def longer(prompt: str, first: str, second: str) -> float:
    return words(first) - words(second)


def always_first(prompt: str, first: str, second: str) -> int:
    return 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models, one of which knows a chat template, and a folder with three questions."""
    place = tmp_path_factory.mktemp("bench")
    for seed, name in enumerate(("plain", "chat")):
        made = tiny_model([*WORDS, "<user>", "<assistant>"], width=16, layers=1, heads=2, context=128, seed=seed)
        made.lm.get_input_embeddings().weight.data.mul_(8)
        made.tokenizer.chat_template = TEMPLATE if name == "chat" else None
        save_trunk(made, place / name)
    write(place / "question.jsonl", QUESTIONS)
    return place


def run(place, model: str, feedback=(words,), **more) -> dict:
    return mt_bench(str(place / model), str(place), feedback=feedback, max_tokens=6, **more)


def test_the_second_turn_is_asked_with_the_first_answer_before_it():
    user, assistant = (lambda text, role=role: Message(role=role, content=text) for role in ("user", "assistant"))
    assert asked(["q1", "q2"], ["a1"]) == (user("q1"), assistant("a1"), user("q2"))
    assert asked(["q1"], []) == (user("q1"),)


def test_questions_are_answered_at_fastchat_s_temperatures_and_may_come_from_either_kind_of_file():
    def read(**more):
        return question_of(RawRow(values={"turns": ["q"], **more}, where="f:1"))

    assert read(question_id=1, category="writing").temperature == 0.7 and read(id=2, category="stem").temperature == 0.1
    assert read(question_id=1, category="math").temperature == 0 and read(id=1, category=None).temperature == 0.7
    with pytest.raises(DataError, match="turns"):
        question_of(RawRow(values={"question_id": 1, "turns": []}, where="f:1"))


@pytest.mark.parametrize("model", ["plain", "chat"])
def test_answers_and_scores_are_written_as_fastchat_has_them_and_averaged_by_turn(place, model):
    got = run(place, model)
    rows = lines(place / "model_answer" / f"{model}.jsonl")
    assert [row["question_id"] for row in rows] == [81, 82, 83] and {row["model_id"] for row in rows} == {model}
    assert all(row["choices"][0]["index"] == 0 and len(row["choices"][0]["turns"]) == 2 for row in rows)
    assert all({"answer_id", "tstamp"} <= row.keys() for row in rows)
    said = [row["choices"][0]["turns"] for row in rows]
    assert "<user>" not in "".join(t for turns in said for t in turns) or model == "plain"
    judged = [row for row in lines(place / "model_judgment" / "words_single.jsonl") if row["model"] == model]
    assert {(r["question_id"], r["turn"]): r["score"] for r in judged} == {
        (row["question_id"], t + 1): words(turns[t]) for row, turns in zip(rows, said, strict=True) for t in (0, 1)
    }
    assert {tuple(r["judge"]) for r in judged} == {("words", "single-v1"), ("words", "single-v1-multi-turn")}
    for name, want in (("turn_1", [words(t[0]) for t in said]), ("turn_2", [words(t[1]) for t in said])):
        assert got[f"{name} words"]["mean"] == pytest.approx(sum(want) / 3) and got[f"{name} words"]["n"] == 3
    math = got["tables"]["mt_bench"][1]
    assert math["category"] == "math" and math["turn_2"] == pytest.approx((words(said[1][1]) + words(said[2][1])) / 2)
    tables, _ = read_labels(str(place / "model_judgment" / "words_single.jsonl"))
    both = next(r for r in tables["mt_bench"] if r["model"] == model and r["part"] == "both turns")
    assert both["score"] == pytest.approx(got["turns words"]["mean"]) and both["low"] == got["turns words"]["low"]
    second = next(r for r in judged if r["question_id"] == 81 and r["turn"] == 2)["user_prompt"]
    assert all(word in second for word in ("the film", "was the film good", *said[0][0].split()))


def test_a_judge_that_reads_references_is_told_those_of_the_turns_and_nothing_where_there_is_none(place):
    told = []

    def right(prompt: str, response: str, reference: str) -> float:
        told.append(reference)
        return 1.0

    run(place, "plain", feedback=(right,))
    assert told == ["a", "", "", "b", "", ""]


def test_scores_that_their_tools_take_for_unread_are_said(place):
    def minus(response: str) -> float:
        return -1.0

    assert run(place, "plain", feedback=(words,))["notes"] == []
    (note,) = run(place, "plain", feedback=(words, minus))["notes"]
    assert note.startswith("6 scores of minus are -1") and "leave out; here they count" in note


def test_two_models_meet_in_both_orders_and_what_others_wrote_is_kept(place):
    for model in ("plain", "chat"):
        run(place, model, feedback=())
    got = run(place, "chat", feedback=(words, longer, always_first), against="plain")
    assert got["win_rate always_first"]["mean"] == 0.5
    games = lines(place / "model_judgment" / "always_first_pair.jsonl")
    assert {(g["model_1"], g["model_2"], g["g1_winner"], g["g2_winner"]) for g in games} == {
        ("chat", "plain", "model_1", "model_2")
    }
    assert len(games) == 6 and {g["turn"] for g in games} == {1, 2}
    for judge in ("words", "longer"):
        tables, _ = read_labels(str(place / "model_judgment" / f"{judge}_pair.jsonl"))
        (row,) = [r for r in tables["wins"] if r["model"] == "chat"]
        assert row["win_rate"] == pytest.approx(got[f"win_rate {judge}"]["mean"]) and row["against"] == "plain"
    own = [r for r in lines(place / "model_judgment" / "words_single.jsonl") if r["model"] == "chat"]
    assert len(own) == 6  # written again, not twice
    with pytest.raises(SettingError, match="always_first compares two answers; say --against"):
        run(place, "chat", feedback=(always_first,))
    with pytest.raises(DataError, match=r"other\.jsonl does not exist"):
        run(place, "chat", against="other")


def test_orders_that_disagree_are_a_tie_and_what_could_not_be_read_is_left_out(tmp_path):
    def row(**values):
        return RawRow(values=values, where="f:1")

    assert winner_of(row(g1_winner="model_1", g2_winner="model_1")) == 1
    assert winner_of(row(g1_winner="model_1", g2_winner="model_2")) == 0.5
    assert winner_of(row(g1_winner="tie", g2_winner="model_2")) == 0.5
    assert winner_of(row(g1_winner="model_2", g2_winner="model_2")) == 0
    assert winner_of(row(g1_winner="error", g2_winner="model_2")) is None
    with pytest.raises(DataError, match="say model_1, model_2, tie or error"):
        winner_of(row(g1_winner="A", g2_winner="B"))
    rows = [{"model": "m", "question_id": i, "score": s, "turn": 1} for i, s in enumerate((8, 6, -1))]
    tables, notes = read_labels(write(tmp_path / "s.jsonl", rows))
    assert tables["mt_bench"][0]["score"] == 7 and notes == [
        "1 of 3 judgments could not be read by who made them; left out"
    ]


def test_outputs_and_annotations_are_those_that_alpaca_eval_reads(place, tmp_path):
    prompts = [f"{a} {b}" for a in WORDS for b in WORDS]
    rows = [{"instruction": p, "output": "good film", "generator": "base", "dataset": "x"} for p in prompts]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    run = {"data": str(tmp_path / "eval.json"), "max_tokens": 4, "alpaca_eval": str(tmp_path / "out")}
    (tmp_path / "judge.py").write_text("def longer(prompt, a, b): return len(a) - len(b)")
    mine = f"{tmp_path}/judge.py:longer"
    got = evaluate(str(place / "plain"), feedback=[words, mine], against="references", **run)
    outputs = json.loads((tmp_path / "out" / "plain" / "model_outputs.json").read_text())
    assert [row["instruction"] for row in outputs] == prompts
    assert {row["generator"] for row in outputs} == {"plain"} and set(outputs[0]) == set(rows[0])
    judged = json.loads((tmp_path / "out" / "plain" / "words" / "annotations.json").read_text())
    wants = [1 + (n > 2) + (n == 2) / 2 for n in (words(row["output"]) for row in outputs)]
    assert [row["preference"] for row in judged] == wants and len(set(wants)) > 1
    assert judged[0]["output_1"].strip() == "good film" and judged[0]["generator_2"] == "plain"
    # AlpacaEval keeps what it fitted in a folder called after the annotator: a path would lead out of its own.
    files = sorted((tmp_path / "out" / "plain").glob("*/annotations.json"))
    annotators = [json.loads(file.read_text())[0]["annotator"] for file in files]
    assert annotators == [file.parent.name for file in files] and annotators[0].endswith("judge.py_longer")
    tables, _ = read_labels(str(tmp_path / "out" / "plain" / "words" / "annotations.json"))
    assert tables["wins"][0]["win_rate_lc"] == pytest.approx(got["win_rate_lc words"]["mean"])
    # AlpacaEval's own arithmetic: the mean of preference - 1.
    assert tables["wins"][0]["win_rate"] == pytest.approx(sum(wants) / len(wants) - 1)
    assert tables["wins"][0]["win_rate"] == pytest.approx(got["win_rate words"]["mean"])
    with pytest.raises(SettingError, match="leave --K at 1"):
        evaluate(str(place / "plain"), K=2, **run)


def test_a_folder_without_questions_or_with_one_twice_is_refused(place, tmp_path):
    with pytest.raises(DataError, match=r"question\.jsonl does not exist"):
        mt_bench(str(place / "plain"), str(tmp_path))
    write(tmp_path / "question.jsonl", [QUESTIONS[0], QUESTIONS[0]])
    with pytest.raises(DataError, match="81 was already in"):
        mt_bench(str(place / "plain"), str(tmp_path))

"""The files of MT-Bench and AlpacaEval: the keys that their tools read, and these tools where they are installed."""

import json
from argparse import Namespace

import pytest

from sparring.data.bench import Question, annotation_row, answer_row, output_row, pair_row, score_row
from sparring.evaluation.labels import read_labels

QUESTIONS = [
    Question(id=i, category="math", turns=("one", "two"), references=(), where=f"f:{i}") for i in (101, 102, 103)
]
SCORES = {"a": (3.0, 1.0, 4.0), "b": (1.0, 5.0, 9.0)}
GAMES = ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0))  # for a, shown first and shown second: won, a tie by place, lost
WON = (1.0, 0.5, 0.0, 1.0)

theirs = pytest.mark.filterwarnings("ignore")  # files left open, old calls of pandas: not for us to mend


def singles() -> list[dict]:
    return [
        score_row(q, model, "judge.py:f", turn, "text", score + turn)
        for model, scores in SCORES.items() for q, score in zip(QUESTIONS, scores, strict=True) for turn in (1, 2)
    ]  # fmt: skip


def pairs() -> list[dict]:
    return [
        pair_row(q, ("a", "b"), "judge.py:f", 1, "text", game) for q, game in zip(QUESTIONS, GAMES, strict=True)
    ]  # fmt: skip


def annotations() -> list[dict]:
    return [annotation_row(f"q{i}", ("one two", "one"), ("base", "own"), "judge", won) for i, won in enumerate(WON)]


def write(path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_key_that_their_code_reads_is_written():
    """As of FastChat 0.2.36 (show_result.py, common.py) and alpaca_eval 0.6.6 (metrics, utils.py)."""
    assert {"model", "score", "turn", "judge", "question_id", "judgment"} <= singles()[0].keys()
    assert {"model_1", "model_2", "g1_winner", "g2_winner", "g1_judgment", "g2_judgment"} <= pairs()[0].keys()
    assert {"question_id", "judge", "turn"} <= pairs()[0].keys() and len(pairs()[0]["judge"]) == 2
    answer = answer_row(QUESTIONS[0], "a", [("x", "y")])
    assert answer["question_id"] == 101 and list(answer["choices"][0]["turns"]) == ["x", "y"]
    assert output_row("q", "y", "own", "d").keys() == {"dataset", "instruction", "output", "generator"}
    read = {"instruction", "output_1", "output_2", "generator_1", "generator_2", "annotator", "preference"}
    assert read <= annotations()[0].keys()


@theirs
def test_fastchat_loads_what_is_written(tmp_path):
    common = pytest.importorskip("fastchat.llm_judge.common", exc_type=ImportError)
    write(tmp_path / "answers" / "a.jsonl", [answer_row(q, "a", [("x", "y")]) for q in QUESTIONS])
    answers = common.load_model_answers(str(tmp_path / "answers"))
    asked = [{"question_id": q.id, "category": q.category} for q in QUESTIONS]
    common.check_data(asked, answers, {}, ["a"], {})
    games = common.load_pairwise_model_judgments(write(tmp_path / "p.jsonl", pairs()))
    met = games["judge.py:f", "pair-v2"]
    assert [met[q.id, "a", "b"]["winners"] for q in QUESTIONS] == [("model_1",), ("inconsistent",), ("model_2",)]
    first = common.load_single_model_judgments(write(tmp_path / "s.jsonl", singles()))["judge.py:f", "single-v1"]
    assert {key: row["score"] for key, row in first.items()} == {
        (q.id, model): score + 1 for model, own in SCORES.items() for q, score in zip(QUESTIONS, own, strict=True)
    }


@theirs
def test_fastchat_shows_the_averages_that_we_read(tmp_path, capsys):
    show = pytest.importorskip("fastchat.llm_judge.show_result", exc_type=ImportError)
    single, pair = write(tmp_path / "s.jsonl", singles()), write(tmp_path / "p.jsonl", pairs())
    how = {"bench_name": "mt_bench", "model_list": None, "judge_model": "j"}
    show.display_result_single(Namespace(input_file=single, **how))
    said = capsys.readouterr().out.split("Average")[1].split()
    ours = {row["model"]: row["score"] for row in read_labels(single)[0]["mt_bench"] if row["part"] == "both turns"}
    assert {m: float(said[said.index(m) + 1]) for m in SCORES} == pytest.approx(ours, abs=1e-5)
    assert ours["a"] == pytest.approx((3 + 1 + 4) / 3 + 1.5)
    show.display_result_pairwise(Namespace(input_file=pair, baseline_model="b", **how))
    won, lost, tied, *_, rate = capsys.readouterr().out.split("\na ")[1].split()
    assert (won, lost, tied, float(rate)) == ("1", "1", "1", 0.5)
    assert {row["model"]: row["win_rate"] for row in read_labels(pair)[0]["wins"]}["a"] == 0.5


@theirs
def test_alpaca_eval_finds_the_win_rate_that_we_read(tmp_path):
    metrics = pytest.importorskip("alpaca_eval.metrics.winrate", exc_type=ImportError)
    found = metrics.get_winrate(annotations())
    (ours,) = read_labels(write(tmp_path / "annotations.jsonl", annotations()))[0]["wins"]
    assert found["win_rate"] == pytest.approx(100 * ours["win_rate"]) == 62.5
    assert (found["n_wins"], found["n_wins_base"], found["n_draws"]) == (2, 1, 1)

"""The flat script comes to the library's numbers step by step; the tasks on real text are made, learnt and tabled."""

import importlib
import importlib.util
import json
from pathlib import Path

import pytest

from tests.small import quick, rows, world

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED = Path(__file__).parents[2] / "shared"
IF_SHARED = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared folder beside the checkout")


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dpo_in_one_file_has_the_librarys_losses(tmp_path):
    model, pairs = world() / "model", world() / "pairs.jsonl"
    flat = script("dpo_flat").main(str(model), str(pairs), steps=4, beta=0.1, lr=1e-2)
    everything = {"batch": 24, "held_out": 0.0, "warmup": 0.0, "schedule": "constant", "steps": 4, "lr": 1e-2}
    run = quick("dpo", tmp_path / "dpo", settings=everything)
    assert [row["loss"] for row in rows(run)] == pytest.approx(flat, rel=1e-4)
    assert flat[0] == pytest.approx(0.693147, abs=1e-5) and flat[-1] < 0.64


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("every_method"), importlib.import_module("tasks")


def test_chrf_is_the_f_of_mean_precision_and_mean_recall(modules):
    chrf = modules[1].judges.chrf
    # "abc" and "abd": 2 of 3 characters agree, 1 of 2 pairs, 0 of 1 triples; there is nothing longer.
    assert chrf("a bc", "ab d") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # "einHund" and "ein": 3 of 7, 2 of 6, 1 of 5 of its n-grams are right, and all of the reference's are there.
    precision = (3 / 7 + 2 / 6 + 1 / 5) / 3
    assert chrf("ein Hund", "ein") == pytest.approx(5 * precision / (4 * precision + 1))
    assert chrf("Katze", "Katze") == 1.0 and chrf("", "ein") == 0.0 and chrf("xyz", "ein") == 0.0


def test_the_formulas_that_measure_count_as_their_sources_do(modules, tmp_path, monkeypatch):
    judges = importlib.import_module("judges")
    # "the cat sat down" and "a cat, down": the article and the mark are left out, 2 of 3 and of 2 words are shared.
    assert judges.f1("the cat sat down", "a cat, down") == pytest.approx(4 / 5)
    assert judges.f1("", "the") == 1.0 and judges.f1("dog", "cat") == 0.0
    # The longest common subsequence of "a b c d" and "b d a" is "b d": 2 of 4 and 2 of 3.
    assert judges.rouge_l("a b c d", "b d a") == pytest.approx(4 / 7) and judges.rouge_l("", "a") == 0.0
    monkeypatch.setattr(judges, "HOME", tmp_path)
    (tmp_path / "instructions").mkdir()
    known = {"bias": 0.0, "weights": {"sure": 2.0, "ung": -2.0}}
    (tmp_path / "instructions/words.json").write_text(json.dumps(known))
    said = {"Sure, sure.": 1, "ung": -1, "of course": 0, "": -1, "sure " * 8: -1, "sure a b c sure a b c": 0}
    assert {text: judges.tier("", text) for text in said} == said
    judges._judge.cache_clear()


def test_the_data_of_the_plans_keeps_the_sentence_that_answers_and_the_words_that_tell(modules, tmp_path):
    made = importlib.import_module("plan_data")
    asked = {"answerable": True, "answers": ["in 1929"], "completion": " in 1929"}
    context = "It rains. He took office in 1929, they say. It was cold."
    row = made.question(asked | {"prompt": f"Title: T\n\nContext: {context}\n\nQuestion: When?\n\nAnswer:"})
    assert row["prompt"] == "Context: He took office in 1929, they say.\n\nQuestion: When?\n\nAnswer:"
    assert made.question(asked | {"answerable": False}) is None
    made.tell_apart(tmp_path / "deep/words.json", ["yes we can"] * 5, ["yes it hums"] * 5)
    weights = json.loads((tmp_path / "deep/words.json").read_text())["weights"]
    assert weights["can"] > 0.5 > -0.5 > weights["hums"] and abs(weights["yes"]) < 0.01


def test_every_task_has_the_cells_it_is_measured_by(modules):
    every, tasks = modules
    assert set(every.CELLS) == set(tasks.TASKS)
    for cells in every.CELLS.values():
        assert len({c.folder for c in cells}) == len(cells)


def small(tasks, tmp_path, monkeypatch, task):
    monkeypatch.setenv("SPARRING_GOLD", str(SHARED / "data" / "imdb_bow_sentiment.json.gz"))
    model, data = str(SHARED / "models" / "stories260K"), SHARED / "data"
    return tasks.Place(home=tmp_path, model=model, data=data, name=task, size=0.02)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@IF_SHARED
@pytest.mark.parametrize("task", ["dialogue", "instructions"])
def test_data_for_marks_and_tests_is_made_of_the_same_choices(modules, tmp_path, monkeypatch, task):
    tasks = modules[1]
    place = small(tasks, tmp_path, monkeypatch, task)
    place.task.make(place)
    rows, held_out = lines(tmp_path / f"{place.task.kind}.jsonl"), lines(tmp_path / "held_out.jsonl")
    assert len(rows) >= 4 and len(held_out) == place.count({"dialogue": 300, "instructions": 200}[task])
    assert not {r["prompt"] for r in rows} & {r["prompt"] for r in held_out}
    good, bad = ({r["response"] for r in lines(tmp_path / "marks.jsonl") if r["rating"] == mark} for mark in (1, 0))
    for r in rows:
        best, worst = (r["chosen"], r["rejected"]) if "chosen" in r else (r["responses"][0], r["responses"][-1])
        assert best in good and worst in bad
        assert "chosen" in r or r["scores"] == sorted(r["scores"], reverse=True)
    for r in lines(tmp_path / "held_out_verdicts.jsonl"):
        assert r["prompt"].endswith("[VERDICT]") and {r["chosen"], r["rejected"]} == {" good", " bad"}


@IF_SHARED
@pytest.mark.parametrize(
    ("task", "labels"),
    [
        pytest.param("sentiment", ["spin"], marks=pytest.mark.slow),
        ("summarisation", ["raft"]),
        ("translation", ["joint_feedback"]),
    ],
)
def test_a_task_is_made_learnt_and_tabled(modules, tmp_path, monkeypatch, task, labels):
    every, tasks = modules
    place = small(tasks, tmp_path / task, monkeypatch, task)
    tasks.prepare(place)
    for cell in (c for c in every.CELLS[task] if c.label in labels):
        every.run_cell(place, cell, 0)
        found = json.loads((place.home / "seed-0" / f"{cell.folder}.json").read_text())
        assert 0 <= found["reward_accuracy"]["mean"] <= 1 and found["seconds"]["mean"] > 0
    written = every.table(place, seeds=1).splitlines()[2:]
    assert {line.split(" | ")[0].removeprefix("| ") for line in written} == set(labels)
    assert all(len(line.split(" | ")) == 10 for line in written)

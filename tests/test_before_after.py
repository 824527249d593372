"""What the policy says to the same prompts, at the start and later: the rows of a run, and what is made of them."""

import json
import shutil

import pytest

from sparring.cli.main import main
from sparring.report.before_after import before_after_sections, figures_of, scored
from tests.small import quick
from tests.test_resume import unfinished


def said(run):
    return [json.loads(line) for line in (run / "before_after.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    # A policy that does not learn until its last rounds: the rate rises from zero over the first half.
    return quick("reinforce", tmp_path_factory.mktemp("before") / "run", feedback=["length"], settings={"lr": 0.3})


def test_the_same_prompts_are_asked_at_the_start_and_at_every_checkpoint(run):
    rows = said(run)
    rounds = {n: [r["prompt"] for r in rows if r["round"] == n] for n in (0, 2, 4)}
    assert len(rows) == sum(map(len, rounds.values())) and rounds[0] == rounds[2] == rounds[4]
    assert len(rounds[0]) == len(set(rounds[0])) >= 2
    last, first = ([r["response"] for r in rows if r["round"] == n] for n in (4, 0))
    assert last != first
    assert all((r["stop"] == "eos") == (r["tokens"] < 6) or r["tokens"] == 6 for r in rows)


def test_a_policy_that_learns_nothing_says_the_same_again(tmp_path):
    rows = said(quick("reinforce", tmp_path / "run", feedback=["length"], settings={"lr": 1e-12, "rounds": 2}))
    first, last = ([r["response"] for r in rows if r["round"] == n] for n in (0, 2))
    assert first == last


def test_a_resumed_run_has_every_row_once(run, tmp_path):
    cut = unfinished(run, tmp_path / "run", 4)
    assert said(quick("reinforce", cut, feedback=["length"], settings={"lr": 0.3}, resume=True)) == said(run)
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "checkpoints")
    assert said(quick("reinforce", cut, feedback=["length"], settings={"lr": 0.3}, resume=True)) == said(run)


def row(n, prompt, response, stop="eos"):
    return {"round": n, "prompt": prompt, "response": response, "stop": stop}


def test_figures_are_counted_as_a_reader_would():
    rows = [row(0, "p", "a b a b a b"), row(0, "q", "c d", "length")]
    # pairs: ab ba ab ba ab, cd; four-grams: abab baba abab
    want = {"words": 4.0, "distinct pairs": 3 / 6, "repeated 4-grams": 1 / 3, "ended": 0.5}
    assert figures_of(rows) == pytest.approx(want)
    assert figures_of([row(0, "p", "")])["words"] == 0.0


def test_the_section_shows_first_last_and_some_between():
    rows = [row(n, prompt, f"r{n}{prompt}") for n in range(0, 60, 10) for prompt in ("<p>", "q")]
    page = "".join(before_after_sections(rows))
    assert "at the start" in page and "round 50" in page and "&lt;p&gt;" in page
    assert [n for n in range(0, 60, 10) if f"r{n}q" in page] == [0, 20, 30, 50]
    assert before_after_sections(rows[:2]) == before_after_sections([]) == []


def test_a_judge_of_the_readers_choice_scores_what_was_said():
    rows = scored([row(0, "p", "one two"), row(0, "q", " "), row(4, "p", "one two three")], ["length"])
    assert [r.get("scores") for r in rows] == [{"length": 2.0}, None, {"length": 3.0}]
    assert figures_of(rows[:2])["length"] == 2.0, "what is empty has no score"
    page = "".join(before_after_sections(rows))
    assert ">length</th>" in page and "3.00" in page


def test_a_report_takes_judges_for_a_run_and_none_for_a_comparison(run, tmp_path, capsys):
    assert main(["report", str(run), "--out", str(tmp_path / "page.html"), "--feedback", "length"]) == 0
    assert ">length</th>" in (tmp_path / "page.html").read_text()
    (tmp_path / "prepared.json").write_text("{}")
    assert main(["report", str(tmp_path), "--feedback", "length"]) == 2
    assert "a comparison has its own in the plan" in capsys.readouterr().err

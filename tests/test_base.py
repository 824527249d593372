"""What the base writes before the first round, and the judge that is shown it."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sparring.compare.lines import lines_of, negatives_of
from sparring.compare.plan import read_plan
from sparring.core.errors import DataError, RunError
from sparring.loops import base
from sparring.loops.job import make_job
from sparring.loops.load import load_data, load_model, read_records
from sparring.loops.workload import base_answers, workload
from tests.small import JUDGE, ONLINE, machine, quick, rows, same, weights, world, write

BASE = str(world() / "model")


def job(run, **more):
    settings = {**ONLINE, **JUDGE, "overflow": "cut"} | more.pop("settings", {})
    return make_job("rlgaf", model=BASE, data=str(world() / "texts.jsonl"), run=run, settings=settings, **more)


def said(run):
    return [json.loads(line) for line in (run / "base.jsonl").read_text().splitlines()]


def demonstrations():
    return [json.loads(line) for line in (world() / "texts.jsonl").read_text().splitlines()]


def test_the_base_answers_every_prompt_of_the_demonstrations_often_enough(tmp_path):
    base.write_base(job(tmp_path, base=BASE, settings={"held_out": 0.0}), machine(), quiet=True)
    prompts = {d["prompt"] for d in demonstrations()}
    each = -(-base.RESPONSES // len(prompts))
    asked = [row["prompt"] for row in said(tmp_path)]
    assert set(asked) == prompts and max(asked.count(p) for p in prompts) == each
    assert len(asked) > 0.8 * base.RESPONSES, "a response without a word is left out, and only that"
    assert all(row["response"].strip() for row in said(tmp_path))


def test_it_is_not_asked_what_the_policy_is_measured_on(tmp_path):
    some = job(tmp_path, base=BASE, settings={"held_out": 0.25})
    base.write_base(some, machine(), quiet=True)
    train, held_out = read_records(some)
    assert held_out and {row["prompt"] for row in said(tmp_path)} == {r.prompt for r in train}
    assert len({r.prompt for r in train}) < len({d["prompt"] for d in demonstrations()})


def test_what_it_says_is_decided_by_the_seed_and_not_said_again(tmp_path):
    asked = job(tmp_path / "a", base=BASE), job(tmp_path / "b", base=BASE), job(tmp_path / "c", base=BASE,
                                                                                 settings={"seed": 1})  # fmt: skip
    for one in asked:
        base.write_base(one, machine(), quiet=True)
    first, again, other = (said(one.run) for one in asked)
    assert first == again != other
    write(tmp_path / "a" / "base.jsonl", [{"prompt": "ba", "response": " ba"}])
    base.write_base(asked[0], machine(), quiet=True)
    assert said(tmp_path / "a") == [{"prompt": "ba", "response": " ba"}]


def test_its_responses_are_fakes_beside_other_unwanted_texts(tmp_path):
    write(tmp_path / "n.jsonl", [{"prompt": "ba", "response": " be bi"}])
    both = job(tmp_path / "run", base=BASE, negatives=str(tmp_path / "n.jsonl"))
    base.write_base(both, machine(), quiet=True)
    trunk = load_model(both, machine())
    found = load_data(both, trunk, lambda _: None).unwanted
    assert len(found) == 1 + len(said(both.run))
    assert trunk.tokenizer.decode(found[1].prompt) == said(both.run)[0]["prompt"]
    assert max(len(row.responses[0]) for row in found) <= ONLINE["max_tokens"]
    assert not load_data(replace(both, base=None, negatives=None), trunk, lambda _: None).unwanted


def test_a_run_with_a_base_learns_otherwise_and_goes_on_exactly_from_where_it_was_cut(tmp_path):
    run = quick("rlgaf", tmp_path / "run", base=BASE)
    assert not same(weights(run, "judge"), weights(quick("rlgaf", tmp_path / "plain"), "judge"))
    assert f"base: {BASE}" in (run / "run.yaml").read_text()
    cut = shutil.copytree(run, tmp_path / "cut")
    for part in ("model", "judge", "checkpoints/step-00000005"):
        shutil.rmtree(cut / part)
    quick("rlgaf", cut, base=BASE, resume=True)
    assert rows(cut) == rows(run) and same(weights(cut), weights(run))
    shutil.rmtree(cut / "model")
    with pytest.raises(RunError, match="started with base"):
        quick("rlgaf", cut, resume=True)


def test_a_run_that_was_killed_after_the_base_had_answered_is_started(tmp_path):
    whole = quick("rlgaf", tmp_path / "whole", base=BASE)
    (tmp_path / "killed").mkdir()
    shutil.copy(whole / "base.jsonl", tmp_path / "killed")
    assert rows(quick("rlgaf", tmp_path / "killed", base=BASE, resume=True)) == rows(whole)


def test_a_judge_of_words_is_told_the_bases_words_too(tmp_path):
    brief = {"rounds": 2, "judge_warmup": 1}
    pairs = (("plain", None), ("based", BASE))
    runs = [quick("rlgaf", tmp_path / n, base=b, feedback=["bag_of_words"], settings=brief) for n, b in pairs]
    one, other = (json.loads((run / "bag_of_words/bag_of_words.json").read_text())["tokens"] for run in runs)
    assert one != other


def test_a_base_that_says_nothing_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "read_out", lambda batch, _: SimpleNamespace(texts=[(" ", "")] * len(batch)))
    with pytest.raises(DataError, match="with no word; leave --base out"):
        base.write_base(job(tmp_path / "run", base=BASE), machine(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_what_the_base_will_say_and_what_the_judge_will_read_of_it(tmp_path):
    plain, based = job(tmp_path / "run"), job(tmp_path / "run", base=BASE)
    trunk = load_model(plain, machine())
    without, data = (load_data(one, trunk, lambda _: None) for one in (plain, based))
    prompts = len({row.prompt for row in data.train})
    before, after = workload(plain, without), workload(based, data)
    assert base_answers(plain, without) == 0
    assert (
        after.sampled - before.sampled == base_answers(based, data) * 6 == prompts * -(-base.RESPONSES // prompts) * 6
    )
    assert after.judged > before.judged, "their prompts are not shared"


def test_a_comparison_names_its_own_model_by_a_word_and_negatives_by_the_seed():
    methods = [
        {"method": "rlgaf", "base": "base", "negatives": "n-{seed}.jsonl"},
        {"method": "rlgaf", "name": "b", "base": "m"},
    ]
    plan = read_plan({"model": "gpt2", "data": "d.jsonl", "feedback": ["length"], "methods": methods})
    first, second = list(lines_of(plan).values())[1:]
    assert (first.base, second.base) == ("gpt2", "m")
    assert (negatives_of(first, 3), negatives_of(second, 3)) == ("n-3.jsonl", None)

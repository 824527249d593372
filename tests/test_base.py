"""The model before fine-tuning, whom a judge that learns along meets before it meets the policy."""

import gc
import json
import shutil
import weakref

import pytest
import torch

from sparring.compare.lines import lines_of, negatives_of
from sparring.compare.plan import read_plan
from sparring.core.errors import ModelError, RunError, SettingError
from sparring.data.batch import Row
from sparring.loops.answers import Answers
from sparring.loops.job import make_job
from sparring.loops.plan import plan
from sparring.loops.settings import OnlineSettings
from sparring.models.backbone import load_trunk, save_trunk, tiny_model
from sparring.models.cache import Past
from sparring.models.decode import past_of
from sparring.models.roles import Network
from sparring.models.scorers import frozen_model
from tests.small import JUDGE, ONLINE, WORDS, machine, quick, rows, same, weights, world

LONG = {"judge_warmup": 30, "save_every": 4}  # six rounds of warm-up, and a checkpoint in the midst of them


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model with the policy's words that says other things."""
    place = tmp_path_factory.mktemp("base") / "model"
    save_trunk(tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=7), place)
    return str(place)


def test_the_base_answers_while_the_judge_warms_up_and_the_policy_from_then_on(tmp_path, base):
    found = rows(quick("rlgaf", tmp_path / "run", base=base, settings=LONG))
    plain = rows(quick("rlgaf", tmp_path / "plain", settings=LONG))
    alone = rows(quick("rlgaf", tmp_path / "alone", model=base, base=base, settings=LONG))
    for number in range(6):
        said = {name: found[number][name] for name in ("entropy", "length", "distinct_2")}
        assert said == {name: alone[number][name] for name in said}, "what the base says by itself"
        assert said != {name: plain[number][name] for name in said}
        assert "kl" not in found[number], "the policy has said nothing yet"
    assert found[6]["kl"] == pytest.approx(0.0, abs=1e-6) and found[6]["entropy"] == plain[6]["entropy"]
    assert found[6]["score"] != plain[6]["score"], "the judge has met others"
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert min(row["round"] for row in samples) == 7, "only the policy's samples are kept"


def test_a_base_in_sixteen_bits_remembers_what_it_has_read(base):
    """What a model can do is found out in 32 bits: rounding once cost the base its cache, and sampling was 20 times
    as slow."""
    kept = frozen_model(base, device="cpu", low=torch.bfloat16).trunk
    assert kept.lm.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert past_of(kept, 8) is Past.PADDED


@pytest.mark.parametrize("reads", ["mean", "ratio"])
def test_a_base_that_the_adapters_hang_on_is_not_loaded_again(tmp_path, reads, monkeypatch):
    settings = {**LONG, "adapter": "lora", "rank": 2, "judge_reads": reads}
    tuned = quick("sft", tmp_path / "sft", settings={"adapter": "lora", "rank": 2, "lr": 1e-2, "steps": 8})
    own, elsewhere = world() / "model", shutil.copytree(world() / "model", tmp_path / "elsewhere")
    loaded = quick("rlgaf", tmp_path / "loaded", model=tuned, base=str(elsewhere), settings=settings)
    monkeypatch.setattr("sparring.loops.judges.frozen_model", None)
    found = quick("rlgaf", tmp_path / "run", model=tuned, base=str(own), settings=settings)
    assert [list(row) for row in rows(found)] == [list(row) for row in rows(loaded)]
    for row, other in zip(rows(found), rows(loaded), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4, nan_ok=True)
    assert rows(found)[0]["entropy"] != pytest.approx(rows(found)[6]["entropy"]), "the base is not the tuned policy"
    if reads == "ratio":
        monkeypatch.undo()
        said = [json.loads((run / "judge" / "ratio.json").read_text()) for run in (found, loaded)]
        assert [s.pop("against") for s in said] == [str(own.resolve()), str(elsewhere)]
        assert said[0] == pytest.approx(said[1], rel=1e-3)


def test_what_is_not_loaded_again_is_not_planned_for(tmp_path):
    tuned = str(quick("sft", tmp_path / "sft", settings={"adapter": "lora", "rank": 2}))
    given = {"adapter": "lora", "rank": 2, "judge_warmup": 5}

    def planned(base, **settings):
        job = make_job("rlgaf", model=tuned, data=str(world() / "texts.jsonl"), run=tmp_path, base=base,
                       settings=ONLINE | given | settings)  # fmt: skip
        return plan(job, from_config=True)

    own, elsewhere = str(world() / "model"), str(shutil.copytree(world() / "model", tmp_path / "elsewhere"))
    assert "warm-up of the judge" not in planned(own).moments and "warm-up of the judge" in planned(elsewhere).moments
    assert "judge" not in planned(own, judge_reads="ratio").standing
    assert planned(elsewhere, judge_reads="ratio").standing["judge"] > 0


def test_the_base_answers_as_many_prompts_as_a_round_has_responses():
    own = Network(trunk=load_trunk(str(world() / "model")))
    settings = OnlineSettings(batch=3, K=2, max_tokens=4)
    texts = [Row(prompt=(3 + i,), responses=((4,),), index=i) for i in range(6)]
    answers = Answers(own, settings, machine(), opponent=lambda: own)
    first, second = (answers.for_the_judge(texts, n).batch for n in (0, 1))
    assert first.response_ids.shape[:2] == (6, 1) and not torch.equal(first.response_ids, second.response_ids)
    assert answers.to(texts[:3], 2).batch.response_ids.shape[:2] == (3, 2)
    alone = Answers(own, settings, machine()).for_the_judge(texts[:3], 2).batch
    assert alone.response_ids.shape[:2] == (3, 2), "a policy that has no opponent answers as in any round"


def test_an_opponent_is_loaded_when_it_speaks_and_dropped_afterwards():
    loaded = []

    def load():
        loaded.append(weakref.ref(network := Network(trunk=load_trunk(str(world() / "model")))))
        return network

    texts = [Row(prompt=(3,), responses=((4,),))]
    own = Network(trunk=load_trunk(str(world() / "model")))
    answers = Answers(own, OnlineSettings(batch=1, K=1, max_tokens=2), machine(), opponent=load)
    assert not loaded
    for number in range(2):
        answers.for_the_judge(texts, number)
    assert len(loaded) == 1 and loaded[0]() is not None
    answers.to(texts, 2)
    gc.collect()
    assert loaded[0]() is None


@pytest.mark.parametrize("feedback", ["discriminator", "bag_of_words"])
@pytest.mark.parametrize("left", [4, 8])
def test_a_run_goes_on_exactly_from_within_the_warm_up_and_after_it(tmp_path, base, feedback, left):
    settings = {**(JUDGE if feedback == "discriminator" else {}), **LONG}
    run = quick("rlgaf", tmp_path / "run", base=base, feedback=[feedback], settings=settings)
    cut = shutil.copytree(run, tmp_path / "cut")
    for later in (cut / "checkpoints").iterdir():
        if int(later.name.split("-")[1]) > left:
            shutil.rmtree(later)
    for part in ("model", "judge", "bag_of_words"):
        shutil.rmtree(cut / part, ignore_errors=True)
    quick("rlgaf", cut, base=base, feedback=[feedback], settings=settings, resume=True)
    assert rows(cut) == rows(run) and same(weights(cut), weights(run))


def test_another_base_makes_another_run_and_a_resumed_one_keeps_its_own(tmp_path, base):
    run = quick("rlgaf", tmp_path / "run", base=base)
    assert not same(weights(run), weights(quick("rlgaf", tmp_path / "plain")))
    assert f"base: {base}" in (run / "run.yaml").read_text()
    shutil.rmtree(run / "model")
    with pytest.raises(RunError, match="started with base"):
        quick("rlgaf", run, resume=True)


def test_a_base_that_changed_is_named(tmp_path, base):
    own = shutil.copytree(base, tmp_path / "own")
    run = quick("rlgaf", tmp_path / "run", base=str(own))
    shutil.rmtree(run / "model")
    save_trunk(tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=8), own)
    with pytest.raises(RunError, match=r"own: the base changed since .* was started"):
        quick("rlgaf", run, base=str(own), resume=True)
    shutil.copytree(base, own, dirs_exist_ok=True)
    quick("rlgaf", run, base=str(own), resume=True)
    assert (run / "model").is_dir()


def test_what_a_base_is_no_help_to_is_refused_with_the_cure(tmp_path):
    with pytest.raises(SettingError, match="judge_warmup is 0; raise it, or leave the base out"):
        make_job("rlgaf", model="m", data="d", run=tmp_path, base="b", settings={"judge_warmup": 0})
    with pytest.raises(SettingError, match="and this run has none"):
        make_job("ppo", model="m", data="d", run=tmp_path, base="b", feedback=["length"])
    with pytest.raises(SettingError, match="set reward logit, or judge_loss bce"):
        make_job("rlgaf", model="m", data="d", run=tmp_path, base="b", settings={"reward": "norm"})
    save_trunk(tiny_model(["other", "words"], width=8, layers=1, heads=1, context=32, seed=0), tmp_path / "foreign")
    for reads in ("mean", "ratio"):
        with pytest.raises(ModelError, match="its tokenizer is not that of"):
            quick("rlgaf", tmp_path / "run", base=str(tmp_path / "foreign"), settings={"judge_reads": reads})
    assert not (tmp_path / "run").exists()


def test_a_judge_that_meets_the_base_first_learns_as_reward_models_do_unless_it_is_told_otherwise(tmp_path):
    def made(**given):
        more = {name: given.pop(name) for name in ("base", "feedback") if name in given}
        job = make_job("rlgaf", model="m", data="d", run=tmp_path, settings=given, **more)
        judge = job.discriminator
        return job.equation.kl, judge and judge.judge_loss, judge and judge.label_smoothing

    plain, first = (0.1, "bce", 0.1), (0.05, "bt", 0.0)
    assert made() == plain and made(base="b") == first
    assert made(base="b", kl=0.2, judge_loss="ls") == (0.2, "ls", 0.0)
    assert made(base="b", judge_reads="ratio") == (0.025, "bce", 0.1), "the base is read beside it"
    assert made(base="b", judge_sees="prefix") == plain, "of prefixes no pairs are made"
    assert made(base="b", feedback=["bag_of_words"]) == (0.1, None, None)


def test_a_judge_that_reads_the_ratio_pays_no_response_without_bound_unless_it_is_told_otherwise(tmp_path):
    def made(**given):
        job = make_job("rlgaf", model="m", data="d", run=tmp_path, base="b", settings={"judge_reads": "ratio"} | given)
        assert job.judge is not None
        return job.judge.reward, job.equation.kl

    assert made() == ("norm", 0.025)
    assert made(reward="logit", kl=0.1) == ("logit", 0.1)


def test_gumbel_brings_settings_of_its_own_for_the_ratio(tmp_path):
    ask = {"model": "m", "data": "d", "run": tmp_path, "base": "b"}
    plain, ratio = (make_job("rlgaf_gumbel", settings=given, **ask) for given in ({}, {"judge_reads": "ratio"}))
    made = [(job.judge.reward, job.equation.kl, job.relaxed.tau) for job in (plain, ratio)]
    assert made == [("logsig", 0.1, 0.5), ("norm", 0.0125, 1.0)]


def test_the_card_says_what_the_base_was_for(tmp_path, base):
    run = quick("rlgaf", tmp_path / "run", base=base, settings={"rounds": 1, "judge_warmup": 5})
    assert f"whom the judge met first: `{base}`" in (run / "README.md").read_text()


def test_a_base_that_is_not_there_is_refused_before_anything_is_fine_tuned(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        quick("rlgaf", tmp_path / "run", base=str(tmp_path / "gone"), settings={"sft_epochs": 1.0})
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_the_base_where_it_speaks_and_nowhere_else(tmp_path, base):
    jobs = [
        make_job("rlgaf", model=str(world() / "model"), data=str(world() / "texts.jsonl"), run=tmp_path / "run",
                 base=b, settings={**ONLINE, **JUDGE, "overflow": "cut"})
        for b in (None, base)
    ]  # fmt: skip
    before, after = (plan(job, from_config=True) for job in jobs)
    assert after.standing == before.standing and after.work.sampled == before.work.sampled
    assert after.work.read > before.work.read, "more prompts, each with one answer"
    busiest = max(after.moments[n] for n in ("update of the judge", "sampling"))
    extra = after.moments["warm-up of the judge"] - busiest
    weights = sum(p.numel() for p in load_trunk(base).lm.parameters())
    assert 0 < extra <= 4 * weights


def test_a_comparison_names_its_own_model_by_a_word_and_negatives_by_the_seed():
    methods = [
        {"method": "rlgaf", "base": "base", "negatives": "n-{seed}.jsonl"},
        {"method": "rlgaf", "name": "b", "base": "m"},
    ]
    made = read_plan({"model": "gpt2", "data": "d.jsonl", "feedback": ["length"], "methods": methods})
    first, second = list(lines_of(made).values())[1:]
    assert (first.base, second.base) == ("gpt2", "m")
    assert (negatives_of(first, 3), negatives_of(second, 3)) == ("n-3.jsonl", None)

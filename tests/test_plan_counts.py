"""What a plan counts is what a run does: by the passes that a real run makes, and by hand."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from sparring.compare import budget
from sparring.compare.plan import read_plan
from sparring.compare.run import prepare
from sparring.core.errors import SettingError
from sparring.data.batch import Row, collate
from sparring.data.responses import read_out
from sparring.feedback.bag_of_words import BagOfWords
from sparring.feedback.beside import ahead
from sparring.feedback.discriminator import Discriminator
from sparring.loops import calibrate
from sparring.loops.gumbel import RelaxedLearner
from sparring.loops.job import Job, make_job
from sparring.loops.judges import make_discriminator
from sparring.loops.load import Data
from sparring.loops.passes import narrowed
from sparring.loops.plan import plan
from sparring.loops.timing import Cost
from sparring.loops.workload import rehearsed, workload
from sparring.models import memory
from sparring.models.backbone import load_trunk
from sparring.models.memory import Pass
from sparring.models.roles import Network
from sparring.models.size import size_of
from sparring.rollout.relaxed import Relaxation
from tests.small import JUDGE, ONLINE, SELECTING, machine, quick, rows, world

SHORT = {"batch": 4, "K": 2, "max_tokens": 6, "rounds": 2, "device": "cpu", "precision": "fp32", "held_out": 0.0}


def job_of(method: str, settings: dict, **more) -> Job:
    return make_job(method, model=str(world() / "model"), data=str(world() / "texts.jsonl"), run="none",
                    settings=settings, **more)  # fmt: skip


# What learns through relaxed tokens


def test_a_plan_goes_through_a_round_of_the_learner_that_the_run_has():
    found = plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT))
    assert {"sampling", "scoring", "reading", "training", "judge"} <= found.seconds.keys()


@pytest.mark.parametrize("form", ["straight_through", "soft"])
def test_what_the_reference_and_the_judge_read_of_a_relaxed_run_is_counted(form, tmp_path, monkeypatch):
    seen, drawn = defaultdict(int), []
    states, known, unroll = Network.states, RelaxedLearner.known, Relaxation.unroll

    def tokens(batch):
        return int(batch.prompt_mask.sum() + batch.mask.sum())

    def spied_states(self, batch, relaxed=None):
        seen[id(self), torch.is_grad_enabled() and relaxed is not None] += tokens(batch)
        return states(self, batch, relaxed)

    def spied_known(self, rollout, rewards, by_token=None):
        drawn.append(tokens(rollout.batch))
        roles.update(policy=self.networks.policy, reference=self.networks.reference, judge=self.judge.network)
        return known(self, rollout, rewards, by_token)

    def spied_unroll(self, batch):
        seen["unrolled"] += tokens(batch)
        return unroll(self, batch)

    roles: dict[str, Network] = {}
    monkeypatch.setattr(Network, "states", spied_states)
    monkeypatch.setattr(RelaxedLearner, "known", spied_known)
    monkeypatch.setattr(Relaxation, "unroll", spied_unroll)
    # The judge only scores here, so that all it reads is counted by rounds.
    settings = JUDGE | SHORT | {"judge_warmup": 0, "judge_steps": 0, "judge_held_out": 0.0, "form": form}
    quick("rlgaf_gumbel", tmp_path / "run", settings=settings)
    read = {name: sum(n for key, n in seen.items() if key[0] == id(role)) for name, role in roles.items()}
    whole, passed = sum(drawn), seen[id(roles["judge"]), True]
    assert (seen["unrolled"], passed, read["reference"]) == (whole, whole, 2 * whole)
    by_policy = read["policy"] / whole  # what it relaxes for the judge, which scores softly what was drawn hard
    assert (read["judge"], by_policy) == (2 * whole, 1 if form == "soft" else 0)

    work = plan(job_of("rlgaf_gumbel", ONLINE | settings), from_config=True).work
    assert work.judged == work.trained and work.read == (2 + 1 + by_policy) * work.trained


def test_a_relaxed_run_holds_the_reference():
    standing = plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT), from_config=True).standing
    assert standing["reference"] == standing["judge"] == standing["weights"]


def test_a_relaxed_update_holds_ten_tables_of_the_vocabulary_and_every_copy_of_its_past():
    size = size_of(str(world() / "model"), adapter="none", rank=1, precision="fp32")
    one = Pass(prompts=2, responses=4, prompt=3, response=8, tokens=38, answered=32)
    tables, past = 10 * 4 * 32 * size.vocabulary, 4 * size.remembered * sum(4 * (3 + t + 0.5) for t in range(8))
    found = memory.relaxed(size, one, trained=size.numbers)
    assert found == memory.masks(one) + tables + 2 * size.kept * 38 + past
    halves = narrowed(one, 3 + 2 * 8)
    assert halves == Pass(prompts=1, responses=2, prompt=3, response=8, tokens=19, answered=16, of=2)
    earlier = memory.relaxed(size, halves, trained=size.numbers) - memory.gradients(size.numbers)
    assert earlier - memory.masks(halves) == (found - memory.masks(one)) / 2
    assert narrowed(one, 1) == halves and narrowed(one, 10**6) == one

    def update(form):
        return plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT | {"form": form}), from_config=True).moments["update"]

    ordinary = plan(job_of("rlgaf", ONLINE | JUDGE | SHORT), from_config=True).moments["update"]
    assert update("soft") == update("straight_through") > ordinary


def test_a_reference_that_gives_whole_distributions_reads_and_is_held_like_any_other():
    data = str(world() / "pairs.jsonl")
    settings = {"steps": 2, "held_out": 0.0, "device": "cpu", "precision": "fp32"}
    job = make_job("slic_kl", model=str(world() / "model"), data=data, run="none", settings=settings)
    found = plan(job, from_config=True)
    assert found.work.read == found.work.trained and found.standing["reference"] == found.standing["weights"]


# A judge that sees two responses


def test_what_a_judge_reads_that_sees_a_response_beside_another_is_counted_in_both_orders(monkeypatch):
    settings = ONLINE | JUDGE | SHORT | {"judge_sees": "pair", "judge_loss": "bt", "judge_batch": 4, "judge_warmup": 0}
    job, length = job_of("rlgaf", settings, policy="rloo"), 6
    real = [Row(prompt=(3, 4, 5 + b), responses=((6,) * 5,)) for b in range(4)]
    drawn = [replace(r, responses=((7,) * length, (8,) * length)) for r in real]
    trunk, seen = load_trunk(job.model), []
    judge = make_discriminator(replace(job, discriminator=replace(job.discriminator, judge_held_out=0.0)), trunk,
                               Data(train=real, held_out=()), machine())  # fmt: skip
    states = Network.states

    def spied(self, batch, relaxed=None):
        seen.append(int(batch.prompt_mask.sum() + batch.mask.sum()))
        return states(self, batch, relaxed)

    monkeypatch.setattr(Network, "states", spied)
    judge.score(read_out(collate(drawn), trunk.tokenizer))
    scored = sum(seen)
    seen.clear()
    ahead(judge.network, [(a, replace(b, responses=b.responses[:1])) for a, b in zip(real, drawn, strict=True)])
    work = workload(job, Data(train=real, held_out=()), length)
    assert work.judge_updates * sum(seen) == work.judged and work.judge.tokens == sum(seen)
    reference = work.trained  # which reads a round once
    assert work.read == reference + work.count * scored
    assert work.judge.prompt == 2 * 3 + 6, "of what is read first: two prompts, and the longer response"


# Judges


def test_how_an_update_of_the_judge_is_cut_does_not_change_what_it_reads():
    whole, cut = (
        plan(job_of("rlgaf", ONLINE | JUDGE | SHORT | {"micro_tokens": limit}), from_config=True).work
        for limit in (8192, 4 * 2 * 9)  # four of six pairs, of nine tokens each, in a pass
    )
    assert (whole.judge.of, cut.judge.of) == (1, 2)
    assert cut.judged == pytest.approx(whole.judged, rel=0.01)


def test_a_second_trial_of_a_program_does_not_take_the_first_one_for_its_start(monkeypatch):
    def timed(machine, act, *, once=False):
        act()
        return Cost(wall=1.0, cpu=1.0)

    monkeypatch.setattr(calibrate, "timed", timed)
    job = job_of("rlgaf", ONLINE | JUDGE | SHORT)
    assert plan(job).seconds["start"] == plan(job).seconds["start"] > 1.0


@pytest.mark.parametrize(
    ("feedback", "judged", "warmed"),
    [
        # Four rounds and two of warm-up. Of a discriminator: 1 second to look, 10 for an update, of which there are two
        # in a round and eight before; of a judge of words: 3 to remember, 100 for a fit, one in every round.
        ("discriminator", 4 * (1 + 2 * 10), 2 * 1 + 8 * 10),
        ("bag_of_words", 4 * (3 + 100), 2 * (3 + 100)),
        ("discriminator+bag_of_words", 4 * (1 + 2 * 10) + 4 * (3 + 100), 2 * 1 + 8 * 10 + 2 * (3 + 100)),
    ],
)
def test_the_lessons_of_all_judges_are_timed_as_often_as_they_learn(feedback, judged, warmed, monkeypatch):
    clock = [0.0]

    def slow(look, update):
        def learn(self, fake, *, updates=None):
            clock[0] += look + update * updates
            return {}

        return learn

    def timed(machine, act, *, once=False):
        began = clock[0]
        act()
        return Cost(wall=clock[0] - began)

    monkeypatch.setattr(Discriminator, "learn", slow(1, 10))
    monkeypatch.setattr(BagOfWords, "learn", slow(3, 100))
    monkeypatch.setattr(calibrate, "timed", timed)
    own = {"judge_steps": 2} if "discriminator" in feedback else {}
    settings = ONLINE | (JUDGE if own else {}) | SHORT | {"rounds": 4, "judge_warmup": 8} | own
    found = plan(job_of("rlgaf", settings, feedback=(feedback,))).seconds
    assert (found["judge"], found["warm-up"]) == (judged, warmed)


# What a recipe begins with


@pytest.mark.parametrize("feedback", [(), ("length",)])
def test_the_fine_tuning_before_the_first_round_is_counted_as_it_is_done(feedback, tmp_path):
    settings = {**ONLINE, **({} if feedback else JUDGE), **SHORT}  # 24 demonstrations, in batches of 32
    none, some = (
        plan(job_of("rlgaf", settings | {"sft_epochs": epochs}, feedback=feedback), from_config=True).work
        for epochs in (0.0, 4.0)
    )
    texts = [json.loads(line) for line in (world() / "texts.jsonl").read_text().splitlines()]
    once = sum(len((t["prompt"] + t["response"]).split()) + 1 for t in texts)  # and an end of text
    assert some.trained - none.trained == 4 * once and some.read == none.read and some.sampled == none.sampled
    run = quick("rlgaf", tmp_path / "run", feedback=feedback, settings=settings | {"sft_epochs": 4.0})
    assert rows(run / "sft")[-1]["step"] == some.start.updates == some.updates - none.updates == 3
    assert none.start is None


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_fine_tuning_before_the_first_round_is_measured(adapter):
    settings = ONLINE | JUDGE | SHORT | {"sft_epochs": 4.0, "adapter": adapter}
    found = plan(job_of("rlgaf", settings)).seconds
    assert found["fine-tuning"] > 0 and {"sampling", "training"} <= found.keys()


def rounds_for(paid, place, **settings):
    """The rounds that a comparison gives to rlgaf."""
    own = {name: value for name, value in (JUDGE | SHORT).items() if name not in ("rounds", "device")}
    texts = str(world() / "texts.jsonl")
    made = {"model": str(world() / "model"), "data": texts, "eval_data": texts, "feedback": ["length"], "seeds": 1,
            "settings": {"precision": "fp32"}, "budget": paid,
            "methods": [{"method": "rlgaf", "settings": own | settings}]}  # fmt: skip
    return prepare(read_plan(made), place).costs["rlgaf"].settings["rounds"]


def test_a_budget_pays_for_the_fine_tuning_before_it_pays_for_rounds(tmp_path):
    some, none = (rounds_for({"tokens": 10_000}, tmp_path / str(n), sft_epochs=n) for n in (20.0, 0.0))
    assert 1 <= some < none
    with pytest.raises(SettingError, match=r"one of its rounds costs .* and the budget has 2,000 for it"):
        rounds_for({"tokens": 2000}, tmp_path / "little", sft_epochs=40.0)


def test_a_budget_in_seconds_pays_first_for_what_is_done_once(tmp_path, monkeypatch):
    def predicted(job):
        found = plan(job, from_config=True)
        seconds = {"start": 1.0, "fine-tuning": 4.0, "warm-up": 3.0, "training": 1.5 * found.work.count,
                   "judge": 0.5 * found.work.count}  # fmt: skip
        return replace(found, seconds=seconds, is_bound=False)

    monkeypatch.setattr(budget, "predict", predicted)
    assert rounds_for({"seconds": 20}, tmp_path / "some") == (20 - 8) // 2
    assert rounds_for({"seconds": 10}, tmp_path / "one") == 1
    with pytest.raises(
        SettingError, match=r"one of its rounds costs 10.00 seconds.* and the budget has 9.00 for it; raise"
    ):
        rounds_for({"seconds": 9}, tmp_path / "none")


def test_a_budget_in_seconds_that_pays_for_no_round_is_refused_where_time_is_measured(tmp_path):
    with pytest.raises(
        SettingError, match=r"one of its rounds costs .* seconds.* and the budget has 1.00 for it; raise"
    ):
        rounds_for({"seconds": 1}, tmp_path / "none")  # not even the libraries are loaded in it


# Selections


def selected(method: str, settings: dict, **more):
    return plan(job_of(method, SELECTING | {"held_out": 0.0, "steps": 0, "batch": 8} | settings, **more),
                from_config=True).work  # fmt: skip


def test_a_round_that_also_plays_against_the_samples_before_it_trains_on_both(tmp_path):
    # 24 demonstrations and one sample of each: 24 pairs in the first round, in three steps, and 48 in those after it.
    settings = {"K": 1, "rounds": 3}
    assert selected("spin", settings).updates == 3 * 3
    work = selected("spin", settings | {"mix": "last"})
    assert work.updates == 3 + 6 + 6 and work.trained == 15 * selected("spin", settings).trained / 9
    run = quick("spin", tmp_path / "run", settings=settings | {"mix": "last", "held_out": 0.0, "steps": 0, "batch": 8})
    steps = [rows(run / "rounds" / f"{n:02d}" / "train")[-1]["step"] for n in (1, 2, 3)]
    assert sum(steps) == pytest.approx(work.updates, abs=2), "but for samples that equal their demonstration"


def test_what_a_selection_keeps_is_tried_in_every_round_as_the_run_does(tmp_path):
    # Of all 24 prompts a third is sampled for in a round, and the best sample of each prompt met so far is kept.
    settings = {"memory": "all", "prompts": 8, "rounds": 6}
    assert selected("raft", settings, feedback=("length",)).updates == 1 + 2 + 3 + 3 + 3 + 3
    # Two rounds learn from the same samples. Of rising thresholds each keeps less, and the first comes after the last.
    settings = {"thresholds": "0.2,0.8", "K": 8, "batch": 1, "rounds": 12}
    assert selected("rest", settings, feedback=("length",)).sampled == 6 * 24 * 8 * 6
    kept, _ = rehearsed(job_of("rest", SELECTING | settings, feedback=("length",)))
    assert all(low > 2 * high for low, high in zip(kept[::2], kept[1::2], strict=True)) and len(kept) == 12

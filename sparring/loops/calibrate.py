"""How long a run will take: a little of its real work is done and timed, and multiplied by how often the run does it.

Nothing is written but a checkpoint in a temporary folder, and what the trial teaches the model is thrown away. On a
CPU two times are told: by the clock on the wall, and those in which the processor worked for us; on a machine that
others use as well they differ.
"""

import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.data.tokens import prepare
from sparring.feedback.combine import learners
from sparring.feedback.discriminator import Discriminator
from sparring.loops.answers import Answers
from sparring.loops.begin import beginning
from sparring.loops.build import build_offline, build_online
from sparring.loops.collect import collect
from sparring.loops.job import Job
from sparring.loops.judges import base_lies_below
from sparring.loops.load import Data, load_model
from sparring.loops.offline import Loop
from sparring.loops.online import Online
from sparring.loops.order import Order
from sparring.loops.passes import passes_of
from sparring.loops.reward import rewarded
from sparring.loops.run import Run
from sparring.loops.selections import select
from sparring.loops.settings import OfflineSettings
from sparring.loops.timing import Cost, timed
from sparring.loops.workload import Work
from sparring.models import checkpoint
from sparring.models.machine import Machine
from sparring.models.reference import StoredReference, hash_weights
from sparring.models.roles import Networks
from sparring.models.signals import compute
from sparring.models.size import Size
from sparring.models.update import micro_batches

MEASURED = 4096  # tokens that are trained on to find out how fast that is
ONCE = ("start", "fine-tuning", "warm-up", "reference")  # on what a run spends time once, however long it goes on
RESPONSES = 128  # responses of a selection that are sampled for it
SIDE = 1024  # of the square matrices whose product gives the rate of a machine


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial says of the whole run: seconds by what they are spent on, those of the processor in all, and how
    long sampled responses are on average, in a loop that samples in every round."""

    seconds: Mapping[str, float]
    cpu_seconds: float
    length: float | None


def calibrate(job: Job, machine: Machine, data: Data, work: Work) -> Trial:
    """Do a little of every part of a run, and predict the whole."""
    began = _began()
    trunk = None

    def load() -> None:
        nonlocal trunk
        trunk = load_model(job, machine)
        hash_weights(trunk.lm.state_dict())

    loading = timed(machine, load, once=True)
    assert trunk is not None
    length = None
    if job.online is not None:
        first = _beginning(job, data, machine, work, trunk, loading)
        if first:
            load()
        found, length = _online(build_online(job, trunk, data, machine), work)
        found |= first
        if job.opponent is not None and not base_lies_below(job):
            found["warm-up"] = found["warm-up"].plus(loading)
    elif job.selection is not None:
        found = _selection(job, data, machine, work, trunk, loading)
    else:
        found = _offline(job, data, machine, work, trunk)
    found["start"] = began.plus(loading)
    return Trial(
        seconds={n: c.wall for n, c in found.items()}, cpu_seconds=sum(c.cpu for c in found.values()), length=length
    )


@functools.cache
def _began() -> Cost:
    """What it took this program to load the libraries and the data, before its first trial; later ones are no start."""
    spent = time.process_time()
    return Cost(wall=spent, cpu=spent)


def bound(machine: Machine, size: Size, work: Work) -> dict[str, float]:
    """The least seconds of a run: multiplications and additions over the rate of this machine's products.

    A token costs 2 for each number of the body and, in a response, of the head. The way back costs twice as much
    again; with adapters once, for the frozen weights need no gradient.
    """
    rate = _rate(machine)
    back = 1 if size.is_adapted else 2
    answered = work.update.answered / max(work.update.tokens, 1)
    a_token = 2 * (size.body - size.vocabulary * size.width) + answered * 2 * size.head
    found = {"training": work.trained * a_token * (1 + back), "reading": work.read * a_token,
             "sampling": work.sampled * (a_token + (1 - answered) * 2 * size.head),
             "judge": work.judged * a_token * (1 + back)}  # fmt: skip
    return {n: count / rate for n, count in found.items() if count}


def _rate(machine: Machine) -> float:
    """Multiplications and additions a second, in a product of two square matrices."""
    a = torch.ones(SIDE, SIDE, device=machine.device)

    def product() -> None:
        with machine.computing():
            torch.mm(a, a)

    return 2 * SIDE**3 / timed(machine, product).wall


def _offline(job: Job, data: Data, machine: Machine, work: Work, trunk: Any) -> dict[str, Cost]:
    assert job.offline is not None
    live = replace(job, offline=replace(job.offline, reference="live"))
    made = build_offline(live, trunk, data, machine, start="", quiet=True)
    reading = Cost()
    is_stored = job.offline.reference == "stored" and made.networks.reference is not None
    rows = _some(data.train, job)
    if is_stored:
        reading = _read(machine, rows, made.networks, job).times(
            sum(r.tokens for r in (*data.train, *data.held_out)) / sum(r.tokens for r in rows)
        )
        known = {r.index: torch.zeros(sum(map(len, r.responses))) for r in (*data.train, *data.held_out)}
        made = replace(made, stored=StoredReference(known), networks=Networks(policy=made.networks.policy))
    loop, updater = Loop(made, Run(job.run, "step")), made.updater

    def train() -> None:
        distance = loop.batch_kl(rows)
        for part in micro_batches([r.tokens for r in rows], job.optimizer.micro_tokens):
            with machine.computing():
                loss = loop.loss([rows[i] for i in part], distance)
            updater.backward(loss)

    def step() -> None:
        train()
        updater.step()

    training = timed(machine, train)
    updater.step()
    whole = timed(machine, step)
    found = {"training": training.times(work.trained / sum(r.tokens for r in rows)), "reference": reading,
             "optimizer": whole.less(training).times(work.updates)}  # fmt: skip
    if work.evaluations:
        held_out = _some(data.held_out, job)
        share = sum(r.tokens for r in data.held_out) / sum(r.tokens for r in held_out)
        small = Loop(replace(made, held_out=held_out), loop.run)
        found["evaluation"] = timed(machine, lambda: small.evaluate(1)).times(work.evaluations * share)
    found["checkpoints"] = _saving(machine, {"updater": updater.state()}).times(work.saves + 1)
    return {n: c for n, c in found.items() if c.wall}


def _beginning(job: Job, data: Data, machine: Machine, work: Work, trunk: Any, loading: Cost) -> dict[str, Cost]:
    """What the fine-tuning takes that a recipe begins with, which loads the model as well; `trunk` learns."""
    start = beginning(job)
    if start is None:
        return {}
    assert data.start is not None and work.start is not None
    parts = [loading, *_offline(start, data.start, machine, work.start, trunk).values()]
    return {"fine-tuning": functools.reduce(Cost.plus, parts)}


def _some(rows: Sequence[Row], job: Job) -> list[Row]:
    """The rows that the run would take first, as many as are worth measuring."""
    places = Order(len(rows), len(rows), job.seed, "order").at(0)
    out: list[Row] = []
    for i in places:
        if out and sum(r.tokens for r in out) + rows[i].tokens > MEASURED:
            break
        out.append(rows[i])
    return out


def _read(machine: Machine, rows: list[Row], networks: Networks, job: Job) -> Cost:
    def read() -> None:
        for part in micro_batches([r.tokens for r in rows], job.optimizer.micro_tokens):
            with machine.computing():
                compute(["ref_token_logps"], collate([rows[i] for i in part]).to(machine.device), networks)

    return timed(machine, read)


def _saving(machine: Machine, state: dict[str, Any]) -> Cost:
    with tempfile.TemporaryDirectory() as place:
        return timed(machine, lambda: checkpoint.save(Path(place), 0, state))


def _online(made: Online, work: Work) -> tuple[dict[str, Cost], float]:
    """Go through one round, part by part; says also how long its responses were."""
    settings, machine, networks = made.settings, made.machine, made.networks
    rows = [made.prompts[i] for i in made.order.at(0)]
    first = [made.prompts[i] for i in made.warm_up_order.at(0)]
    stands_in = None if made.opponent is None else lambda: networks.policy
    answers = Answers(networks.policy, settings, machine, lagged=made.lagged, opponent=stands_in)
    learner = made.learner
    kept: dict[str, Any] = {}

    def draw() -> None:
        kept["rollout"] = answers.to(rows, 0)
        kept["responses"] = answers.read(kept["rollout"])

    def meet() -> None:
        kept["met"] = answers.read(answers.for_the_judge(first, 0))
        with machine.computing():
            made.feedback.score(kept["met"])

    def score() -> None:
        with machine.computing():
            kept["scores"] = made.feedback.score(kept["responses"]).float().to(machine.device)

    def look() -> None:
        paid = rewarded(kept["scores"], kept["rollout"].stops, made.reward.unfinished)
        kept["known"] = learner.known(kept["rollout"], paid)

    sampling = timed(machine, draw)
    scoring, reading = timed(machine, score), timed(machine, look)
    updating = timed(machine, lambda: learner.improve(kept["rollout"].batch, kept["known"], 0))
    a_round = settings.batch * settings.K
    asks = min(len(made.held_out), 4 * settings.batch) / a_round * work.evaluations
    found = {"sampling": sampling.times(work.count + asks), "scoring": scoring.times(work.count + asks),
             "reading": reading.times(work.count), "training": updating.times(work.count)}  # fmt: skip
    if work.rest:
        found["warm-up"] = timed(machine, meet).times(work.rest)
    for name, met, rounds, is_first in (("judge", "responses", work.count, False), ("warm-up", "met", work.rest, True)):
        if rounds and learners(made.feedback):
            lessons = _lessons(made, work, kept[met], rounds, is_first=is_first)
            found[name] = found.get(name, Cost()).plus(lessons)
    state = {"updater": made.updater.state(), "judges": [j.state() for j in learners(made.feedback)]}
    found["checkpoints"] = _saving(machine, state).times(work.saves + 1)
    return found, float(kept["rollout"].batch.mask.sum(-1).float().mean())


def _lessons(made: Online, work: Work, responses: Responses, rounds: int, *, is_first: bool) -> Cost:
    """What all judges take together that learn along, in the rounds of the policy or in those of their warm-up."""
    found = Cost()
    for judge in learners(made.feedback):
        watching = timed(made.machine, lambda judge=judge: judge.learn(responses, updates=0))
        learning = timed(made.machine, lambda judge=judge: judge.learn(responses, updates=1)).less(watching)
        # A discriminator makes updates; a judge of words is fitted once in every round.
        updates = rounds
        if isinstance(judge, Discriminator):
            updates = made.judge_warmup if is_first else work.judge_updates - made.judge_warmup
        found = found.plus(watching.times(rounds)).plus(learning.times(updates))
    return found


def _selection(job: Job, data: Data, machine: Machine, work: Work, trunk: Any, loading: Cost) -> dict[str, Cost]:
    """Sample for a few prompts, select, and train on what was selected (or on the data, where nothing was)."""
    chosen = job.selection
    assert chosen is not None
    asked = min(chosen.prompts or len(data.train), len(data.train))
    few = min(asked, max(1, RESPONSES // chosen.K))
    small, kept = replace(job, selection=replace(chosen, prompts=few)), {}

    def draw() -> None:
        kept["scored"] = collect(small, data, machine, job.model, 0, quiet=True).scored

    sampling = timed(machine, draw).less(loading)
    records = list(select(job.rule, kept["scored"], [], number=0, seed=job.seed).records)
    rows: Sequence[Row] = data.train
    if records:
        rows, _ = prepare(records, trunk.tokenizer, max_prompt=job.data_settings.max_prompt, overflow="cut",
                          max_response=chosen.max_tokens, context=trunk.context)  # fmt: skip
    settings = OfflineSettings(
        epochs=chosen.epochs, steps=chosen.steps, batch=chosen.batch, eval_every=chosen.save_every,
        save_every=chosen.save_every, reference="live", keep_best="last", patience=0, seed=chosen.seed,
    )  # fmt: skip
    inner = replace(job, offline=settings, selection=None)
    largest = max(passes_of(list(rows[: chosen.batch]), job.optimizer.micro_tokens), key=lambda p: p.tokens)
    found = _offline(inner, Data(train=rows, held_out=()), machine, replace(work, update=largest, evaluations=0), trunk)
    # Each round loads the model to train, and to sample if it does; so does a measurement on held-out prompts.
    loads = work.count + -(-work.count // job.rule.passes) + work.evaluations
    return found | {"sampling": sampling.times(work.sampled / (few * chosen.K * chosen.max_tokens)),
                    "loading": loading.times(loads)}  # fmt: skip

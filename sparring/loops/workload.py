"""What a run will do, counted before it does it: steps, tokens, and the largest passes.

Counts follow from the settings and from the lengths of the rows, in the order in which the run will take them. What
nobody can know beforehand is how long sampled responses get: they count as long as those of a trial were, or else at
their longest; `sampled` is always the most there can be.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.core.registry import needs, welcomes
from sparring.core.seeds import rng
from sparring.core.selection import Scored
from sparring.data.batch import Row
from sparring.feedback.combine import build
from sparring.feedback.discriminator import LEVELLED
from sparring.feedback.expression import BAG_OF_WORDS, DISCRIMINATOR, SIMILARITY
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import is_ranker
from sparring.feedback.rule import as_rule, load_rule
from sparring.loops.begin import beginning
from sparring.loops.job import Job
from sparring.loops.learner import FIXED, total_updates
from sparring.loops.load import Data
from sparring.loops.offline import total_steps
from sparring.loops.online import EVALUATED, WARM_UP_UPDATES
from sparring.loops.order import Order
from sparring.loops.passes import pass_of_answers, pass_of_judge, pass_of_sampling, passes_of
from sparring.loops.selections import select
from sparring.models.memory import Pass
from sparring.models.signals import asks_for_reference
from sparring.rollout.sample import ROWS

SCANNED = 2000  # steps or rounds that are looked at one by one; more are taken to be like them
REHEARSED = 64  # made-up prompts with K samples each that a selection is tried on
TRIED = 4  # times that a selection is tried on new samples; it sees those of earlier times, too


@dataclass(frozen=True, kw_only=True)
class Work:
    """Counts of a whole run. `trained` tokens are passed forward and back, `judged` too, by the judge, whoever learns
    from it; `read` forward only; `sampled` is the most there can be. `rest` are rounds in which only a judge learns.
    `start` is the fine-tuning that a recipe begins with, whose tokens and updates are among those of the run."""

    clock: str
    count: int
    rest: int = 0
    updates: int
    evaluations: int
    saves: int
    trained: int
    read: int = 0
    sampled: int = 0
    judged: int = 0
    judge_updates: int = 0
    update: Pass
    judge: Pass | None = None
    sampling: Pass | None = None
    start: "Work | None" = None


def workload(job: Job, data: Data, length: float | None = None) -> Work:
    """Count what a job will do with its data; `length` is the mean of sampled responses, None for the longest."""
    if job.online is not None:
        own, start = _online(job, data, job.online.max_tokens if length is None else length), beginning(job)
        if start is None:
            return own
        assert data.start is not None, "begin.py loads both"
        first = _offline(start, data.start)
        return replace(own, start=first, trained=own.trained + first.trained, read=own.read + first.read,
                       updates=own.updates + first.updates)  # fmt: skip
    return _offline(job, data) if job.selection is None else _selection(job, data)


def readers(job: Job) -> list[str]:
    """Name the judges that are models: the discriminator, the start as it was, and folders (a ranker by its call)."""
    found: list[str] = []

    def note(name: str) -> Feedback:
        if name in (DISCRIMINATOR, SIMILARITY) or is_ranker(name) or Path(name).is_dir():
            found.append(name)
        if name in (*found, BAG_OF_WORDS):
            return as_rule(name, lambda response: 0.0)
        return load_rule(name)  # which is small, and refused when it is not there

    named = [spec for spec in job.feedback if isinstance(spec, str)]
    if named:
        build(named, note)
    return found


def _offline(job: Job, data: Data) -> Work:
    settings = job.offline
    assert settings is not None
    total = total_steps(len(data.train), settings)
    seen = min(total, SCANNED)
    order = Order(len(data.train), settings.batch, settings.seed, "order")
    batches = [[data.train[i] for i in order.at(step)] for step in range(seen)]
    passes = [p for rows in batches for p in passes_of(rows, job.optimizer.micro_tokens)]
    trained = _scaled(sum(p.tokens for p in passes), total, seen)
    names = [*needs(job.equation.loss), *welcomes(job.equation.loss)]
    reads = len({"ref_token_logps", "token_kls"} & {*names}) + 2 * int("batch_kl" in names)
    held_out = sum(r.tokens for r in data.held_out)
    evaluations = math.ceil(total / settings.eval_every) if data.held_out else 0
    if settings.reference == "stored" and reads:
        read = sum(r.tokens for r in (*data.train, *data.held_out)) + evaluations * held_out
    else:
        read = reads * trained + (1 + reads) * evaluations * held_out
    best = evaluations if settings.keep_best != "last" else 0
    return Work(
        clock="step", count=total, updates=total, evaluations=evaluations,
        saves=max(math.ceil(total / settings.save_every), best), trained=trained, read=read,
        update=max(passes, key=lambda p: p.tokens),
    )  # fmt: skip


def _online(job: Job, data: Data, length: float) -> Work:
    settings = job.online
    assert settings is not None
    order = Order(len(data.train), settings.batch, settings.seed, "prompts")
    judge = job.discriminator
    warm_up = job.judge.judge_warmup if job.judge else 0
    rest = math.ceil(warm_up / WARM_UP_UPDATES)
    total, seen = settings.rounds + rest, min(settings.rounds + rest, SCANNED)
    batches = [[data.train[i] for i in order.at(number)] for number in range(seen)]
    answers = settings.batch * settings.K
    prompt = sum(len(r.prompt) for rows in batches for r in rows) / seen / settings.batch
    asks = settings.batch if job.opponent is None else answers  # prompts of a round of the judge's warm-up
    a_round = settings.batch * prompt + answers * length
    rounds = ((settings.rounds, settings.batch), (rest, asks))  # how many, and the prompts of one
    scored = sum(n * (prompts * prompt + answers * length) for n, prompts in rounds)
    # Where tokens are relaxed, the reference reads a round for its figures and once more in the graph of the update.
    reads = 2 if job.relaxed else len({*FIXED} & {*needs(job.equation.credit), *needs(job.equation.loss)})
    largest = max((pass_of_answers(job, rows, length) for rows in batches), key=lambda p: p.tokens)
    read = reads * settings.rounds * a_round + len(readers(job)) * scored
    judged, judge_updates, one = 0.0, 0, None
    if judge is not None:
        one = pass_of_judge(job, data, length)
        judge_updates = warm_up + settings.rounds * judge.judge_steps
        judged = judge_updates * one.tokens * judge.judge_batch / (one.responses / 2)
        read += scored * (judge.judge_anchor > 0)
        if judge.judge_sees == "pair":
            # Each response is read in both orders; those to a prompt share it only where the demonstration comes first.
            beside = 2 * prompt + sum(len(r.responses[0]) for r in data.train) / len(data.train)
            read += sum(n * ((prompts + answers) * beside + 2 * answers * length) for n, prompts in rounds) - scored
        if job.compares:  # the base reads along; both find the level of each round
            read += scored * (1 + 2 * min(1, LEVELLED / answers)) + judged
        if job.relaxed and job.relaxed.form == "soft":  # the policy reads whatever the judge does, to relax it
            read += scored + judged
        if job.relaxed:  # in the graph of the update, too: the policy learns what the judge says of each token
            judged += settings.rounds * a_round * (1 + job.compares)
    trained = settings.rounds * settings.epochs * a_round
    if job.mix is not None and data.pretrain:
        texts = sum(r.tokens for r in data.pretrain) / len(data.pretrain)
        trained += total_updates(settings) * job.mix.pretrain_batch * texts
    evaluations = 0 if job.judge or not data.held_out else math.ceil(settings.rounds / settings.save_every)
    held_out = min(len(data.held_out), EVALUATED * settings.batch)
    return Work(
        clock="round", count=settings.rounds, rest=rest, updates=total_updates(settings), evaluations=evaluations,
        saves=1 + math.ceil(total / settings.save_every),
        trained=round(trained), read=round(read), judged=round(judged),
        sampled=(total * answers + evaluations * held_out) * settings.max_tokens,
        judge_updates=judge_updates,
        update=largest, judge=one,
        sampling=pass_of_sampling(asks, answers // asks, settings.max_tokens, batches),
    )  # fmt: skip


def _selection(job: Job, data: Data) -> Work:
    chosen = job.selection
    assert chosen is not None
    prompts = min(chosen.prompts or len(data.train), len(data.train))
    kept, answers = rehearsed(job, prompts / len(data.train))
    prompt = sum(len(r.prompt) for r in data.train) / len(data.train)
    a_row = Row(prompt=(0,) * round(prompt), responses=((0,) * chosen.max_tokens,) * answers)
    steps = [chosen.steps or max(1, math.ceil(chosen.epochs * x * prompts / chosen.batch)) for x in kept]
    largest = max(passes_of([a_row] * chosen.batch, job.optimizer.micro_tokens), key=lambda p: p.tokens)
    names = [*needs(job.equation.loss), *welcomes(job.equation.loss)]
    trained = sum(steps) * chosen.batch * a_row.tokens
    sampled = prompts * chosen.K * chosen.max_tokens
    a_round = round(prompts * prompt) + sampled
    measured = min(len(data.held_out), prompts) if job.feedback else 0
    times = math.ceil(chosen.rounds / job.rule.passes)  # that prompts are sampled for
    reads = len(readers(job)) * times + times - 1  # the start speaks every time after the first
    return Work(
        clock="round", count=chosen.rounds, updates=sum(steps), evaluations=chosen.rounds if measured else 0,
        saves=sum(math.ceil(n / chosen.save_every) for n in steps), trained=trained,
        read=reads * a_round + (trained if asks_for_reference(names) else 0),
        sampled=times * sampled + chosen.rounds * measured * chosen.max_tokens, update=largest,
        sampling=pass_of_sampling(max(1, ROWS // chosen.K), chosen.K, chosen.max_tokens, [data.train]),
    )  # fmt: skip


def rehearsed(job: Job, share: float = 1.0) -> tuple[list[float], int]:
    """Try a selection on made-up samples of random scores: records for a prompt, by round, and responses in one.

    A round samples for a `share` of all prompts, and may learn from the samples of earlier rounds as well. After a few
    rounds the others are taken to be like the last ones.
    """
    chosen, passes = job.selection, job.rule.passes
    assert chosen is not None
    draw, every = rng(job.seed, "plan"), round(REHEARSED / share)

    def made(i: int) -> Scored:
        scores, logps = (tuple(draw.standard_normal(chosen.K).tolist()) for _ in range(2))
        return Scored(
            prompt=f"prompt {i}", responses=tuple(f"response {k}" for k in range(chosen.K)), scores=scores, logps=logps,
            ref_logps=logps, given="demonstration", where=f"row {i}",
        )  # fmt: skip

    samples: list[list[Scored]] = []
    kept: list[float] = []
    longest = 1
    for number in range(min(chosen.rounds, TRIED * passes)):
        if number % passes == 0:
            samples.append([made((number // passes * REHEARSED + i) % every) for i in range(REHEARSED)])
        records = select(job.rule, samples[-1], samples[:-1], number=number, seed=job.seed).records
        kept.append(len(records) / REHEARSED)
        longest = max(longest, *(len(r.responses()) for r in records), 1)
    kept += [kept[-passes + n % passes] for n in range(chosen.rounds - len(kept))]
    return kept, longest


def smaller(job: Job, limit: int) -> Job:
    """The same job with smaller passes."""
    return replace(job, optimizer=replace(job.optimizer, micro_tokens=limit))


def _scaled(count: int, total: int, seen: int) -> int:
    return round(count * total / seen)

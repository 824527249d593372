"""The largest single passes of a run: how many prompts and responses go through a network at once."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sparring.data.batch import Row
from sparring.loops.job import Job
from sparring.loops.load import Data
from sparring.models.memory import Pass
from sparring.models.update import micro_batches
from sparring.rollout.sample import ROWS


def passes_of(rows: Sequence[Row], limit: int) -> list[Pass]:
    """Split the rows of one step as the loop does, and measure each part."""
    parts = [[rows[i] for i in part] for part in micro_batches([r.tokens for r in rows], limit)]
    return [
        Pass(
            prompts=len(part), responses=sum(len(r.responses) for r in part), of=len(parts),
            prompt=max(max(len(r.prompt), len(r.other_prompt or ())) for r in part),
            response=max((len(y) for r in part for y in r.responses), default=1), tokens=sum(r.tokens for r in part),
            answered=sum(len(y) * (1 + (r.other_prompt is not None)) for r in part for y in r.responses),
        )
        for part in parts
    ]  # fmt: skip


def pass_of_answers(job: Job, rows: Sequence[Row], length: float) -> Pass:
    """The largest part of a round's samples in one pass, as `in_parts` cuts them; one of them is of full length."""
    settings = job.online
    assert settings is not None
    P, K, T = max(len(r.prompt) for r in rows), settings.K, settings.max_tokens
    mine = math.ceil(len(rows) / min(settings.minibatches, len(rows)))
    n = min(max(1, job.optimizer.micro_tokens // (P + K * T)), mine)
    prompts = sum(len(r.prompt) for r in rows) / len(rows)
    return Pass(
        prompts=n, responses=n * K, prompt=P, response=T, tokens=round(n * (prompts + K * length)),
        answered=round(n * K * length),
        of=math.ceil(mine / n),
    )  # fmt: skip


def narrowed(one: Pass, limit: int) -> Pass:
    """The same pass over as many of its prompts as have `limit` tokens, one at least."""
    K = one.responses // one.prompts
    n = min(max(1, limit // (one.prompt + K * one.response)), one.prompts)
    share = n / one.prompts
    return replace(
        one, prompts=n, responses=n * K, tokens=round(one.tokens * share), answered=round(one.answered * share),
        of=math.ceil(one.of / share),
    )  # fmt: skip


def pass_of_judge(job: Job, data: Data, length: float) -> Pass:
    """One pass of a judge's update: pairs of a demonstration and a sample, at most; equal texts are read only once.

    The two share their prompt, unless the sample is an unwanted text. Where they are seen together they are one text,
    read in both orders, in which nothing is shared.
    """
    judge, settings = job.discriminator, job.online
    assert judge is not None and job.judge is not None and settings is not None
    T = max(settings.max_tokens, *(len(y) for r in data.train for y in r.responses))
    P = max(len(r.prompt) for r in data.train)
    sees_pair = judge.judge_sees == "pair"
    n = min(max(1, job.optimizer.micro_tokens // ((4 if sees_pair else 2) * (P + T))), judge.judge_batch)
    prompt = sum(len(r.prompt) for r in data.train) / len(data.train)
    real = sum(r.tokens for r in data.train) / len(data.train)
    apart = job.judge.negatives_share if data.unwanted else 0.0
    return Pass(
        prompts=2 * n if sees_pair else round(n * (1 + apart)), responses=2 * n,
        prompt=2 * P + T if sees_pair else P, response=T,
        tokens=round(2 * n * (real + prompt + length) if sees_pair else n * (real + apart * prompt + length)),
        answered=round(n * (real - prompt + length)), of=math.ceil(judge.judge_batch / n),
    )  # fmt: skip


def pass_of_sampling(batch: int, K: int, longest: int, batches: Sequence[Sequence[Row]]) -> Pass:
    """The largest part of a round that is sampled at once."""
    prompt = max(len(r.prompt) for rows in batches for r in rows)
    prompts = min(batch, max(1, ROWS // K))
    rows = prompts * K
    return Pass(
        prompts=prompts, responses=rows, prompt=prompt, response=longest, tokens=prompts * prompt,
        answered=rows * longest,
    )  # fmt: skip

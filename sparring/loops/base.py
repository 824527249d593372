"""What the base writes, the model before its fine-tuning, to the prompts of the demonstrations: fakes that stay.

A policy that was fine-tuned has gone a part of the way from its base to the demonstrations. Against its own responses
the judge learns what is left of that way, and with few demonstrations it learns their words by heart instead. Against
the base's it sees the whole way, which is plainer to see and goes on in the same direction (docs/rlgaf.md).

The responses are sampled once, before the first round, and stay in the run folder, where they can be read. A judge
that compares its likelihoods with the base's (`judge_reads: ratio`) knows the way without them, and meets none.
"""

import json
import math

from sparring.core.errors import DataError
from sparring.core.records import Demonstration, Prompt
from sparring.core.seeds import derive, rng
from sparring.data.batch import Row
from sparring.data.responses import read_out
from sparring.data.tokens import prepare
from sparring.data.write import as_row
from sparring.loops.job import Job
from sparring.loops.load import BASE_FILE, load_model, read_records
from sparring.loops.progress import Progress
from sparring.models.checkpoint import write_text
from sparring.models.machine import Machine
from sparring.models.roles import Network
from sparring.rollout.sample import ROWS, Sampling, sample

PROMPTS = 2048  # that the base answers at most
RESPONSES = 256  # that it gives at least: to few prompts several each


def write_base(job: Job, machine: Machine, *, quiet: bool) -> None:
    """Let the base answer, and write the file whole; nothing to do where there is one or need be none."""
    file = job.run / BASE_FILE
    if job.base is None or job.has_ratio or file.is_file():
        return
    if machine.is_first:
        lines = _answers(job, machine, quiet=quiet)
        if not lines:
            raise DataError(f"{job.base}: it answers the prompts of {job.data} with no word; leave --base out")
        write_text(file, "".join(lines))
    machine.wait()


def asked(prompts: int) -> tuple[int, int]:
    """How many of so many prompts the base answers, and how often each."""
    count = min(prompts, PROMPTS)
    return count, math.ceil(RESPONSES / count)


def _answers(job: Job, machine: Machine, *, quiet: bool) -> list[str]:
    """Sample the lines of the file; an empty response is none."""
    assert job.base is not None and job.online is not None
    records, _ = read_records(job)
    prompts = list(dict.fromkeys(r.prompt for r in records))
    count, K = asked(len(prompts))
    chosen = [prompts[i] for i in sorted(rng(job.seed, "base").permutation(len(prompts))[:count])]
    network = Network(trunk=load_model(job, machine, job.base))
    rows = _encoded([Prompt(prompt=p, where=job.data) for p in chosen], job, network)
    how = Sampling(max_tokens=job.online.max_tokens, temperature=job.online.temperature)
    lines: list[str] = []
    at_once = max(1, ROWS // K)
    with Progress("base", count, (), quiet=quiet) as bar:
        for first in range(0, count, at_once):
            some = rows[first : first + at_once]
            with machine.computing():
                found = sample(
                    network, [r.prompt for r in some], K, how, seed=derive(job.seed, "base"),
                    keys=list(range(first, first + len(some))),
                )  # fmt: skip
            texts = read_out(found.batch, network.trunk.tokenizer).texts
            for prompt, said in zip(chosen[first:], texts, strict=False):
                own = [Demonstration(prompt=prompt, response=text) for text in said if text.strip()]
                lines += [json.dumps(as_row(one), ensure_ascii=False) + "\n" for one in own]
            bar.show(first + len(some), {})
    return lines


def _encoded(prompts: list[Prompt], job: Job, network: Network) -> list[Row]:
    """Encode prompts as the policy's are."""
    assert job.online is not None
    rows, _ = prepare(
        prompts, network.trunk.tokenizer, max_prompt=job.data_settings.max_prompt, max_response=job.online.max_tokens,
        overflow="cut", context=network.trunk.context, room=job.online.max_tokens,
    )  # fmt: skip
    return rows

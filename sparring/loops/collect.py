"""Sample and score the prompts of one round, and measure a policy on the prompts that are held out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.errors import Diverged
from sparring.core.masked import masked_sum
from sparring.core.records import Demonstration, read_reference
from sparring.core.seeds import derive
from sparring.core.selection import Scored
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses, read_out
from sparring.data.write import as_prompt, from_prompt
from sparring.feedback.protocol import Feedback
from sparring.loops.figures import Facts, describe, facts
from sparring.loops.job import Job
from sparring.loops.judges import load_feedback
from sparring.loops.learner import in_parts
from sparring.loops.load import Data, load_model
from sparring.loops.order import Order
from sparring.loops.progress import Progress
from sparring.loops.settings import SelectionSettings
from sparring.models.machine import Machine
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from sparring.rollout.sample import ROWS, Rollout, Sampling, sample

UNJUDGED = ("score", "score_std", "cue_length", "cue_fluency")  # figures that mean nothing without a judge
PRICED = ("kl_price", "reward")  # figures of methods that take a price of KL off the score


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The samples of one round, in the order of their prompts, and its figures."""

    scored: tuple[Scored, ...]
    figures: Mapping[str, float]


def collect(job: Job, data: Data, machine: Machine, model: str, number: int, *, quiet: bool) -> Collected:
    """Let `model` answer the prompts of round `number` (counted from 0), and score what it says.

    Every prompt has a random stream of its own, by its place in the run. Raises Diverged for a score that is
    not finite.
    """
    settings, seed = _settings(job), derive(job.seed, "round", number)
    policy = Network(trunk=load_model(job, machine, model))
    start = None if model == job.model else Network(trunk=load_model(job, machine))
    networks = Networks(policy=policy, reference=start, temperature=settings.temperature)
    feedback = load_feedback(job, policy.trunk, data, machine) if job.feedback else None
    count = min(settings.prompts or len(data.train), len(data.train))
    places = Order(len(data.train), count, job.seed, "prompts").at(number)
    mine = machine.share(list(enumerate(places)))
    scored: list[Scored] = []
    found: list[list[Facts]] = []
    with Progress(f"sampling {number + 1}", len(mine), (), quiet=quiet) as bar:
        for part in _chunks(mine, max(1, ROWS // settings.K)):
            rows = [data.train[place] for _, place in part]
            rollout = _answer(policy, rows, settings, machine, seed, [key for key, _ in part])
            responses = read_out(rollout.batch, policy.trunk.tokenizer)
            judge = _Judge(feedback=feedback, networks=networks, machine=machine, micro=job.optimizer.micro_tokens)
            known = judge.known(responses, rollout.token_logps)
            samples = _scored(rows, responses, known, data, is_judged=feedback is not None)
            scored += _joined(samples, rows, judge, data) if settings.join == "data" else samples
            found += facts(rollout, known, known["scores"])
            bar.show(len(scored), {})
    figures = describe([f for one in machine.join(found) for f in one], 0.0)
    without = PRICED if job.feedback else PRICED + UNJUDGED
    return Collected(scored=tuple(machine.join(scored)), figures={n: v for n, v in figures.items() if n not in without})


def measure(job: Job, data: Data, machine: Machine, model: str) -> dict[str, float]:
    """Score one answer of `model` to each held-out prompt; empty when there is none, or no judge.

    Where a round takes only some of the prompts, no more of the held-out ones are answered.
    """
    settings = _settings(job)
    if not data.held_out or not job.feedback:
        return {}
    policy = Network(trunk=load_model(job, machine, model))
    feedback = load_feedback(job, policy.trunk, data, machine)
    places = machine.share(list(range(min(len(data.held_out), settings.prompts or len(data.held_out)))))
    total = 0.0
    for part in _chunks(places, ROWS):
        rows = [data.held_out[i] for i in part]
        once = replace(settings, K=1)
        rollout = _answer(policy, rows, once, machine, derive(job.seed, "evaluation"), part)
        with machine.computing():
            total += float(feedback.score(read_out(rollout.batch, policy.trunk.tokenizer)).double().sum())
    top, bottom = machine.sum_tally({"eval_score": (total, float(len(places)))})["eval_score"]
    return {"eval_score": top / bottom}


def as_samples(scored: Scored) -> dict[str, Any]:
    """Write one prompt with its samples as a row of samples.jsonl; what the data does not have is left out."""
    row = {**vars(scored), "prompt": as_prompt(scored.prompt)}
    return {name: value for name, value in row.items() if value is not None}


def from_samples(row: Mapping[str, Any]) -> Scored:
    """Read what `as_samples` wrote."""
    lists = {n: tuple(row[n]) for n in ("responses", "logps", "ref_logps", "scores")}
    more = {n: row[n] for n in ("given", "joined") if n in row}
    right = read_reference(row.get("reference"))
    return Scored(prompt=from_prompt(row["prompt"]), where=row["where"], reference=right, **lists, **more)


def _settings(job: Job) -> SelectionSettings:
    assert job.selection is not None
    return job.selection


def _chunks(things: list, size: int) -> Iterator[list]:
    return (things[i : i + size] for i in range(0, len(things), size))


def _answer(
    policy: Network, rows: Sequence[Row], settings: SelectionSettings, machine: Machine, seed: int, keys: list[int]
) -> Rollout:
    how = Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, top_k=settings.top_k)
    with machine.computing():
        rollout = sample(policy, [r.prompt for r in rows], settings.K, how, seed=seed, keys=keys)
    return replace(rollout, batch=rollout.batch.answering(rows))


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """What tells everything that is known of a response."""

    feedback: Feedback | None
    networks: Networks
    machine: Machine
    micro: int

    def known(self, responses: Responses, drawn_at: Tensor | None = None) -> dict[str, Tensor]:
        """The score of each response, and its log-probabilities now and at the start of the run.

        Those of a sample are known: it was `drawn_at` them.
        """
        batch = responses.batch
        with self.machine.computing():
            scores = torch.zeros(batch.mask.shape[:2])
            if self.feedback is not None:
                scores = self.feedback.score(responses).float()
        if not bool(scores.isfinite().all()):
            worst = [batch.where[b] for b in (~scores.isfinite()).any(-1).nonzero()[:5, 0]]
            raise Diverged(f"the judge's scores are not finite; the prompts are {', '.join(worst)}")
        asked = [] if drawn_at is not None else ["old_token_logps"]
        asked += [] if self.networks.reference is None else ["ref_token_logps"]
        with torch.no_grad(), self.machine.computing():
            parts = [compute(asked, batch.rows(*p), self.networks) for p in in_parts(batch, self.micro)]
        found = {n: torch.cat([p[n] for p in parts]) for n in asked}
        if drawn_at is not None:
            found["old_token_logps"] = drawn_at
        return {"scores": scores.to(self.machine.device), "ref_token_logps": found["old_token_logps"]} | found


def _joined(samples: Sequence[Scored], rows: Sequence[Row], judge: _Judge, data: Data) -> list[Scored]:
    """Put the data's own responses before the samples, scored and measured as these are."""
    trunk = judge.networks.policy.trunk
    responses = read_out(collate(rows).to(judge.machine.device), trunk.tokenizer)
    known = judge.known(responses)
    out = []
    for own, drawn in zip(_scored(rows, responses, known, data, is_judged=True), samples, strict=True):
        texts = data.records[drawn.where].responses()  # as they are written, not as they were encoded
        n = len(texts)
        more = {name: getattr(own, name)[:n] + getattr(drawn, name) for name in ("logps", "ref_logps", "scores")}
        out.append(replace(drawn, responses=texts + drawn.responses, joined=n, **more))
    return out


def _scored(
    rows: Sequence[Row], responses: Responses, known: Mapping[str, Tensor], data: Data, *, is_judged: bool
) -> list[Scored]:
    mask = responses.batch.mask
    logps, ref_logps = (masked_sum(known[n], mask).tolist() for n in ("old_token_logps", "ref_token_logps"))
    scores = known["scores"].tolist()
    out = []
    for b, row in enumerate(rows):
        record = data.records[row.where]
        out.append(
            Scored(
                prompt=record.prompt, responses=responses.texts[b], logps=tuple(logps[b]),
                ref_logps=tuple(ref_logps[b]), scores=tuple(scores[b]) if is_judged else (),
                given=record.response if isinstance(record, Demonstration) else None,
                reference=row.reference, where=row.where,
            )
        )  # fmt: skip
    return out

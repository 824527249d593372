"""The one loop for every method that learns from a file.

    rows -> batch -> signals -> method.loss -> gradient of sums -> one division -> step

Which records a step takes follows from its number alone, so a resumed run needs no saved data position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.loss import Loss, add, figures, tally
from sparring.core.masked import masked_sum
from sparring.core.rank import better, marks_of
from sparring.core.registry import needs, welcomes
from sparring.data.batch import Row, collate
from sparring.loops.clock import Stopwatch
from sparring.loops.order import Order
from sparring.loops.progress import Progress
from sparring.loops.run import Run
from sparring.loops.settings import OfflineSettings
from sparring.models.machine import Machine
from sparring.models.reference import StoredReference
from sparring.models.roles import Networks
from sparring.models.signals import compute
from sparring.models.update import Updater, micro_batches

SHOWN = ("loss", "eval_loss", "reward_accuracy", "eval_reward_accuracy", "grad_norm", "tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class Offline:
    """All that a run of this loop is made of."""

    method: Any
    rows: Sequence[Row]
    held_out: Sequence[Row]
    networks: Networks
    updater: Updater
    machine: Machine
    settings: OfflineSettings
    micro_tokens: int
    stored: StoredReference | None = None


def total_steps(records: int, settings: OfflineSettings) -> int:
    """How many steps the settings ask for; at least one, also when a batch is larger than the data."""
    return settings.steps or max(1, math.ceil(settings.epochs * records / settings.batch))


def train(job: Offline, run: Run, progress: Progress) -> dict[str, float]:
    """Train from the newest checkpoint to the end; returns the last figures.

    Raises Diverged when the loss is no longer a number, naming the rows and the last good checkpoint, and
    Interrupted when the process was asked to end.
    """
    loop = Loop(job, run)
    done = loop.restore(progress)
    total = total_steps(len(job.rows), job.settings)
    last = run.last_row()
    clock = Stopwatch(spent=last.get("seconds", 0.0))
    for step in range(done + 1, total + 1):
        if loop.is_out_of_patience:
            break
        with run.guarded():
            last = loop.step(step)
            last |= clock.lap(last.pop("computed"))
            if step % job.settings.eval_every == 0 or step == total:
                last |= loop.evaluate(step)
            if job.machine.is_first:
                run.log({run.clock: step} | last)
            job.machine.track(last, step)
            progress.show(step, last)
            ends = job.machine.any(run.is_asked_to_end)
            if step % job.settings.save_every == 0 or step == total or loop.wants_saving or ends:
                loop.save(step)
        if ends and step < total:
            raise run.interrupted(step)
    if loop.is_out_of_patience:
        progress.say(f"stopped early: no better {job.settings.keep_best} for {job.settings.patience} evaluations")
    job.machine.wait()  # until the checkpoint that is taken now has been written
    loop.take_best()
    return last


class Loop:
    """The steps of one run, and what it remembers between them."""

    def __init__(self, job: Offline, run: Run) -> None:
        self.job, self.run = job, run
        self.names = [*needs(job.method.loss), *welcomes(job.method.loss)]
        self.order = Order(len(job.rows), job.settings.batch, job.settings.seed, "order")
        self.best: float | None = None
        self.best_step: int | None = None
        self.since_best = 0
        self.tokens = 0
        self.has_improved = False

    @property
    def is_out_of_patience(self) -> bool:
        """Whether nothing got better for as many evaluations as the run was to wait."""
        return 0 < self.job.settings.patience <= self.since_best

    @property
    def wants_saving(self) -> bool:
        """Whether this step must be kept whatever its number: it is the best so far, or the last."""
        return self.has_improved or self.is_out_of_patience

    def restore(self, progress: Progress) -> int:
        """Put the newest checkpoint back; returns the number of steps done."""
        done, state, complaints = self.run.restore(cuts_back=self.job.machine.is_first)
        for complaint in complaints:
            progress.say(complaint)
        if state is not None:
            self.job.updater.load(state["updater"])
            self.best, self.best_step, self.since_best = state["best"], state["best_step"], state["since_best"]
            self.tokens = state["tokens"]
        return done

    def save(self, step: int) -> None:
        """Write the whole state of the run."""
        if not self.job.machine.is_first:
            return
        state = {
            "updater": self.job.updater.state(),
            "best": self.best,
            "best_step": self.best_step,
            "since_best": self.since_best,
            "tokens": self.tokens,
        }
        self.run.save(step, state, self.best_step)

    def step(self, step: int) -> dict[str, float]:
        """Make one optimizer step (counted from 1) and return its figures."""
        job = self.job
        self.has_improved = False
        rows = [job.rows[i] for i in self.order.at(step - 1)]
        self.tokens += sum(len(y) for r in rows for y in r.responses)
        computed = sum(r.tokens for r in rows)
        batch_kl = self.batch_kl(rows)
        rows = job.machine.share(rows)
        for part in micro_batches([r.tokens for r in rows], job.micro_tokens):
            chosen = [rows[i] for i in part]
            with job.machine.computing():
                loss = self.loss(chosen, batch_kl)
            job.updater.backward(loss, tuple(r.where for r in chosen))
        return job.updater.step() | {"tokens": float(self.tokens), "computed": float(computed)}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Measure loss and accuracy on the held-out records, and note whether they were never better."""
        job = self.job
        if not job.held_out:
            return {}
        counted = []
        batch_kl = self.batch_kl(job.held_out)
        rows = job.machine.share(list(job.held_out))
        for part in micro_batches([r.tokens for r in rows], job.micro_tokens):
            with job.machine.computing():
                counted.append(tally(self.loss([rows[i] for i in part], batch_kl)))
        row = {f"eval_{n}": v for n, v in figures(job.machine.sum_tally(add(counted))).items()}
        value = row.get(job.settings.keep_best)
        if value is not None and math.isfinite(value):
            better = -value if job.settings.keep_best == "eval_loss" else value
            self.has_improved = self.best is None or better > self.best
            if self.has_improved:
                self.best, self.best_step, self.since_best = better, step, 0
            else:
                self.since_best += 1
        return row

    def take_best(self) -> None:
        """Put the best checkpoint's weights back, if one is to be kept and it is not the last."""
        if self.best_step is not None and self.best_step != self.job.updater.steps:
            self.job.updater.load(self.run.state_at(self.best_step)["updater"])

    def loss(self, rows: list[Row], batch_kl: float | None) -> Loss:
        """Compute the loss of some rows of a batch; `batch_kl` is that of the whole batch, where the method asks."""
        batch = collate(rows).to(self.job.machine.device)
        known: dict[str, Tensor] = {}
        if self.job.stored is not None:
            known["ref_token_logps"] = self.job.stored.of(rows, batch)
        if batch_kl is not None:
            known["batch_kl"] = torch.full((len(rows),), batch_kl, device=batch.mask.device)
        asked = [n for n in self.names if n not in known]
        loss = self.job.method.loss(**known, **compute(asked, batch, self.job.networks))
        if loss.reward is None:
            return loss
        return replace(loss, pairs=better(marks_of(batch.ratings, batch.mask), batch.exists))

    @torch.no_grad()
    def batch_kl(self, rows: Sequence[Row]) -> float | None:
        """Estimate how far the policy is from the reference: every prompt of a batch gets its neighbour's response."""
        job = self.job
        if "batch_kl" not in self.names:
            return None
        moved = [replace(row, responses=rows[i - 1].responses) for i, row in enumerate(rows)] if len(rows) > 1 else []
        mine, counted = job.machine.share(moved), []
        for part in micro_batches([r.tokens for r in mine], job.micro_tokens):
            batch = collate([mine[i] for i in part]).to(job.machine.device)
            with job.machine.computing():
                found = compute(["token_logps", "ref_token_logps"], batch, job.networks)
            ratio = masked_sum(found["token_logps"] - found["ref_token_logps"], batch.mask)
            counted.append({"kl": (float(ratio.sum()), float(ratio.numel()))})
        return max(0.0, figures(job.machine.sum_tally(add(counted))).get("kl", 0.0))

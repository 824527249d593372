"""The one loop for every method that learns from its own samples.

    prompts -> sample -> score -> credit -> loss -> step(s) -> the judge learns, if it does

Responses are scored by the judge as it was before it learns from them. The log-probabilities they were
drawn at come from the sampler, which uses the trainer's own weights; there is no second pass for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.credit import AdaptiveKL, kl_k3
from sparring.core.errors import Diverged
from sparring.core.masked import masked_sum
from sparring.core.registry import needs
from sparring.core.seeds import rng
from sparring.data.batch import Batch, Row
from sparring.data.responses import read_out
from sparring.feedback.protocol import Feedback, LearningFeedback
from sparring.loops.clock import Stopwatch
from sparring.loops.progress import Progress
from sparring.loops.run import Interrupted, Run
from sparring.loops.settings import OnlineSettings
from sparring.loops.watch import Watch, correlation, sample_figures
from sparring.models.machine import Machine
from sparring.models.signals import Networks, compute
from sparring.models.update import Updater
from sparring.rollout.sample import Rollout, Sampling, sample
from sparring.rollout.store import sample_rows

SHOWN = ("score", "kl", "judge_accuracy_held_out", "entropy", "length", "eval_score", "tokens_per_second")
MOVING = ("token_logps", "values")
WARM_UP_UPDATES = 5  # of the judge, on each sampled batch before the policy's first step


@dataclass(frozen=True, kw_only=True)
class Online:
    """All that a run of this loop is made of. `judge_warmup` counts updates of a judge before the first step."""

    method: Any
    prompts: Sequence[Row]
    held_out: Sequence[Row]
    feedback: Feedback
    networks: Networks
    updater: Updater
    machine: Machine
    settings: OnlineSettings
    micro_tokens: int
    judge_warmup: int = 0

    @property
    def warm_up_rounds(self) -> int:
        """Rounds in which only the judge learns."""
        return -(-self.judge_warmup // WARM_UP_UPDATES) if isinstance(self.feedback, LearningFeedback) else 0


@dataclass
class _Memory:
    """What a run remembers between rounds, beside weights and judge."""

    controller: AdaptiveKL | None
    watch: Watch = field(default_factory=Watch)
    tokens: int = 0
    best: float | None = None
    best_round: int | None = None
    healthy_round: int | None = None
    stopped: str = ""


def train(job: Online, run: Run, progress: Progress) -> dict[str, float]:
    """Train from the newest checkpoint to the end; returns the last figures.

    Raises Diverged when a loss or score is no longer a number, or when collapse is certain and the watch is
    set to stop; Interrupted when the process was asked to end.
    """
    loop = _Loop(job, run)
    done = loop.restore(progress)
    total = job.warm_up_rounds + job.settings.rounds
    clock = Stopwatch()
    last: dict[str, float] = {}
    for number in range(done, total):
        last = loop.round(number)
        last |= clock.lap(last.pop("computed"))
        is_last = number + 1 == total
        if (number + 1) % job.settings.save_every == 0 or is_last:
            last |= loop.evaluate(number + 1)
        if job.machine.is_first:
            run.log({run.clock: number + 1} | last)
        progress.show(number + 1, last)
        loop.attend(number + 1, last, progress)
        if (number + 1) % job.settings.save_every == 0 or is_last or run.is_asked_to_end:
            loop.save(number + 1)
        if loop.memory.stopped:
            break
        if run.is_asked_to_end and not is_last:
            raise Interrupted(f"saved after round {number + 1}")
    loop.finish(progress)
    return last


class _Loop:
    """The rounds of one run."""

    def __init__(self, job: Online, run: Run) -> None:
        self.job, self.run = job, run
        target = job.settings.kl_target
        self.memory = _Memory(AdaptiveKL(beta=job.method.kl, target=target) if target else None)
        asked = dict.fromkeys(needs(job.method.credit) + needs(job.method.loss))
        self.fixed = [n for n in asked if n in ("old_values", "ref_token_logps")]
        self.moving = [n for n in needs(job.method.loss) if n in MOVING]
        self.how = Sampling(max_tokens=job.settings.max_tokens, temperature=job.settings.temperature)

    def round(self, number: int) -> dict[str, float]:
        """Sample, score, train the policy, teach the judge; returns the figures of the round."""
        job = self.job
        rows = self._prompts(number)
        rollout = self._sample(rows, job.settings.seed, number)
        responses = read_out(rollout.batch, job.networks.policy.trunk.tokenizer)
        scores = job.feedback.score(responses).float().to(job.machine.device)
        if not bool(scores.isfinite().all()):
            raise Diverged(f"the judge's scores are not finite in round {number + 1}")
        known = self._known(rollout, scores)
        row = self._describe(rollout, known)
        if number >= job.warm_up_rounds:
            row |= self._improve(rollout.batch, known, number)
            self._adapt(row)
        if isinstance(job.feedback, LearningFeedback):
            row |= job.feedback.learn(responses, updates=WARM_UP_UPDATES if number < job.warm_up_rounds else None)
        if job.machine.is_first and (number % job.settings.save_every == 0 or number + 1 == job.settings.rounds):
            self.run.log_samples(sample_rows(responses, scores, rollout, self.run.clock, number + 1))
        spent = int(rollout.batch.mask.sum()) + int(rollout.batch.prompt_mask.sum())
        self.memory.tokens += int(rollout.batch.mask.sum()) * job.machine.world
        return row | {"tokens": float(self.memory.tokens), "computed": float(spent * job.machine.world)}

    def _prompts(self, number: int) -> list[Row]:
        job = self.job
        count, size = len(job.prompts), job.settings.batch
        chosen: list[Row] = []
        while len(chosen) < size:
            epoch, start = divmod(number * size + len(chosen), count)
            order = rng(job.settings.seed, "prompts", epoch).permutation(count)
            chosen += [job.prompts[i] for i in order[start : start + size - len(chosen)]]
        return job.machine.share(chosen)

    def _sample(self, rows: Sequence[Row], seed: int, number: int) -> Rollout:
        job = self.job
        ranks = [number * job.settings.batch + job.machine.rank + i * job.machine.world for i in range(len(rows))]
        with job.machine.computing():
            return sample(job.networks.policy, [r.prompt for r in rows], job.settings.K, self.how, seed=seed, keys=ranks)

    def _known(self, rollout: Rollout, scores: Tensor) -> dict[str, Tensor]:
        """Everything that stays fixed while the policy is trained on this round."""
        job, batch = self.job, rollout.batch
        known = {"scores": scores, "mask": batch.mask, "old_token_logps": rollout.token_logps}
        parts = []
        with torch.no_grad(), job.machine.computing():
            for start, stop in _parts(batch, job.micro_tokens):
                parts.append(compute(self.fixed, batch.rows(start, stop), job.networks))
        known |= {n: torch.cat([p[n] for p in parts]) for n in self.fixed}
        return known | self._credit(known)

    def _credit(self, known: dict[str, Tensor]) -> dict[str, Tensor]:
        """Credit is given over the whole round, also when several processes hold parts of it."""
        job = self.job
        method = job.method
        if self.memory.controller is not None:
            method = replace(method, kl=self.memory.controller.beta)
        names = needs(method.credit)
        if job.machine.world == 1:
            return method.credit(**{n: known[n] for n in names})
        mine = {n: known[n].cpu() for n in names}
        everyone = job.machine.gather([mine])
        width = known["mask"].shape[-1]
        whole = {n: _stack([part[n] for part in everyone]) for n in names}
        sizes = [len(part[names[0]]) for part in everyone]
        given = method.credit(**whole)
        return {n: v.split(sizes)[job.machine.rank][..., :width].to(job.machine.device) for n, v in given.items()}

    def _improve(self, batch: Batch, known: dict[str, Tensor], number: int) -> dict[str, float]:
        """Make the optimizer steps of one round."""
        job = self.job
        figures: list[dict[str, float]] = []
        for epoch in range(job.settings.epochs):
            order = torch.from_numpy(rng(job.settings.seed, "minibatches", number, epoch).permutation(len(batch)))
            for chosen in order.chunk(job.settings.minibatches):
                figures.append(self._step(batch, known, chosen))
        mean = {n: sum(f[n] for f in figures) / len(figures) for n in figures[0]}
        return mean | {"ratio_max": max(f["ratio_max"] for f in figures), "lr": figures[-1]["lr"]}

    def _step(self, batch: Batch, known: dict[str, Tensor], chosen: Tensor) -> dict[str, float]:
        job = self.job
        names = needs(job.method.loss)
        mine = batch.take(chosen)
        held = {n: v[chosen] for n, v in known.items()}
        furthest, clipped, tokens = 1.0, 0.0, 0.0
        for start, stop in _parts(mine, job.micro_tokens):
            part = mine.rows(start, stop)
            with job.machine.computing():
                now = {n: v[start:stop] for n, v in held.items()} | compute(self.moving, part, job.networks)
                loss = job.method.loss(**{n: now[n] for n in names})
            job.updater.backward(loss, part.where)
            ratio = (now["token_logps"].detach() - now["old_token_logps"])[part.mask].exp()
            furthest = max(furthest, float(ratio.max()))
            clipped += float(((ratio - 1).abs() > getattr(job.method, "clip", float("inf"))).sum())
            tokens += ratio.numel()
        return job.updater.step() | {"ratio_max": furthest, "clip_fraction": clipped / tokens}

    def _describe(self, rollout: Rollout, known: dict[str, Tensor]) -> dict[str, float]:
        """The figures of a round before it is learnt from."""
        mask, scores = rollout.batch.mask, known["scores"]
        row = {"score": float(scores.mean()), "score_std": float(scores.std(correction=0))} | sample_figures(rollout)
        row["cue_length"] = correlation(scores.flatten().cpu(), mask.sum(-1).flatten().cpu())
        if "ref_token_logps" in known:
            ref, old = known["ref_token_logps"], known["old_token_logps"]
            kl = masked_sum(old - ref, mask)
            row |= {"kl": float(kl.mean()), "kl_per_token": float(kl.sum() / mask.sum())}
            row["kl_k3"] = float(masked_sum(kl_k3(old, ref), mask).mean())
            row["reward"] = float((scores - self.price * kl).mean())
            fluency = masked_sum(ref, mask) / mask.sum(-1).clamp(min=1)
            row["cue_fluency"] = correlation(scores.flatten().cpu(), fluency.flatten().cpu())
        if "returns" in known:
            error = (known["returns"] - known["old_values"])[mask]
            row["value_explained"] = 1 - float(error.var() / known["returns"][mask].var().clamp(min=1e-8))
        return row | {"kl_price": self.price}

    @property
    def price(self) -> float:
        return self.memory.controller.beta if self.memory.controller else self.job.method.kl

    def _adapt(self, row: dict[str, float]) -> None:
        if self.memory.controller is not None and "kl" in row:
            self.memory.controller = self.memory.controller.update(row["kl"])

    def evaluate(self, number: int) -> dict[str, float]:
        """Score answers to held-out prompts; meaningless, and so left out, for a judge that moves."""
        job = self.job
        if not job.held_out or isinstance(job.feedback, LearningFeedback):
            return {}
        rows = list(job.held_out[: 4 * job.settings.batch])
        with job.machine.computing():
            rollout = sample(job.networks.policy, [r.prompt for r in rows], 1, self.how, seed=job.settings.seed + 1)
        value = float(job.feedback.score(read_out(rollout.batch, job.networks.policy.trunk.tokenizer)).mean())
        if job.settings.keep_best == "eval_score" and (self.memory.best is None or value > self.memory.best):
            self.memory.best, self.memory.best_round = value, number
        return {"eval_score": value}

    def attend(self, number: int, row: dict[str, float], progress: Progress) -> None:
        """Let the watch look at a round, and act on what it says."""
        warnings, certain = self.memory.watch.look(row)
        for text in warnings:
            progress.say(f"round {number}: {text}")
        if certain and self.job.settings.watch != "warn":
            self.memory.stopped = f"stopped in round {number}: {'; '.join(certain)}"
        elif not warnings and number % self.job.settings.save_every == 0:
            self.memory.healthy_round = number

    def save(self, number: int) -> None:
        """Write the whole state of the run: policy, judge with its replay, controller, watch."""
        if not self.job.machine.is_first:
            return
        memory = self.memory
        state = {
            "updater": self.job.updater.state(),
            "judge": self.job.feedback.state() if isinstance(self.job.feedback, LearningFeedback) else None,
            "kl_price": memory.controller.beta if memory.controller else None,
            "watch": memory.watch.state(),
            "tokens": memory.tokens,
            "best": memory.best,
            "best_round": memory.best_round,
            "healthy_round": memory.healthy_round,
            "stopped": memory.stopped,
        }
        self.run.save(number, state, memory.best_round if memory.best_round is not None else memory.healthy_round)

    def restore(self, progress: Progress) -> int:
        """Put the newest checkpoint back; returns the number of rounds done."""
        done, state, complaints = self.run.restore() if self.job.machine.is_first else self.run.peek()
        for complaint in complaints:
            progress.say(complaint)
        if state is None:
            return done
        memory = self.memory
        self.job.updater.load(state["updater"])
        if isinstance(self.job.feedback, LearningFeedback):
            self.job.feedback.load(state["judge"])
        if memory.controller is not None:
            memory.controller = replace(memory.controller, beta=state["kl_price"])
        memory.watch.load(state["watch"])
        for name in ("tokens", "best", "best_round", "healthy_round", "stopped"):
            setattr(memory, name, state[name])
        return self.job.warm_up_rounds + self.job.settings.rounds if memory.stopped else done

    def finish(self, progress: Progress) -> None:
        """Take the checkpoint that becomes the model. Raises Diverged when the watch was told to stop."""
        memory = self.memory
        if memory.stopped:
            progress.say(memory.stopped)
            back = memory.best_round or memory.healthy_round
            if self.job.settings.watch == "stop" or back is None:
                raise Diverged(f"{memory.stopped}. No model is written; checkpoints are in {self.run.checkpoints}")
            progress.say(f"the model is the checkpoint of round {back}, the last one without a warning")
            self.job.updater.load(self.run.state_at(back)["updater"])
        elif memory.best_round is not None:
            self.job.updater.load(self.run.state_at(memory.best_round)["updater"])


def _parts(batch: Batch, limit: int) -> list[tuple[int, int]]:
    """Split a batch into runs of prompts of at most `limit` padded tokens, a prompt at least."""
    width = batch.prompt_ids.shape[1] + batch.mask.shape[1] * batch.mask.shape[2]
    size = max(1, limit // width)
    return [(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]


def _stack(parts: list[Tensor]) -> Tensor:
    """Join the parts of several processes, whose longest responses may differ."""
    width = max(p.shape[-1] for p in parts) if parts[0].dim() == 3 else 0
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[-1])) if width else p for p in parts])

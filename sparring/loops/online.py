"""The one loop for every method that learns from its own samples.

    prompts -> sample -> score -> reward -> credit -> loss -> step(s) -> the judge learns, if it does

Responses are scored by the judge as it was before it learns from them. The log-probabilities they were
drawn at come from the sampler, which uses the trainer's own weights; there is no second pass for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from sparring.core.errors import Diverged
from sparring.data.batch import Row
from sparring.data.responses import Responses
from sparring.feedback.adversary import one_by_one
from sparring.feedback.bag_of_words import BagOfWords
from sparring.feedback.combine import is_learnt, learners
from sparring.feedback.leaks import leak_sentences
from sparring.feedback.protocol import Feedback
from sparring.loops.answers import Answers
from sparring.loops.before_after import say_again
from sparring.loops.clock import Stopwatch
from sparring.loops.figures import Facts, describe, facts
from sparring.loops.gumbel import RelaxedLearner
from sparring.loops.lag import Lagged
from sparring.loops.learner import Learner
from sparring.loops.order import Order
from sparring.loops.pretrain import Pretraining
from sparring.loops.progress import Progress
from sparring.loops.reward import ask, controller, rewarded
from sparring.loops.run import Run
from sparring.loops.settings import OnlineSettings, RewardSettings
from sparring.loops.watch import Seen, Watch
from sparring.models.machine import Machine
from sparring.models.roles import Network, Networks
from sparring.models.update import Updater
from sparring.rollout.sample import Rollout
from sparring.rollout.store import sample_rows

SHOWN = ("score", "kl", "judge_accuracy_held_out", "entropy", "length", "eval_score", "tokens_per_second")
WARM_UP_UPDATES = 5  # of the judge, on each sampled batch before the policy's first step
EVALUATED = 4  # batches of held-out prompts that an evaluation answers at most


@dataclass(frozen=True, kw_only=True)
class Online:
    """All that a run of this loop is made of; `opponent` loads who answers in a warm-up in place of the policy."""

    method: Any
    prompts: Sequence[Row]
    held_out: Sequence[Row]
    feedback: Feedback
    networks: Networks
    updater: Updater
    machine: Machine
    settings: OnlineSettings
    reward: RewardSettings
    micro_tokens: int
    pretraining: Pretraining | None = None
    lagged: Lagged | None = None
    relaxed: RelaxedLearner | None = None
    judge_warmup: int = 0  # updates
    opponent: Callable[[], Network] | None = None

    @property
    def learner(self) -> Learner | RelaxedLearner:
        """The policy's side of a round."""
        return self.relaxed or Learner(
            method=self.method, networks=self.networks, updater=self.updater, machine=self.machine,
            settings=self.settings, reward=self.reward, micro_tokens=self.micro_tokens, pretraining=self.pretraining,
        )  # fmt: skip

    @property
    def order(self) -> Order:
        """Which prompts a round asks."""
        return Order(len(self.prompts), self.settings.batch, self.settings.seed, "prompts")

    @property
    def warm_up_order(self) -> Order:
        """Which prompts a round of the judge's warm-up asks: the more an opponent answers, the less is got by heart."""
        if self.opponent is None:
            return self.order
        return Order(len(self.prompts), self.settings.batch * self.settings.K, self.settings.seed, "warm-up")

    @property
    def warm_up_rounds(self) -> int:
        """Rounds in which only the judge learns."""
        return -(-self.judge_warmup // WARM_UP_UPDATES) if learners(self.feedback) else 0

    def judge_updates(self, number: int) -> int | None:
        """How often the judge is updated in a round of its warm-up; None afterwards: as its settings say."""
        left = self.judge_warmup - number * WARM_UP_UPDATES
        return min(left, WARM_UP_UPDATES) if number < self.warm_up_rounds else None


@dataclass
class _Memory:
    """What a run remembers between rounds, beside weights, judge, watch and price; plain values only."""

    tokens: int = 0
    best: float | None = None
    best_round: int | None = None
    healthy_round: int = 0  # to begin with the last one before the policy's first step
    stopped: str = ""


def train(job: Online, run: Run, progress: Progress) -> dict[str, float]:
    """Train from the newest checkpoint to the end; returns the last figures.

    Raises Diverged when a loss or score is no longer a number, or when collapse is certain and the watch is
    set to stop; Interrupted when the process was asked to end.
    """
    loop = _Loop(job, run)
    done = loop.restore(progress)
    total = job.warm_up_rounds + job.settings.rounds
    last = run.last_row()
    clock = Stopwatch(spent=last.get("seconds", 0.0))
    if done == 0:
        loop.say_again(0)
        if not job.warm_up_rounds:
            loop.save(0)
    for number in range(done + 1, total + 1):
        if loop.memory.stopped:
            break
        is_marked = number % job.settings.save_every == 0 or number == total
        with run.guarded():
            warms_up, starts = number <= job.warm_up_rounds, number == job.warm_up_rounds + 1
            last = loop.warm_up(number) if warms_up else loop.round(number, keeps_samples=is_marked or starts)
            last |= clock.lap(last.pop("computed"))
            if is_marked:
                last |= loop.evaluate(number)
                loop.say_again(number)
            if job.machine.is_first:
                run.log({run.clock: number} | last)
            job.machine.track(last, number)
            progress.show(number, last)
            loop.attend(number, last, progress)
            ends = job.machine.any(run.is_asked_to_end)
            if is_marked or loop.memory.stopped or ends or number == job.warm_up_rounds:
                loop.save(number)
        if ends and number < total and not loop.memory.stopped:
            raise run.interrupted(number)
    loop.finish(progress)
    return last


class _Loop:
    """The rounds of one run, counted from 1."""

    def __init__(self, job: Online, run: Run) -> None:
        self.job, self.run = job, run
        self.memory = _Memory(healthy_round=job.warm_up_rounds)
        self.watch = Watch(judge_is_learnt=is_learnt(job.feedback))
        self.leaks: list[str] = []
        self.controller = controller(job.method.kl, job.reward, job.settings)
        self.learners = learners(job.feedback)
        self.order, self.warm_up_order, self.learner = job.order, job.warm_up_order, job.learner
        self.answers = Answers(job.networks.policy, job.settings, job.machine, lagged=job.lagged, opponent=job.opponent)

    @property
    def price(self) -> float:
        """What a nat of KL costs now."""
        return self.controller.beta if self.controller else self.job.method.kl

    def warm_up(self, number: int) -> dict[str, float]:
        """Teach the judge before the policy takes a step; returns the figures of the round."""
        rows = self.job.machine.share([self.job.prompts[i] for i in self.warm_up_order.at(number - 1)])
        rollout = self.answers.for_the_judge(rows, number - 1)
        responses = self.answers.read(rollout)
        scores, _ = ask(self.job.feedback, responses, self.job.machine, number)
        found = self._facts(rollout, {"old_token_logps": rollout.token_logps, "scores": scores}, scores)
        return self._teach(number, rollout, responses, found, describe(found, self.price))

    def round(self, number: int, *, keeps_samples: bool) -> dict[str, float]:
        """Sample, score, train the policy, teach the judge; returns the figures of the round."""
        job = self.job
        rows = job.machine.share([job.prompts[i] for i in self.order.at(number - 1)])
        if job.relaxed is not None:
            job.relaxed.follow(number - 1 - job.warm_up_rounds)
        rollout = self.answers.to(rows, number - 1)
        responses = self.answers.read(rollout)
        scores, by_token = ask(job.feedback, responses, job.machine, number)
        learner = self.learner.at(self.price)
        known = learner.known(rollout, rewarded(scores, rollout.stops, job.reward.unfinished), by_token)
        found = self._facts(rollout, known, scores)
        row = describe(found, self.price) | learner.improve(rollout.batch, known, number - 1)
        if self.controller is not None and "kl" in row:
            self.controller = self.controller.update(row["kl"])
        if job.machine.is_first and keeps_samples:
            self.run.log_samples(sample_rows(responses, scores, rollout, self.run.clock, number))
        return self._teach(number, rollout, responses, found, row)

    def _facts(self, rollout: Rollout, known: Mapping[str, Tensor], scores: Tensor) -> list[Facts]:
        return [f for one in self.job.machine.join(facts(rollout, known, scores)) for f in one]

    def _teach(
        self, number: int, rollout: Rollout, responses: Responses, found: Sequence[Facts], row: dict[str, float]
    ) -> dict[str, float]:
        """Let the judges learn from a round; returns its figures with theirs, and what was spent on it."""
        job = self.job
        for judge in self.learners:
            learnt = judge.learn(responses, updates=job.judge_updates(number - 1))
            is_beside = len(self.learners) > 1 and isinstance(judge, BagOfWords)
            row |= {n.replace("judge_", "words_") if is_beside else n: x for n, x in learnt.items()}
        # What gives samples away is looked for in the policy's own.
        if self.learners and number == max(1, job.warm_up_rounds + (job.opponent is not None)):
            fresh = [r for one in job.machine.join(one_by_one(responses)) for r in one]
            self.leaks = leak_sentences(job.prompts, fresh, row, job.networks.policy.trunk.tokenizer)
        self.memory.tokens += sum(len(f.tokens) for f in found)
        spent = sum(len(f.tokens) for f in found) + int(rollout.batch.prompt_mask.sum()) * job.machine.world
        return row | {"tokens": float(self.memory.tokens), "computed": float(spent)}

    def evaluate(self, number: int) -> dict[str, float]:
        """Score answers to held-out prompts; meaningless, and so left out, for a judge that moves."""
        job = self.job
        if not job.held_out or self.learners:
            return {}
        places = job.machine.share(list(range(min(len(job.held_out), EVALUATED * job.settings.batch))))
        counted = {}
        if places:
            rollout = self.answers.once([job.held_out[i] for i in places], places)
            with job.machine.computing():
                scores = job.feedback.score(self.answers.read(rollout))
            counted = {"eval_score": (float(scores.double().sum()), float(len(places)))}
        top, bottom = job.machine.sum_tally(counted)["eval_score"]
        value = top / bottom
        if job.settings.keep_best == "eval_score" and (self.memory.best is None or value > self.memory.best):
            self.memory.best, self.memory.best_round = value, number
        return {"eval_score": value}

    def say_again(self, number: int) -> None:
        """Note what the policy says after a round to the prompts that it was asked at the start."""
        job = self.job
        if job.machine.is_first:
            with job.machine.computing():
                said = say_again(job.networks.policy, job.held_out or job.prompts, self.answers.how, job.settings.seed)
            self.run.log_before_after(number, said)

    def attend(self, number: int, row: dict[str, float], progress: Progress) -> None:
        """Let the watch look at a round, and act on what it says."""
        seen = self.watch.look(row) if number > self.job.warm_up_rounds else Seen([], [], [])
        for text in [*self.leaks, *seen.remarks, *seen.warnings, *seen.certain]:
            progress.say(f"round {number}: {text}")
        self.leaks = []
        if seen.certain and self.job.settings.watch != "warn":
            self.memory.stopped = f"stopped in round {number}: {'; '.join(seen.certain)}"
        elif not seen.warnings and not seen.certain and (number - 1) % self.job.settings.save_every == 0:
            self.memory.healthy_round = max(number - 1, self.memory.healthy_round)  # whose policy spoke just now

    def save(self, number: int) -> None:
        """Write the whole state of the run: policy, judge with its replay, price, watch."""
        if not self.job.machine.is_first:
            return
        state = {
            "updater": self.job.updater.state(),
            "judges": [judge.state() for judge in self.learners],
            "kl_price": self.price,
            "masker": self.job.lagged.state() if self.job.lagged else {},
            "watch": self.watch.state(),
            "memory": asdict(self.memory),
        }
        self.run.save(number, state, self.memory.best_round or self.memory.healthy_round)

    def restore(self, progress: Progress) -> int:
        """Put the newest checkpoint back; returns the number of rounds done."""
        done, state, complaints = self.run.restore(cuts_back=self.job.machine.is_first)
        for complaint in complaints:
            progress.say(complaint)
        if state is not None:
            self._take(state)
            if self.controller is not None:
                self.controller = replace(self.controller, beta=state["kl_price"])
            if self.job.lagged is not None:
                self.job.lagged.load(state["masker"])
            self.watch.load(state["watch"])
            self.memory = _Memory(**state["memory"])
        return done

    def _take(self, state: Mapping[str, Any]) -> None:
        """Take policy and judge from a checkpoint."""
        self.job.updater.load(state["updater"])
        for judge, kept in zip(self.learners, state["judges"], strict=True):
            judge.load(kept)

    def finish(self, progress: Progress) -> None:
        """Take the checkpoint that becomes the model. Raises Diverged when the watch was told to stop."""
        memory, back = self.memory, self.memory.best_round
        if memory.stopped:
            progress.say(memory.stopped)
            back = back or memory.healthy_round
            if self.job.settings.watch == "stop":
                raise Diverged(f"{memory.stopped}. No model is written; checkpoints are in {self.run.checkpoints}")
            start = ", before its first step: it is what it was" if back <= self.job.warm_up_rounds else ""
            progress.say(f"the model is the checkpoint of round {back}{start}")
        self.job.machine.wait()  # until that checkpoint has been written
        if back is not None:
            self._take(self.run.state_at(back))

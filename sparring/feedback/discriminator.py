"""A judge that learns to tell demonstrations from the policy's own responses: the heart of RLGAF.

    bce:  L_D = [ -log sigmoid(s(real)) - log sigmoid(-s(fake)) ] / 2
    bt:   L_D = -log sigmoid( s(real) - s(fake) ),  both for the same prompt where there are such
    ls:   L_D = [ (s(real) - 1)^2 + (s(fake) + 1)^2 ] / 4

    reward of a response:   logit  s      norm  sigmoid(s) - 1/2      logsig  log sigmoid(s)

Fakes are the policy's fresh responses, its earlier ones (so that the judge does not forget what it has
seen through), and, when given, real texts of the unwanted kind. A share of the demonstrations is never
learnt from: on them, against fresh responses to their prompts, held-out accuracy is measured. While that
is above the gate the judge rests, for a judge that always wins teaches nothing.

Source: Yu et al. 2023, arXiv:2305.06176, table 1; pairs as in GAD, arXiv:2511.10643;
least squares: Mao et al. 2017, arXiv:1611.04076.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from sparring.core.loss import Loss, Tally, add, figures, per_prompt
from sparring.core.seeds import rng
from sparring.data.batch import Batch, Row
from sparring.data.responses import Responses
from sparring.feedback.adversary import REWARDS, Demonstrations, Terms, one_by_one, pick, sides
from sparring.feedback.reward_model import score_in_parts, score_texts
from sparring.models.signals import Network, score
from sparring.models.update import Updater

BUFFER = 512  # earlier responses that are remembered
MEMORY = 0.8  # how much of the held-out figure comes from earlier rounds


@runtime_checkable
class Settings(Protocol):
    """What the judge needs to be told, ready-made by `loops.settings.DiscriminatorSettings`."""

    @property
    def judge_loss(self) -> str:
        """Bce, bt or ls."""
        ...

    @property
    def judge_steps(self) -> int:
        """Updates in one round."""
        ...

    @property
    def judge_batch(self) -> int:
        """Demonstrations in one update, each with a fake."""
        ...

    @property
    def gate(self) -> float:
        """Held-out accuracy above which the judge rests."""
        ...

    @property
    def label_smoothing(self) -> float:
        """How far targets stay from 0 and 1."""
        ...

    @property
    def replay(self) -> float:
        """Share of fakes from earlier rounds."""
        ...


class Discriminator:
    """A scalar head on a language model of its own (or an adapter of its own), with its own optimizer."""

    def __init__(
        self,
        network: Network,
        updater: Updater,
        data: Demonstrations,
        settings: Settings,
        terms: Terms,
        *,
        seed: int,
        micro_tokens: int,
    ) -> None:
        self.network, self.updater, self.data, self.settings, self.terms = network, updater, data, settings, terms
        self.seed, self.micro_tokens = seed, micro_tokens
        self._by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in data.real:
            self._by_prompt.setdefault(row.prompt, []).append(row)
        # A prompt is kept from the judge when all its demonstrations are; without prompts only texts can be.
        self._known_out = {row.prompt for row in data.held_out}
        self._kept_out = self._known_out - self._by_prompt.keys()
        self._buffer: list[Row] = []
        self._calls = 0
        self._right = {"real": (0.0, 0.0), "fake": (0.0, 0.0)}

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response by the reward form in use; larger means more like a demonstration."""
        return REWARDS[self.terms.reward](self.logits(responses))

    def logits(self, responses: Responses) -> Float[Tensor, "B K"]:
        """The judge's own number: the log-odds, as it believes, that the response is a demonstration."""
        return score_in_parts(self.network, responses.batch, self.micro_tokens)

    def differentiable_score(self, batch: Batch, relaxed: Float[Tensor, "N V"]) -> Float[Tensor, "B K"]:
        """Score responses in relaxed tokens, which come in the order of the mask; a gradient reaches nothing else."""
        with self.network.standing_still():
            return REWARDS[self.terms.reward](score(self.network, batch, relaxed))

    @property
    def held_out_accuracy(self) -> float:
        """The share of held-out demonstrations and fresh responses told apart lately; 0.5 before any."""
        shares = [top / bottom for top, bottom in self._right.values() if bottom]
        return sum(shares) / len(shares) if shares else 0.5

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Learn from a round of responses and return figures; rests when the held-out accuracy passes the gate.

        Several processes put their responses together first and draw alike, so all learn the same.
        """
        fresh = [row for one in self.updater.machine.join(one_by_one(fake)) for row in one]
        draw = rng(self.seed, "judge", self._calls)
        self._calls += 1
        row = self._watch(fresh, draw)
        mine = [r for r in fresh if r.prompt not in self._kept_out]
        steps = self.settings.judge_steps if updates is None else updates
        if self.held_out_accuracy > self.settings.gate or not mine:
            steps = 0
        for _ in range(steps):
            row |= self._update(mine, draw)
        self._remember(mine, draw)
        return row | {"judge_accuracy_held_out": self.held_out_accuracy, "judge_steps": float(steps)}

    def _update(self, fresh: list[Row], draw: Any) -> dict[str, float]:
        settings, machine = self.settings, self.updater.machine
        fakes = [self._fake(fresh, draw) for _ in range(settings.judge_batch)]
        pairs = machine.share([(self._partner(f, draw), f) for f in fakes])
        size = max(1, self.micro_tokens // (2 * max((r.tokens for pair in pairs for r in pair), default=1)))
        counted: list[Tally] = []
        for start in range(0, len(pairs), size):
            real, false = self._logits(pairs[start : start + size])
            loss = judge_loss(real, false, settings.judge_loss, settings.label_smoothing)
            self.updater.backward(loss, tuple(f"{r.where} against {f.where}" for r, f in pairs[start : start + size]))
            losses = {"judge_loss_real": softplus(-real), "judge_loss_fake": softplus(false)}
            counted.append(_count(losses | _told_apart(real, false)))
        seen, step = figures(machine.sum_tally(add(counted))), self.updater.step()
        accuracy = (seen.pop("real") + seen.pop("fake")) / 2
        return seen | {"judge_accuracy": accuracy, "judge_loss": step["loss"], "judge_grad_norm": step["grad_norm"]}

    def _logits(self, pairs: Sequence[tuple[Row, Row]]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Score pairs of a demonstration and a fake."""
        rows = [real for real, _ in pairs] + [fake for _, fake in pairs]
        with self.updater.machine.computing():
            real, fake = score_texts(self.network, rows).chunk(2)
        return real, fake

    def _fake(self, fresh: list[Row], draw: Any) -> Row:
        """One unwanted text: of the unwanted kind, from the past, or fresh."""
        if self.data.unwanted and draw.random() < self.terms.negatives_share:
            return pick(self.data.unwanted, draw)
        if self._buffer and draw.random() < self.settings.replay:
            return pick(self._buffer, draw)
        return pick(fresh, draw)

    def _partner(self, fake: Row, draw: Any) -> Row:
        """A demonstration of the same prompt, so that the prompt itself gives nothing away; else any."""
        return pick(self._by_prompt.get(fake.prompt) or self.data.real, draw)

    def _remember(self, fresh: list[Row], draw: Any) -> None:
        for row in fresh:
            if len(self._buffer) < BUFFER:
                self._buffer.append(row)
            elif draw.random() < 0.5:
                self._buffer[int(draw.integers(BUFFER))] = row

    @torch.no_grad()
    def _watch(self, fresh: list[Row], draw: Any) -> dict[str, float]:
        """Measure on what the judge has not learnt from: held-out demonstrations, fresh responses to their prompts."""
        machine, counted = self.updater.machine, []
        fakes = [r for r in fresh if r.prompt in self._known_out][: self.settings.judge_batch]
        pairs = machine.share([(pick(self.data.held_out, draw), f) for f in fakes])
        size = max(1, self.micro_tokens // (2 * max((r.tokens for pair in pairs for r in pair), default=1)))
        for start in range(0, len(pairs), size):
            real, fake = self._logits(pairs[start : start + size])
            counted.append(_count({"judge_score_real": real, "judge_score_fake": fake} | _told_apart(real, fake)))
        total = machine.sum_tally(add(counted))
        for name, (top, bottom) in self._right.items():
            right, number = total.pop(name, (0.0, 0.0))
            self._right[name] = (MEMORY * top + right, MEMORY * bottom + number)
        return figures(total)

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer, remembered responses and the figures that the gate looks at."""
        buffer = [(r.prompt, r.responses[0], r.where) for r in self._buffer]
        return {"updater": self.updater.state(), "buffer": buffer, "calls": self._calls, "right": dict(self._right)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.updater.load(state["updater"])
        self._buffer = [Row(prompt=tuple(p), responses=(tuple(y),), where=w) for p, y, w in state["buffer"]]
        self._calls, self._right = state["calls"], {n: tuple(x) for n, x in state["right"].items()}


def judge_loss(real: Float[Tensor, " B"], fake: Float[Tensor, " B"], form: str, smoothing: float) -> Loss:
    """Give the judge's loss for pairs of logits; `smoothing` is how far the targets stay from 0 and 1."""

    def towards(s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1 - smoothing) * softplus(-s) + smoothing * softplus(s)

    if form == "bt":
        return per_prompt(towards(real - fake))
    if form == "ls":
        target = 1 - 2 * smoothing
        return per_prompt(((real - target).square() + (fake + target).square()) / 4)
    return per_prompt((towards(real) + towards(-fake)) / 2)


def _told_apart(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> dict[str, Float[Tensor, " B"]]:
    """Whether logits are on the right side of zero."""
    return {"real": sides(real), "fake": sides(-fake)}


def _count(columns: Mapping[str, Float[Tensor, " B"]]) -> Tally:
    """Sum figures that there is one of for each pair."""
    return {n: (float(x.detach().double().sum()), float(len(x))) for n, x in columns.items()}

"""A judge that learns to tell demonstrations from the policy's own responses: the heart of RLGAF.

What it sees is one of three things, and its loss one of four (judge_loss.py):

    one         a response: s(x, y) is the log-odds, as it believes, that y is a demonstration
    prefix      every prefix of a response. At best s(x, y_<=t) = log p_data(y_<=t) / pi(y_<=t), and a token is
                paid what it changed: s(x, y_<=t) - s(x, y_<t). These add up to s(x, y), as AIRL's rewards do.
    pair        a response beside a demonstration of its prompt: s(x, y) = [ g(x, demo, y) - g(x, y, demo) ] / 2, g the
                belief that the second one is the demonstration. Exchange the two, and s changes its sign.

    reward of a response:   logit  s      norm  sigmoid(s) - 1/2      logsig  log sigmoid(s)
                            tie    P(called the demonstration) + 0.6 P(tie)

Paying s(x, y_<=t) itself to every token would pay early ones again and again, and for length while it is above 0.

Fakes are the policy's fresh responses, its earlier ones (so that the judge does not forget what it has
seen through), and, when given, real texts of the unwanted kind. A share of the demonstrations is never
learnt from: on them, against fresh responses to their prompts, held-out accuracy is measured. While that
is above the gate the judge rests, for a judge that always wins teaches nothing.

Source: Yu et al. 2023, arXiv:2305.06176, table 1; pairs as in GAD, arXiv:2511.10643, read together and with ties as in
RARO, arXiv:2511.21667; token by token as in arXiv:2510.01857, after AIRL, Fu et al. 2018, arXiv:1710.11248.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from sparring.core.loss import Loss, Tally, add, figures
from sparring.core.seeds import rng
from sparring.data.batch import Batch, Row
from sparring.data.responses import Responses
from sparring.feedback.adversary import (
    REWARDS,
    Demonstrations,
    Terms,
    by_prompt,
    count,
    one_by_one,
    pick,
    spoilt,
    told_apart,
)
from sparring.feedback.beside import ahead
from sparring.feedback.judge_loss import judge_loss, loss_so_far, standing
from sparring.feedback.level import centre, level_of, set_level
from sparring.feedback.recent import Recent
from sparring.feedback.reward_model import score_in_parts, score_texts
from sparring.models.heads import at_end
from sparring.models.roles import Network
from sparring.models.signals import score, score_prefixes
from sparring.models.update import Updater

BUFFER = 512  # earlier responses that are remembered
LEVELLED = 64  # responses of a round that say what a token is worth


@runtime_checkable
class Settings(Protocol):
    """What the judge needs to be told, ready-made by `loops.settings.DiscriminatorSettings`."""

    @property
    def judge_loss(self) -> str:
        """Bce, ls, bt or tie."""
        ...

    @property
    def judge_sees(self) -> str:
        """One, prefix or pair."""
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

    @property
    def judge_spoilt(self) -> float:
        """Share of the fakes that are demonstrations with a few tokens changed."""
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
        self._by_prompt, self._kept = by_prompt(data.real), by_prompt(data.held_out)
        self._beside = by_prompt([*data.real, *data.held_out])
        # A prompt is kept from the judge when all its demonstrations are; without prompts only texts can be.
        self._kept_out = self._kept.keys() - self._by_prompt.keys()
        self._unwanted = [row for row in data.unwanted if row.prompt not in self._kept_out]
        self._buffer: list[Row] = []
        self._calls = 0
        self._recent = Recent()

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response by the reward form in use; larger means more like a demonstration."""
        return REWARDS[self.terms.reward](self.logits(responses))

    def score_tokens(self, responses: Responses) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K T"] | None]:
        """Score each response, and give each token what it changed, where prefixes are judged."""
        if self.settings.judge_sees != "prefix":
            return self.score(responses), None
        form, mask = REWARDS[self.terms.reward], responses.batch.mask
        s = self._prefixes(responses)
        worth, start = form(s), form(torch.zeros_like(s[..., :1]))
        earned = (worth - torch.cat([start, worth[..., :-1]], -1)).where(mask, 0.0)
        return start[..., 0] + earned.sum(-1), earned

    def logits(self, responses: Responses) -> Float[Tensor, "B K"]:
        """The judge's own number: the log-odds, as it believes, that the response is a demonstration."""
        if self.settings.judge_sees == "prefix":
            return at_end(self._prefixes(responses), responses.batch.mask)
        if self.settings.judge_sees == "pair":
            return self._beside_demonstrations(responses)
        return score_in_parts(self.network, responses.batch, self.micro_tokens)

    def _prefixes(self, responses: Responses) -> Float[Tensor, "B K T"]:
        return score_in_parts(self.network, responses.batch, self.micro_tokens, score_prefixes)

    @torch.no_grad()
    def _beside_demonstrations(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Set all responses to a prompt beside the same demonstration, of the prompt if there is one."""
        draw, exists = rng(self.seed, "beside", self._calls), responses.batch.exists
        pairs = []
        for rows in one_by_one(responses):
            if rows:
                other = pick(self._beside.get(rows[0].prompt) or self.data.real, draw)
                pairs += [(other, row) for row in rows]
        parts = [ahead(self.network, pairs[start:stop]) for start, stop in self._parts(pairs)]
        out = torch.zeros(exists.shape, device=exists.device)
        return out.masked_scatter(exists, -torch.cat(parts)) if parts else out

    def differentiable_score(self, batch: Batch, relaxed: Float[Tensor, "N V"]) -> Float[Tensor, "B K"]:
        """Score responses in relaxed tokens, which come in the order of the mask; a gradient reaches nothing else."""
        with self.network.standing_still():
            return REWARDS[self.terms.reward](score(self.network, batch, relaxed))

    @property
    def held_out_accuracy(self) -> float:
        """The share of held-out demonstrations and fresh responses told apart lately; 0.5 before any."""
        return self._recent.held_out

    def learn(self, fake: Responses, *, updates: int | None = None) -> dict[str, float]:
        """Learn from a round of responses and return figures; rests when the held-out accuracy passes the gate.

        Several processes put their responses together first and draw alike, so all learn the same.
        """
        fresh = [row for one in self.updater.machine.join(one_by_one(fake)) for row in one]
        draw = rng(self.seed, "judge", self._calls)
        self._calls += 1
        row = self._watch(fresh, draw)
        centre(self.network, fresh[:LEVELLED], self._parts, self.updater.machine)
        mine = [r for r in fresh if r.prompt not in self._kept_out]
        steps = self.settings.judge_steps if updates is None else updates
        if self.held_out_accuracy > self.settings.gate or not mine:
            steps = 0
        for _ in range(steps):
            row |= self._update(mine, draw)
        if steps:
            self._recent.add("learnt", row["judge_accuracy"], 1.0)
        self._remember(mine, draw)
        known = {"judge_accuracy_held_out": self.held_out_accuracy, "judge_by_heart": self._recent.by_heart}
        return row | known | {"judge_steps": float(steps)}

    def _update(self, fresh: list[Row], draw: Any) -> dict[str, float]:
        settings, machine = self.settings, self.updater.machine
        fakes = [self._fake(fresh, draw) for _ in range(settings.judge_batch)]
        pairs = machine.share([(self._partner(f, draw), f) for f in fakes])
        counted: list[Tally] = []
        for start, stop in self._parts(pairs):
            real, false, loss = self._lesson(pairs[start:stop])
            self.updater.backward(loss, tuple(f"{r.where} against {f.where}" for r, f in pairs[start:stop]))
            real, false = standing(real, false, settings.judge_loss)
            losses = {"judge_loss_real": softplus(-real), "judge_loss_fake": softplus(false)}
            counted.append(count(losses | told_apart(real, false)))
        seen, step = figures(machine.sum_tally(add(counted))), self.updater.step()
        accuracy = (seen.pop("real") + seen.pop("fake")) / 2
        return seen | {"judge_accuracy": accuracy, "judge_loss": step["loss"], "judge_grad_norm": step["grad_norm"]}

    def _lesson(self, pairs: Sequence[tuple[Row, Row]]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Loss]:
        """Score pairs of a demonstration and a fake, and say what is to become smaller."""
        form, smoothing = self.settings.judge_loss, self.settings.label_smoothing
        if self.settings.judge_sees != "prefix":
            real, fake = self._logits(pairs)
            return real, fake, judge_loss(real, fake, form, smoothing)
        rows = [real for real, _ in pairs] + [fake for _, fake in pairs]
        with self.updater.machine.computing():
            found = score_texts(self.network, rows, score_prefixes)
        ends = torch.tensor([len(row.responses[0]) for row in rows], device=found.device)
        real, fake = found.chunk(2)
        of_real, of_fake = (torch.arange(found.shape[1], device=found.device) < ends[:, None]).chunk(2)
        loss = loss_so_far(real, fake, (of_real, of_fake), form, smoothing)
        return at_end(real, of_real), at_end(fake, of_fake), loss

    def _logits(self, pairs: Sequence[tuple[Row, Row]]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Score pairs of a demonstration and a fake; of two that are seen together each has half the difference."""
        with self.updater.machine.computing():
            if self.settings.judge_sees == "pair":
                gap = ahead(self.network, pairs)
                return gap / 2, -gap / 2
            real, fake = score_texts(self.network, [r for r, _ in pairs] + [f for _, f in pairs]).chunk(2)
        return real, fake

    def _parts(self, pairs: Sequence[tuple[Row, Row]]) -> list[tuple[int, int]]:
        """Split pairs into parts of about `micro_tokens`; of two that are seen together each is read twice."""
        reads = 4 if self.settings.judge_sees == "pair" else 2
        size = max(1, self.micro_tokens // (reads * max((r.tokens for pair in pairs for r in pair), default=1)))
        return [(start, min(start + size, len(pairs))) for start in range(0, len(pairs), size)]

    def _fake(self, fresh: list[Row], draw: Any) -> Row:
        """One unwanted text: of the unwanted kind, a spoilt demonstration, from the past, or fresh."""
        if self._unwanted and draw.random() < self.terms.negatives_share:
            return pick(self._unwanted, draw)
        if self.settings.judge_spoilt and draw.random() < self.settings.judge_spoilt:
            bad = spoilt(pick(self.data.real, draw), self.data.real, draw)
            if bad is not None:
                return bad
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
        fakes = [r for r in fresh if r.prompt in self._kept][: self.settings.judge_batch]
        pairs = machine.share([(pick(self._kept[f.prompt], draw), f) for f in fakes])
        for start, stop in self._parts(pairs):
            real, fake = self._logits(pairs[start:stop])
            seen = told_apart(*standing(real, fake, self.settings.judge_loss))
            counted.append(count({"judge_score_real": real, "judge_score_fake": fake} | seen))
        total = machine.sum_tally(add(counted))
        for name in ("real", "fake"):
            self._recent.add(name, *total.pop(name, (0.0, 0.0)))
        return figures(total)

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer, remembered responses and the figures that the gate looks at."""
        buffer = [(r.prompt, r.responses[0], r.where) for r in self._buffer]
        return {
            "updater": self.updater.state(), "buffer": buffer, "calls": self._calls, "right": self._recent.state(),
            "level": level_of(self.network),
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.updater.load(state["updater"])
        self._buffer = [Row(prompt=tuple(p), responses=(tuple(y),), where=w) for p, y, w in state["buffer"]]
        set_level(self.network, state["level"])
        self._calls = state["calls"]
        self._recent.load(state["right"])

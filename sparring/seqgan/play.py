"""The three stages, one round at a time, and everything that they change."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.core.credit import leave_one_out
from sparring.core.seeds import derive, generator
from sparring.seqgan.credit import policy_loss, values
from sparring.seqgan.discriminator import Discriminator
from sparring.seqgan.generator import Generator, mask_of
from sparring.seqgan.settings import GameSettings, GeneratorSettings, JudgeSettings, LoopSettings
from sparring.seqgan.task import Task

START_SPREAD = 0.1  # of the generator's weights
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings of everything but the task."""

    generator: GeneratorSettings
    judge: JudgeSettings
    game: GameSettings
    loop: LoopSettings

    def stages(self) -> dict[str, int]:
        """The stages in their order, with their rounds; without a discriminator nothing is taught to it."""
        asks = self.game.credit == "discriminator"
        return {
            "mle": self.game.mle_epochs, "judge": self.game.judge_warmup if asks else 0, "game": self.game.rounds,
        }  # fmt: skip


class Players:
    """Generator, its roll-out policy, discriminator, and their optimizers."""

    def __init__(self, task: Task, rules: Rules, device: torch.device) -> None:
        self.task, self.rules = task, rules
        self.seed, self.device = rules.loop.seed, device
        own, judge, length = rules.generator, rules.judge, task.train.shape[1]
        self.writer = Generator(
            task.vocabulary, own.embedding, own.hidden, spread=START_SPREAD, draw=self._stream("writer")
        ).to(device)
        self.judge = Discriminator(
            task.vocabulary, length, judge.judge_embedding, judge.filters, judge.keep, draw=self._stream("judge")
        ).to(device)
        self.policy = copy.deepcopy(self.writer)
        self._fresh_optimizer()
        self.judge_optimizer = torch.optim.Adam(self.judge.parameters(), lr=judge.judge_lr)
        self.train = task.train.to(device)

    def play(self, stage: str, number: int) -> Figures:
        """Make one round of a stage, counted from 1 within it."""
        return {"mle": self.imitate, "judge": self.teach, "game": self.spar}[stage](number)

    def imitate(self, number: int) -> Figures:
        """Go through the real sequences once by maximum likelihood."""
        total = 0.0
        parts = self._batches(len(self.train), "mle", number)
        for part in parts:
            real = self.train[part]
            loss = -self.writer.token_logps(real)[mask_of(real, has_end=self.task.has_end)].mean()
            self._step_writer(loss)
            total += float(loss.detach())
        return {"loss": total / len(parts)}

    def teach(self, number: int, *where: int) -> Figures:
        """Show the discriminator one set of fresh fakes and as many real sequences, some passes over."""
        fakes = self.sample(len(self.train), "fakes", number, *where)
        both = torch.cat([self.train, fakes])
        is_real = (torch.arange(len(both), device=self.device) < len(self.train)).long()
        drops = self._stream("dropout", number, *where)
        total = right = 0.0
        for epoch in range(self.rules.game.judge_epochs):
            total = right = 0.0  # the last pass is what is told
            for part in self._batches(len(both), "judge", number, *where, epoch):
                logits = self.judge(both[part], drops)
                loss = F.cross_entropy(logits, is_real[part])
                self.judge_optimizer.zero_grad(set_to_none=True)
                (loss + self.rules.judge.l2 * self.judge.size()).backward()
                self.judge_optimizer.step()
                total += float(loss.detach()) * len(part)
                right += float((logits.argmax(-1) == is_real[part]).sum())
        return {"loss_d": total / len(both), "accuracy_d": right / len(both)}

    def spar(self, number: int) -> Figures:
        """Make one step of the generator, let the roll-out policy follow, and teach the discriminator."""
        if number == 1:
            self._fresh_optimizer()
            self.policy.load_state_dict(self.writer.state_dict())
        game = self.rules.game
        tokens = self.sample(self.rules.loop.batch, "samples", number)
        mask = mask_of(tokens, has_end=self.task.has_end)
        credit = self._credit(tokens, number)
        paid = leave_one_out(credit.T).T if game.baseline == "others" else credit
        loss = policy_loss(self.writer.token_logps(tokens), paid, mask)
        self._step_writer(loss)
        self._follow()
        figures = {"loss": float(loss.detach() / mask.sum()), "reward": float(credit[:, -1].mean())}
        if game.credit == "discriminator":
            for one in range(game.judge_sets):
                figures |= self.teach(number, one)
        return figures

    def sample(self, rows: int, *names: str | int) -> Int[Tensor, "B T"]:
        """Let the generator write."""
        length = self.train.shape[1]
        return self.writer.sample(rows, length, self._stream(*names), has_end=self.task.has_end)

    def score(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, " N"]:
        """What whole sequences earn: the discriminator's probability, or 1 in the control."""
        if self.rules.game.credit == "constant":
            return torch.ones(len(tokens), device=self.device)
        return self.judge.score(tokens)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _credit(self, tokens: Int[Tensor, "B T"], number: int) -> Float[Tensor, "B T"]:
        if self.rules.game.credit == "constant":
            return self.score(tokens)[:, None].expand(tokens.shape)  # whatever is rolled out, its mean is known
        stream, N = self._stream("rollouts", number), self.rules.game.rollouts
        return values(self.score, self.policy, tokens, N, stream, has_end=self.task.has_end)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the roll-out policy towards the generator; the embeddings are taken over, as the authors do."""
        for (name, old), new in zip(self.policy.named_parameters(), self.writer.parameters(), strict=True):
            old.lerp_(new, 1.0 if name == "embedding" else 1 - self.rules.game.lag)

    def _step_writer(self, loss: Float[Tensor, ""]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.writer.parameters(), self.rules.generator.max_grad_norm)
        self.optimizer.step()

    def _fresh_optimizer(self) -> None:
        self.optimizer = torch.optim.Adam(self.writer.parameters(), lr=self.rules.generator.lr)

    def _batches(self, count: int, *names: str | int) -> tuple[Int[Tensor, " N"], ...]:
        order = torch.randperm(count, generator=self._stream("order", *names))
        return order.to(self.device).split(self.rules.loop.batch)

    def _stream(self, *names: str | int) -> torch.Generator:
        return generator(derive(self.seed, "seqgan"), *names)

    def _parts(self) -> dict[str, Any]:
        return {
            "writer": self.writer, "policy": self.policy, "judge": self.judge,
            "optimizer": self.optimizer, "judge_optimizer": self.judge_optimizer,
        }  # fmt: skip

"""Who answers the prompts of a round: the policy; or another model, whom a judge meets first."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sparring.core.seeds import derive
from sparring.data.batch import Row
from sparring.data.responses import Responses, read_out
from sparring.loops.lag import Lagged
from sparring.loops.settings import OnlineSettings
from sparring.models.machine import Machine
from sparring.models.roles import Network
from sparring.rollout.nucleus import Masker
from sparring.rollout.sample import Rollout, Sampling, sample


class Answers:
    """Samples responses; every prompt has a random stream of its own, by its place in the run.

    `opponent` loads whoever answers while a judge warms up, if it is not the policy. It is dropped after that, so that
    a run holds one more model only while that one speaks.
    """

    def __init__(
        self,
        policy: Network,
        settings: OnlineSettings,
        machine: Machine,
        *,
        lagged: Lagged | None = None,
        opponent: Callable[[], Network] | None = None,
    ) -> None:
        self.policy, self.settings, self.machine, self.lagged = policy, settings, machine, lagged
        self.how = Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature)
        self._load, self._opponent = opponent, None

    def for_the_judge(self, rows: Sequence[Row], number: int) -> Rollout:
        """Answer the prompts of a round of its warm-up, counted from 0: once each if it is the opponent who answers."""
        if self._load is None:
            return self.to(rows, number)
        self._opponent = self._opponent or self._load()
        count, seed = self.settings.batch * self.settings.K, derive(self.settings.seed, "warm-up")
        return self._answer(self._opponent, rows, 1, self._keys(rows, number * count), seed)

    def to(self, rows: Sequence[Row], number: int) -> Rollout:
        """Let the policy answer the prompts of a round, counted from 0, K times each."""
        self._opponent = None
        if self.lagged is not None:
            self.lagged.follow(number)
        keys, masker = self._keys(rows, number * self.settings.batch), self.lagged.masker if self.lagged else None
        return self._answer(self.policy, rows, self.settings.K, keys, self.settings.seed, masker)

    def once(self, rows: Sequence[Row], places: Sequence[int]) -> Rollout:
        """Let the policy answer held-out prompts, known by their places, once each."""
        return self._answer(self.policy, rows, 1, places, derive(self.settings.seed, "evaluation"))

    def read(self, rollout: Rollout) -> Responses:
        """Put tokens into words."""
        return read_out(rollout.batch, self.policy.trunk.tokenizer)

    def _keys(self, rows: Sequence[Row], first: int) -> list[int]:
        """The places of this process's share of the prompts, `first` being that of the first of all."""
        return [first + self.machine.rank + i * self.machine.world for i in range(len(rows))]

    def _answer(
        self,
        speaker: Network,
        rows: Sequence[Row],
        K: int,
        keys: Sequence[int],
        seed: int,
        masker: Masker | None = None,
    ) -> Rollout:
        with self.machine.computing():
            rollout = sample(speaker, [r.prompt for r in rows], K, self.how, seed=seed, keys=list(keys), masker=masker)
        return replace(rollout, batch=rollout.batch.answering(rows))

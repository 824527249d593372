"""Who answers the prompts of a round: the policy; or another model, whom a judge meets first."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sparring.core.seeds import derive
from sparring.data.batch import Row
from sparring.loops.lag import Lagged
from sparring.loops.settings import OnlineSettings
from sparring.models.machine import Machine
from sparring.models.roles import Network
from sparring.rollout.sample import Rollout, Sampling, sample


class Answers:
    """Samples responses; every prompt has a random stream of its own, by its place in the run.

    `opponent` loads whoever answers in the first `opponent_rounds`. It is dropped after them, so that a run holds one
    more model only while that one speaks.
    """

    def __init__(
        self,
        policy: Network,
        settings: OnlineSettings,
        machine: Machine,
        *,
        lagged: Lagged | None = None,
        opponent: Callable[[], Network] | None = None,
        opponent_rounds: int = 0,
    ) -> None:
        self.policy, self.settings, self.machine, self.lagged = policy, settings, machine, lagged
        self.how = Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature)
        self.opponent_rounds = opponent_rounds
        self._load, self._opponent = opponent, None

    def by_opponent(self, number: int) -> bool:
        """Tell whether the policy is silent in a round, counted from 0."""
        return number < self.opponent_rounds

    def to(self, rows: Sequence[Row], number: int) -> Rollout:
        """Answer the prompts of a round, counted from 0, K times each."""
        first = number * self.settings.batch + self.machine.rank
        keys = [first + i * self.machine.world for i in range(len(rows))]
        if self.lagged is not None:
            self.lagged.follow(number)
        speaker, masker = self._speaker(number), self.lagged.masker if self.lagged else None
        with self.machine.computing():
            rollout = sample(
                speaker, [r.prompt for r in rows], self.settings.K, self.how,
                seed=self.settings.seed, keys=keys, masker=masker,
            )  # fmt: skip
        return replace(rollout, batch=rollout.batch.answering(rows))

    def once(self, rows: Sequence[Row], places: Sequence[int]) -> Rollout:
        """Let the policy answer held-out prompts, known by their places, once each."""
        with self.machine.computing():
            rollout = sample(
                self.policy, [r.prompt for r in rows], 1, self.how,
                seed=derive(self.settings.seed, "evaluation"), keys=list(places),
            )  # fmt: skip
        return replace(rollout, batch=rollout.batch.answering(rows))

    def _speaker(self, number: int) -> Network:
        if not self.by_opponent(number):
            self._opponent = None
            return self.policy
        assert self._load is not None
        self._opponent = self._opponent or self._load()
        return self._opponent

"""How long a piece of work takes, by the clock on the wall and for the processor."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sparring.models.machine import Machine

ENOUGH = 3.0  # seconds of measuring one thing, from which it is not measured a third time


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds on the wall, and of the processor."""

    wall: float = 0.0
    cpu: float = 0.0

    def times(self, factor: float) -> "Cost":
        """So many of it."""
        return Cost(wall=self.wall * factor, cpu=self.cpu * factor)

    def plus(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(wall=self.wall + other.wall, cpu=self.cpu + other.cpu)

    def less(self, other: "Cost") -> "Cost":
        """What is left without another."""
        return Cost(wall=max(0.0, self.wall - other.wall), cpu=max(0.0, self.cpu - other.cpu))


def timed(machine: Machine, act: Callable[[], object], *, once: bool = False) -> Cost:
    """Time an act: the shortest of a few, after one that only warms up; a long one is done twice.

    The first time counts only where there is no other (`once`): it prepares products and asks for memory, which a run
    does once and not in every step.
    """
    best: Cost | None = None
    began = time.perf_counter()
    for attempt in range(4):
        wall, cpu = time.perf_counter(), time.process_time()
        act()
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        now = Cost(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
        if attempt == 1 or best is None or now.cpu < best.cpu:
            best = now
        if once or (attempt and time.perf_counter() - began > ENOUGH):
            break
    assert best is not None
    return best

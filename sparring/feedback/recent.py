"""How often a judge was right lately: of what it learns from, and of demonstrations that it never learnt from."""

from collections.abc import Mapping

MEMORY = 0.8  # how much of a share comes from the rounds before
CHANCE = 0.6  # held-out accuracy below which it may as well be guessing
ENOUGH = 12  # held-out demonstrations, the forgotten taken off, that can say so


class Recent:
    """Three shares that forget: real and fake ones that were held out, and what was learnt from."""

    def __init__(self) -> None:
        self._right = {name: (0.0, 0.0) for name in ("real", "fake", "learnt")}

    def add(self, name: str, right: float, number: float) -> None:
        """Count `right` of `number` in a round."""
        top, bottom = self._right[name]
        self._right[name] = (MEMORY * top + right, MEMORY * bottom + number)

    @property
    def held_out(self) -> float:
        """The share of held-out demonstrations and fresh responses told apart; 0.5 before any."""
        shares = [top / bottom for top, bottom in (self._right["real"], self._right["fake"]) if bottom]
        return sum(shares) / len(shares) if shares else 0.5

    @property
    def by_heart(self) -> float:
        """The share told apart of what is learnt from, where held-out accuracy is that of a guess; else 0."""
        top, bottom = self._right["learnt"]
        is_known = bool(bottom) and self._right["real"][1] >= ENOUGH
        return top / bottom if is_known and self.held_out < CHANCE else 0.0

    def state(self) -> dict[str, tuple[float, float]]:
        """Return all counts."""
        return dict(self._right)

    def load(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Put back what `state` returned."""
        self._right |= {name: (counts[0], counts[1]) for name, counts in state.items()}

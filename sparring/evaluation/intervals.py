"""How sure a figure is: estimates with their 95 % intervals, by the way that fits each kind of figure.

The unit is always the prompt. Responses to one prompt are alike, so they are summed up before anything
is counted, and `n` is a number of prompts (or of seeds), never of responses or tokens.

    means and ratios of sums   bootstrap over prompts, bias-corrected and accelerated (Efron 1987)
    sums of sizes of means     bootstrap of how far all the means may be off together: never too narrow
    shares                     Wilson's score interval, which stays sensible at 0 and 1
    shares of distinct things  jackknife over prompts: drawing prompts twice would fake repetition
    what compares responses    the same, leaving out parts of the prompts (`jackknifed`): self-BLEU, Kendall's W
    a few seeds                Student's t
    whatever is fitted         bootstrap over prompts, with draws and influence of its own (`from_draws`)

For small n the bootstrap's quantiles are widened to those of Student's t, as Hesterberg advises: plain
ones are too narrow by a factor of sqrt((n - 1) / n), and normal where they should be Student's. What is
left is about a point: intervals of means cover the truth in about 94 % of simulations, skewed or not.

Source: Efron 1987, doi:10.1080/01621459.1987.10478410 (BCa); Wilson 1927,
doi:10.1080/01621459.1927.10502953; Hesterberg 2015, doi:10.1080/00031305.2015.1089789.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np

from sparring.core.seeds import rng

LEVEL = 0.95
TAIL = (1 + LEVEL) / 2
DRAWS = 2000  # resamples; the quantiles of 2,000 differ between seeds by about 3 % of the interval's width
CELLS = 4_000_000  # numbers drawn at once, so that many prompts do not fill the memory
PARTS = 40  # of the units, for a jackknife of what is slow to compute
LARGE = 60  # degrees of freedom from which Student's quantile follows from the normal one to 1e-6
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval; `low` and `high` are None when a single unit says nothing about the spread.

    `values` holds one number for each unit where the figure is their mean, so that two estimates on the
    same prompts can be compared pair by pair.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    values: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, float | None]:
        """Give what eval.json holds of it."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}

    def mapped(self, function: Callable[[float], float]) -> "Estimate":
        """Put the figure on another scale by an increasing function, such as exp; the interval goes along."""
        low, high = (None if x is None else function(x) for x in (self.low, self.high))
        return Estimate(mean=function(self.mean), low=low, high=high, n=self.n)


def mean_of(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Average one value for each unit, with a bootstrap interval."""
    found = ratio_of(values, [1.0] * len(values), seed=seed)
    return replace(found, values=tuple(map(float, values)))


def ratio_of(tops: Sequence[float], bottoms: Sequence[float], *, seed: int = 0) -> Estimate:
    """Divide two sums over units, such as nats by tokens; units are drawn again with both of their parts.

    Raises ValueError when there is no unit or the bottoms sum to zero.
    """
    top, bottom = np.asarray(tops, dtype=float), np.asarray(bottoms, dtype=float)
    n, total = len(top), bottom.sum()
    if not n or total == 0:
        raise ValueError("an average over nothing was asked for")
    value = float(top.sum() / total)
    if n == 1:
        return Estimate(mean=value, low=None, high=None, n=1)
    if np.ptp(top - value * bottom) <= 1e-12 * (np.abs(top).max() + 1e-300):
        return Estimate(mean=value, low=value, high=value, n=n)
    return from_draws(value, np.concatenate(list(_draws(top, bottom, seed))), top - value * bottom)


def from_draws(value: float, draws: np.ndarray, influence: np.ndarray) -> Estimate:
    """Give a figure the interval that its bootstrap draws tell.

    `influence` says how far each of the units moves the figure, in any scale; its skew corrects the interval.
    """
    if not influence.any():
        return Estimate(mean=value, low=value, high=value, n=len(influence))
    draws = np.sort(draws)
    low, high = (_quantile(draws, p) for p in _levels(draws, value, influence))
    return Estimate(mean=value, low=float(low), high=float(high), n=len(influence))


def counts(n: int, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw n units again and again: how often each was drawn, [D, n], with about `size` numbers for each unit in use.

    Together there are DRAWS rows; they come in parts, so that what is computed of them does not fill the memory.
    """
    draw, at_once = rng(seed, "bootstrap"), max(1, CELLS // (n * size))
    for start in range(0, DRAWS, at_once):
        yield draw.multinomial(n, np.full(n, 1 / n), size=min(at_once, DRAWS - start)).astype(float)


def difference(a: Estimate, b: Estimate, *, seed: int = 0) -> Estimate:
    """Estimate how much larger a is than b, pair by pair; both must have been measured on the same units.

    Raises ValueError when they have no values, or not equally many.
    """
    if not a.values or len(a.values) != len(b.values):
        raise ValueError(f"{len(a.values)} and {len(b.values)} values cannot be compared pair by pair")
    return mean_of([x - y for x, y in zip(a.values, b.values, strict=True)], seed=seed)


def share_of(hits: float, n: int) -> Estimate:
    """Give a share of n with Wilson's interval.

    With several responses to a prompt, let n be the prompts and hits the share times n: exact when the
    responses to a prompt agree, too wide otherwise, never too narrow. Raises ValueError when n is 0.
    """
    if n < 1:
        raise ValueError("a share of nothing was asked for")
    p, z2 = hits / n, NORMAL.inv_cdf(TAIL) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(p * (1 - p) * z2 / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and 1 one end is the share itself, which rounding would miss by a little.
    return Estimate(mean=p, low=min(p, max(0.0, centre - half)), high=max(p, min(1.0, centre + half)), n=n)


def sizes_of(columns: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Add up the sizes of the means of several columns, such as how far off a forecast is in each of its bins.

    There is a row for each unit. Noise alone makes the figure larger than it is, and drawing again does so once
    more, so its draws say little. But it is off by no more than the means are, taken together; how far those may
    be off the draws do tell, and that is the interval's reach to either side. Raises ValueError when there is no unit.
    """
    table = np.asarray(columns, dtype=float)
    if not len(table):
        raise ValueError("an average over nothing was asked for")
    value = float(np.abs(table.mean(0)).sum())
    if len(table) == 1:
        return Estimate(mean=value, low=None, high=None, n=1)
    draw, mean = rng(seed, "bootstrap"), table.mean(0)
    off = [np.abs(table[draw.integers(len(table), size=len(table))].mean(0) - mean).sum() for _ in range(DRAWS)]
    reach = float(np.quantile(off, LEVEL))
    return Estimate(mean=value, low=max(0.0, value - reach), high=value + reach, n=len(table))


def distinct_of(things: Sequence[Sequence[Hashable]]) -> Estimate:
    """Give the number of different things as a share of all, over units that hold some each, by the jackknife.

    Leaving out one unit takes away all of its things, and those kinds that occur nowhere else.
    """
    seen: dict[Hashable, int] = {}  # the one unit in which a kind occurs, or -1 if there are several
    for i, unit in enumerate(things):
        for thing in unit:
            seen[thing] = i if seen.get(thing, i) == i else -1
    own = Counter(seen.values())
    total, n = sum(map(len, things)), len(things)
    if not total:
        raise ValueError("the share of distinct things among none was asked for")
    mean = len(seen) / total
    without = [(len(seen) - own[i]) / (total - len(unit)) for i, unit in enumerate(things) if len(unit) < total]
    return jackknifed(mean, without, n)


def jackknifed(value: float, without: Sequence[float], n: int, *, most: float = 1.0) -> Estimate:
    """Give a figure between 0 and `most` the interval that leaving out each of several equal parts of n units tells."""
    if len(without) < 2:
        return Estimate(mean=value, low=None, high=None, n=n)
    spread = math.sqrt(len(without) - 1) * float(np.std(without))
    half = t_quantile(TAIL, len(without) - 1) * spread
    return Estimate(mean=value, low=max(0.0, value - half), high=min(most, value + half), n=n)


def kept_without(n: int) -> list[np.ndarray]:
    """List, for each of at most PARTS equal parts of n units, which units are left without it."""
    part = np.arange(n) % min(n, PARTS)
    return [np.flatnonzero(part != i) for i in range(min(n, PARTS))]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Average a few independent runs, with Student's t interval; there is none for a single run."""
    n = len(values)
    if not n:
        raise ValueError("an average over no run was asked for")
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean=mean, low=None, high=None, n=1, values=tuple(map(float, values)))
    half = t_quantile(TAIL, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=n, values=tuple(map(float, values)))


@cache
def t_quantile(p: float, freedom: int) -> float:
    """Find the point below which Student's t falls with probability p (above 1/2), by bisection."""
    if freedom > LARGE:
        z = NORMAL.inv_cdf(p)
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / freedom + second / freedom**2 + third / freedom**3
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_tails(t: float, freedom: int) -> float:
    """Give the probability that Student's t is at least so far from zero, to either side."""
    return min(1.0, max(0.0, 2 * (1 - _t_below(abs(t), freedom))))


def _t_below(t: float, freedom: int) -> float:
    """The distribution function of Student's t, by its finite series (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    is_odd = freedom % 2
    term = math.sin(angle) * (math.cos(angle) if is_odd else 1.0)
    total = 0.0
    for k in range(1 + is_odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    inside = 2 / math.pi * (angle + total) if is_odd else total
    return (1 + inside) / 2


def _draws(top: np.ndarray, bottom: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    draw, n = rng(seed, "bootstrap"), len(top)
    at_once = max(1, CELLS // n)
    for start in range(0, DRAWS, at_once):
        chosen = draw.integers(n, size=(min(at_once, DRAWS - start), n))
        sums = bottom[chosen].sum(-1)
        # A draw of nothing but empty units has no ratio; it says nothing and is left out.
        yield top[chosen].sum(-1)[sums != 0] / sums[sums != 0]


def _levels(draws: np.ndarray, value: float, influence: np.ndarray) -> tuple[float, float]:
    """Which quantiles of the draws are the ends: corrected for bias and skew, and widened for small n."""
    n = len(influence)
    below = (draws < value).mean() + (draws == value).mean() / 2
    bias = NORMAL.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    skew = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    z = math.sqrt(n / (n - 1)) * t_quantile(TAIL, n - 1)
    return tuple(NORMAL.cdf(bias + (bias + s) / max(1 - skew * (bias + s), 1e-6)) for s in (-z, z))  # type: ignore[return-value]


def _quantile(ordered: np.ndarray, p: float) -> float:
    place = p * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])

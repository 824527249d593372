"""What a comparison shows beyond doubt: tests that pair prompts and seeds, corrected for how many there are.

The unit is a prompt under a seed. All cells answer the same prompts, and seeds are shared as well, so two lines differ
by a table d[S, P]. Both its rows and its columns are draws: another seed trains another model, other prompts are other
questions. So the variance of the mean has both parts, and what belongs to neither is counted once only:

    var = max(s + p - e, s, p)     s, p: the variance of the means over seeds, over prompts; e: of what is left

with Satterthwaite's degrees of freedom, and Student's t. These are never fewer than the smaller of seeds and prompts
less one, and with two seeds never more than three: two often agree by chance, and would then pass for many.

Holm's correction keeps the chance that even one verdict of a family is wrong at 5 %; families are the comparisons with
the two baselines, and those of methods among themselves.

A difference that is not beyond doubt may be there all the same. From the same three variances follows how many seeds
would show one of its size four times in five; it is an estimate from the few seeds that there are.

Source: Satterthwaite 1946, doi:10.2307/3002019; Holm 1979, jstor.org/stable/4615733; crossed effects: Searle et al.
1992, Variance Components, doi:10.1002/9780470316856.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparring.evaluation.intervals import LEVEL, TAIL, t_quantile, t_tails

WORDS = {
    "better": "Better than {} beyond doubt",
    "worse": "Worse than {} beyond doubt",
    "unclear": "Not to be told apart from {}",
}
OF_TWO = 3  # degrees of freedom at most where there are two seeds or two prompts
POWER = 0.8  # of the comparisons with that many seeds would show the difference
MOST = 20  # seeds that anybody would run
Scores = Mapping[int, Sequence[float]]
"""One score for each prompt, by seed."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How much more `name` scores than `rival`; `p` and the ends are None where the cells cannot tell.

    The interval is that of the one difference; `adjusted` is p after Holm's correction. `variances` of the mean are
    over seeds, over prompts, and of what belongs to neither; `seeds_needed` would tell an unclear difference of this
    size, None if MOST are too few.
    """

    name: str
    rival: str
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    seeds: int
    prompts: int
    variances: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seeds_needed: int | None = None

    @property
    def verdict(self) -> str:
        """better, worse, or unclear."""
        if self.adjusted is None or self.adjusted >= 1 - LEVEL:
            return "unclear"
        return "better" if self.mean > 0 else "worse"


def paired(name: str, rival: str, a: Scores, b: Scores) -> Finding | None:
    """Test the difference of two lines on the seeds that both have; None when there is none."""
    seeds = [seed for seed in a if seed in b]
    if not seeds:
        return None
    table = np.asarray([np.subtract(a[seed], b[seed]) for seed in seeds], dtype=float)
    (S, P), mean = table.shape, float(table.mean())
    if min(S, P) < 2:
        return Finding(name=name, rival=rival, mean=mean, seeds=S, prompts=P)
    parts = _parts(table)
    variance, freedom = _variance(parts, S, P)
    if variance <= 1e-24 * float(np.abs(table).max() + 1e-300) ** 2:
        return Finding(name=name, rival=rival, mean=mean, low=mean, high=mean, p=float(mean == 0), seeds=S, prompts=P)
    error = math.sqrt(variance)
    half = t_quantile(TAIL, freedom) * error
    return Finding(
        name=name, rival=rival, mean=mean, low=mean - half, high=mean + half, p=t_tails(mean / error, freedom),
        seeds=S, prompts=P, variances=parts,
    )  # fmt: skip


def seeds_needed(found: Finding, tests: int) -> int | None:
    """Find the fewest seeds that would show a difference of this size among so many tests, with probability POWER."""
    seeds, prompts, left = found.variances
    for S in range(found.seeds + 1, MOST + 1):
        fewer = found.seeds / S
        parts = seeds * fewer, max(0.0, prompts - left) + left * fewer, left * fewer
        variance, freedom = _variance(parts, S, found.prompts)
        far = t_quantile(1 - (1 - LEVEL) / 2 / tests, freedom) + t_quantile(POWER, freedom)
        if abs(found.mean) > far * math.sqrt(variance):
            return S
    return None


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, the smallest for all of them, the next for one less, and so on."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    out, worst = [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - place) * values[i]))
        out[i] = worst
    return out


def judge(scores: Mapping[str, Scores], rivals: Sequence[str]) -> tuple[list[Finding], list[Finding]]:
    """Test every line that is no rival against the rivals, and all pairs of such lines; two families of tests."""
    names = [name for name in scores if name not in rivals]
    first = [(name, rival) for rival in rivals if rival in scores for name in names]
    families = first, list(itertools.combinations(names, 2))
    against, among = (
        _corrected([t for a, b in pairs if (t := paired(a, b, scores[a], scores[b])) is not None]) for pairs in families
    )
    return against, among


def headline(against: Sequence[Finding], among: Sequence[Finding], start: str) -> str:
    """Say in one sentence which method helped most; empty where nothing was compared with the start."""
    mine = {t.name: t for t in against if t.rival == start and t.p is not None}
    helped = {name: t for name, t in mine.items() if t.verdict == "better"}
    if not helped:
        return f"No method is better than {start} beyond doubt." if mine else ""
    best = max(helped.values(), key=lambda t: t.mean)
    pairs = [(t.name, t.rival) for t in among if t.verdict == "unclear" and best.name in (t.name, t.rival)]
    equal = [name for pair in pairs for name in pair if name != best.name and name in helped]
    more = f"{best.name} helped most: {best.mean:+.3f} over {start} ({best.low:.3f} to {best.high:.3f})"
    return f"{more}; it cannot be told apart from {_listed(equal)}." if equal else f"{more}."


def sentences(against: Sequence[Finding], among: Sequence[Finding]) -> list[str]:
    """Say it in plain words, the largest differences first."""
    said = []
    for rival in dict.fromkeys(t.rival for t in against):
        mine = sorted((t for t in against if t.rival == rival), key=lambda t: -t.mean)
        for verdict, words in WORDS.items():
            if found := [t for t in mine if t.verdict == verdict and t.p is not None]:
                said.append(f"{words.format(rival)}: {', '.join(f'{t.name} ({_span(t)})' for t in found)}.")
        if untold := [t for t in mine if t.p is None]:
            why = "One seed cannot tell" if untold[0].seeds < 2 else "One prompt cannot tell"
            said.append(f"{why} from {rival}: {', '.join(f'{t.name} ({t.mean:+.3f})' for t in untold)}.")
    beaten: dict[str, list[str]] = {}
    for t in among:
        if t.verdict != "unclear":
            winner, loser = (t.name, t.rival) if t.mean > 0 else (t.rival, t.name)
            beaten.setdefault(winner, []).append(loser)
    pairs = [f"{winner} beats {_listed(losers)}" for winner, losers in beaten.items()]
    last = [f"Among themselves, beyond doubt: {'; '.join(pairs)}."] if pairs else []
    if left := len(among) - sum(map(len, beaten.values())):
        some = "The one pair of methods" if len(among) == 1 else f"{left} of {len(among)} pairs of methods"
        last.append(f"{some} cannot be told apart.")
    return said + ([" ".join(last)] if last else [])


def _parts(table: np.ndarray) -> tuple[float, float, float]:
    """The variances of the mean of a table of crossed draws: over its rows, over its columns, and of what is left."""
    S, P = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    seeds, prompts = float(table.mean(1).var(ddof=1)) / S, float(table.mean(0).var(ddof=1)) / P
    return seeds, prompts, float((rest**2).sum()) / ((S - 1) * (P - 1)) / (S * P)


def _variance(parts: tuple[float, float, float], S: int, P: int) -> tuple[float, int]:
    """The variance of the mean, and its degrees of freedom, rounded down."""
    seeds, prompts, left = parts
    total = max(seeds + prompts - left, seeds, prompts)
    if total <= 0:
        return 0.0, 1
    doubt = seeds**2 / (S - 1) + prompts**2 / (P - 1) + left**2 / ((S - 1) * (P - 1))
    freedom = max(min(S, P) - 1, math.floor(total**2 / doubt))
    return total, freedom if min(S, P) > 2 else min(freedom, OF_TWO)


def _corrected(tests: Sequence[Finding]) -> list[Finding]:
    told = [t for t in tests if t.p is not None]
    adjusted = dict(zip(map(id, told), holm([t.p for t in told if t.p is not None]), strict=True))
    found = [replace(t, adjusted=adjusted.get(id(t))) for t in tests]
    return [
        replace(t, seeds_needed=seeds_needed(t, len(told))) if t.p is not None and t.verdict == "unclear" else t
        for t in found
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _span(t: Finding) -> str:
    """Say how large a difference is: with its interval, or with what it would take to be sure of it."""
    if t.verdict != "unclear":
        return f"{t.mean:+.3f}, {t.low:.3f} to {t.high:.3f}"
    return f"{t.mean:+.3f}" if t.seeds_needed is None else f"{t.mean:+.3f}; about {t.seeds_needed} seeds"

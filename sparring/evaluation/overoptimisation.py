"""Over-optimisation: what a judge's score is still worth by a yardstick, the further a policy is from its start.

With d the square root of the KL from the start, in nats, Gao et al. found that the yardstick's reward follows

    best of n               R(d) = R(0) + d (a - b d)         turns at d = a / (2 b)
    reinforcement learning  R(d) = R(0) + d (a - b log d)     turns at d = exp(a / b - 1)

a is what the first steps gain, b how fast the judge is used up. The paper sets R(0) to 0; here it is fitted, since a
start is measured with noise as well. Both forms are linear in what is fitted: least squares has one answer. A turn is
claimed only where b is above 0 beyond doubt and enough of the curve is explained; noise has a summit, too.

Best of n needs no training to be on the same axes. Its distance is log n - (n - 1) / n at most, and its reward follows
from N > n samples without drawing again.

Source: Gao et al. 2022, arXiv:2210.10760, equations 1 and 2, appendix A; what is known of best of n: core/best_of.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring.core.best_of import expected_best, kl_bound
from sparring.data.responses import Responses
from sparring.evaluation.figures import SCORE
from sparring.evaluation.intervals import TAIL, t_quantile
from sparring.feedback.protocol import Feedback

LEAST = 6  # different distances below which no form is fitted: three numbers are
POINTS = 40  # of a fitted curve, to draw it
EXPLAINED = 0.3  # share of the variance below which a fit says nothing


@dataclass(frozen=True, kw_only=True)
class Form:
    """One of the two curves: its equation in words, what b multiplies, and where it turns."""

    equation: str
    bend: Callable[[float], float]
    turn: Callable[[float, float], float]


def _exp(x: float) -> float:
    return math.exp(min(x, 300.0))


FORMS = {
    "best of n": Form(equation="d (a - b d)", bend=lambda d: d * d, turn=lambda a, b: a / (2 * b)),
    "reinforcement learning": Form(
        equation="d (a - b log d)",
        bend=lambda d: d * math.log(d) if d > 0 else 0.0,
        turn=lambda a, b: _exp(a / b - 1),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted form. `explained` is R squared; `b_low` the lower end of b's 95 % interval; `far` the largest d seen."""

    form: str
    start: float
    a: float
    b: float
    b_low: float
    explained: float
    far: float

    def at(self, d: float) -> float:
        """Give the reward at a distance."""
        return self.start + self.a * d - self.b * FORMS[self.form].bend(d)

    @property
    def turn(self) -> float | None:
        """The KL in nats beyond which the reward falls; None where the fit does not show beyond doubt that it does."""
        if self.b_low <= 0 or self.explained < EXPLAINED:
            return None
        return max(0.0, FORMS[self.form].turn(self.a, self.b)) ** 2

    def to_dict(self) -> dict[str, Any]:
        """Give what results.json holds of it; `curve` are points to draw, each a KL in nats and a reward."""
        curve = [((self.far * i / POINTS) ** 2, self.at(self.far * i / POINTS)) for i in range(POINTS + 1)]
        words = {"equation": FORMS[self.form].equation, "says": self.sentence()}
        return vars(self) | {"turn": self.turn, **words, "curve": curve}

    def sentence(self) -> str:
        """Say in plain words where the reward turns."""
        far = self.far**2
        if self.explained < EXPLAINED:
            return f"the curve explains only {self.explained:.0%} of what was measured, so no turn is claimed"
        if self.turn is None:
            return f"no turn beyond doubt within the {far:.3g} nats that were measured"
        if self.turn > far:
            return f"no turn within the {far:.3g} nats that were measured; the curve would turn at {self.turn:.3g}"
        return f"turns at {self.turn:.3g} nats: what the judge still pays beyond that, the yardstick takes back"


def fit(form: str, kl: Sequence[float], reward: Sequence[float]) -> Fit | None:
    """Fit a form to rewards at distances in nats by least squares; None where there are too few distances.

    Estimates of KL below 0 count as 0.
    """
    d = np.sqrt(np.clip(np.asarray(kl, dtype=float), 0, None))
    if len(np.unique(d)) < LEAST:
        return None
    y = np.asarray(reward, dtype=float)
    X = np.stack([np.ones_like(d), d, [-FORMS[form].bend(float(x)) for x in d]], -1)
    (start, a, b), *_ = np.linalg.lstsq(X, y, rcond=None)
    rest, whole = float(((y - X @ (start, a, b)) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    freedom = len(y) - 3
    error = math.sqrt(rest / freedom * float(np.linalg.pinv(X.T @ X)[2, 2]))
    return Fit(
        form=form, start=float(start), a=float(a), b=float(b), b_low=float(b - t_quantile(TAIL, freedom) * error),
        explained=1 - rest / whole if whole > 0 else 0.0, far=float(d.max()),
    )  # fmt: skip


def best_of_table(drawn: Responses, picker: Feedback | None, judges: Mapping[str, Feedback]) -> dict[str, list[Any]]:
    """Tell what the best of n by the picker, or else by the first judge, is worth by every judge; n up to all drawn.

    Empty when one response to each prompt was drawn, or there is no judge.
    """
    N = len(drawn.texts[0]) if drawn.texts else 0
    if N < 2 or not judges:
        return {}
    worth = {SCORE + name: judge.score(drawn).tolist() for name, judge in judges.items()}
    picks = next(iter(worth.values())) if picker is None else picker.score(drawn).tolist()
    rows = []
    for n in sizes(N):
        means = {
            name: math.fsum(expected_best(pick, n, own) for pick, own in zip(picks, values, strict=True)) / len(picks)
            for name, values in {"picked by": picks, **worth}.items()
        }
        rows.append({"n": n, "kl": kl_bound(n), **means})
    return {"best_of": rows}


def sizes(N: int) -> list[int]:
    """Choose the n to show for N samples: all of a few, else powers of two, those halfway between them, and N."""
    if N <= 8:
        return list(range(1, N + 1))
    return sorted({n for i in range(N.bit_length()) for n in (2**i, 3 * 2**i) if n <= N} | {N})

"""Logistic regression on sparse rows, to its optimum: what a judge of a few hundred examples can do without forgetting.

    min over w, b of   sum_i v_i log(1 + exp(-y_i (w . x_i + b)))  +  ridge sum_f (sd_f w_f)^2

sd_f is the spread of feature f, so that the price of a weight does not depend on the feature's units. It is convex,
so it has no learning rate, no order of examples and no state but its rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array, diags_array
from scipy.stats import rankdata

Vector = NDArray[np.float64]

LEAST_SPREAD = 0.01  # added to every spread: a feature that hardly varies is no better than one that does


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear score: `weights` [F] of the features and what a row without any gets, in logits."""

    weights: Vector
    bias: float

    def score(self, rows: csr_array) -> Vector:
        """Score rows [N, F]; returns logits [N]."""
        return rows @ self.weights + self.bias


def fit(rows: csr_array, is_real: Vector, shares: Vector, ridge: float, start: Linear | None = None) -> Linear:
    """Fit rows [N, F] with `is_real` [N] 1 or 0 and `shares` [N], adding up to 1, that say what each row counts for.

    `start` is where the search begins, which changes its time and not its end.
    """
    spread = np.sqrt(np.maximum(shares @ rows.power(2) - (shares @ rows) ** 2, 0)) + LEAST_SPREAD
    scaled = csr_array(rows @ diags_array(1 / spread))
    transposed = csr_array(scaled.T)
    sign = 2 * is_real - 1

    def loss(point: Vector) -> tuple[float, Vector]:
        weights, bias = point[:-1], point[-1]
        margin = sign * (scaled @ weights + bias)
        slope = -shares * sign * np.exp(-np.logaddexp(0, margin))
        value = shares @ np.logaddexp(0, -margin) + ridge * weights @ weights
        return value, np.append(transposed @ slope + 2 * ridge * weights, slope.sum())

    first = np.zeros(len(spread) + 1) if start is None else np.append(start.weights * spread, start.bias)
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-7}).x
    return Linear(weights=found[:-1] / spread, bias=float(found[-1]))


def area(real: Vector, fake: Vector) -> float:
    """Give the probability that a real one scores above a fake one, ties counting half (the area under the curve)."""
    ranks = rankdata(np.concatenate([real, fake]))
    n = len(real)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(fake)))

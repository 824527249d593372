"""Ratings of many models from who beat whom: Bradley and Terry's, and Elo's, both in Elo's points.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400)),     a tie is half a win, mean of R = 1000

Bradley and Terry's ratings are those under which the results are likeliest, in whatever order they came. One tie more
between every two models keeps them finite where one has won every time. Elo's go through the results one by one,

    R_i <- R_i + 4 (result - P(i beats j)),     1000 at the start

so they depend on the order, and of few results they hardly know: the figure is the median over orders and prompts that
are drawn again. Prefer the first; the second is what many tables hold.

Source: Bradley and Terry 1952, doi:10.2307/2334029; Elo 1978, The Rating of Chessplayers; Chiang et al. 2024,
arXiv:2403.04132 (both for language models, and the bootstrap).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sparring.core.errors import SettingError
from sparring.core.seeds import rng
from sparring.evaluation.figures import SCORE
from sparring.evaluation.intervals import LEVEL, Estimate, counts, from_draws
from sparring.models.checkpoint import write_text

POINTS = 400 / math.log(10)  # Elo's points for each nat of log-odds
CENTRE = 1000.0
STEP = 4.0  # Elo's K
ORDERS = 200  # of Elo's results
NEWTON = 50  # steps; about six are needed
FAR = 2.0  # the longest step, in nats

Wins = Float[np.ndarray, "n M M"]
"""For each prompt 1, 0.5 or 0: whether the first model beat the second. The diagonal is not read."""


def rate(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rate models by what evaluations of them on the same prompts hold, a row for each judge and model, best first.

    A prompt is won by the higher score, averaged over its responses. Raises SettingError when no judge scored.
    """
    judges = [name for name in next(iter(found.values()))["values"] if name.startswith(SCORE)]
    if not judges:
        raise SettingError("several models are rated by what a judge says; name one with --feedback")
    rows = []
    for judge in judges:
        wins = wins_of([one["values"][judge] for one in found.values()])
        both = zip(found, bradley_terry(wins), elo(wins), strict=True)
        for model, rating, points in sorted(both, key=lambda row: -row[1].mean):
            rows.append({
                "judge": judge.removeprefix(SCORE), "model": model, "rating": rating.mean, "low": rating.low,
                "high": rating.high, "elo": points.mean, "elo_low": points.low, "elo_high": points.high,
                "prompts": len(wins),
            })  # fmt: skip
    return rows


def write_ratings(file: str, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ratings and what they were made with, whole or not at all."""
    out = {"ratings": rows, "settings": {model: one["settings"] for model, one in found.items()}}
    write_text(Path(file).expanduser(), json.dumps(out, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def wins_of(scores: Sequence[Sequence[float]]) -> Wins:
    """Compare the scores of M models, each with one for every prompt."""
    s = np.asarray(scores, dtype=float).T
    return (1 + np.sign(s[:, :, None] - s[:, None])) / 2


def bradley_terry(wins: Wins, *, seed: int = 0) -> list[Estimate]:
    """Rate M models that have all met on every prompt, with a bootstrap over prompts."""
    n, M, _ = wins.shape
    wins = wins * (1 - np.eye(M))
    tie = (1 - np.eye(M)) / 2
    whole = _strengths(wins.sum(0)[None] + tie)
    if n == 1:
        return [Estimate(mean=CENTRE + POINTS * float(x), low=None, high=None, n=1) for x in whole[0]]
    parts = [_strengths(np.tensordot(part, wins, 1) + tie, start=whole) for part in counts(n, M * M, seed)]
    draws, (value,) = CENTRE + POINTS * np.concatenate(parts), CENTRE + POINTS * whole
    slope, bend = _slopes(wins, whole)
    influence = np.linalg.solve(bend.sum(0), slope.T).T
    return [from_draws(float(value[i]), draws[:, i], influence[:, i]) for i in range(M)]


def elo(wins: Wins, *, seed: int = 0) -> list[Estimate]:
    """Rate M models by Elo's rule: the median over orders of prompts that are drawn again, and 95 % of those."""
    n, M, _ = wins.shape
    draw, ratings = rng(seed, "elo"), np.full((ORDERS, M), CENTRE)
    pairs = np.array([(i, j) for i in range(M) for j in range(i)])
    every = np.arange(ORDERS)
    for prompts in draw.integers(n, size=(n, ORDERS)):
        # Within a prompt, too, the order in which the pairs meet is drawn.
        for meeting in draw.permuted(np.tile(np.arange(len(pairs)), (ORDERS, 1)), axis=1).T:
            i, j = pairs[meeting].T
            expected = 1 / (1 + 10 ** ((ratings[every, j] - ratings[every, i]) / 400))
            change = STEP * (wins[prompts, i, j] - expected)
            ratings[every, i] += change
            ratings[every, j] -= change
    low, middle, high = np.quantile(ratings, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], axis=0)
    return [
        Estimate(mean=float(m), low=float(a), high=float(b), n=n) for m, a, b in zip(middle, low, high, strict=True)
    ]


def _strengths(wins: Float[np.ndarray, "D M M"], start: np.ndarray | None = None) -> Float[np.ndarray, "D M"]:
    """Maximise the likelihood of sums of wins, in nats with mean 0, by Newton's method for all rows at once."""
    D, M, _ = wins.shape
    found = np.zeros((D, M)) if start is None else np.repeat(start, D, axis=0)
    for _ in range(NEWTON):
        slope, bend = _slopes(wins, found)
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        found = found + step * np.minimum(1, FAR / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return found


def _slopes(wins: Float[np.ndarray, "D M M"], found: Float[np.ndarray, "E M"]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and negative curvature of the log-likelihood; a matrix of ones keeps the mean of the ratings at 0."""
    M = wins.shape[-1]
    games = wins + wins.swapaxes(-1, -2)
    p = 1 / (1 + np.exp(found[:, None] - found[:, :, None]))
    curve = games * p * (1 - p)
    return (wins - games * p).sum(-1), curve.sum(-1)[..., None] * np.eye(M) - curve + 1 / M

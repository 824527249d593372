"""Who wins: the responses of a model against those of a rival to the same prompts, as they are and at equal length.

    win rate = mean over prompts and pairs of their responses  [better] + [equal] / 2

Many judges like what is long, and a model may win by words alone. The win rate at equal length takes that off:
over all pairs, those of one prompt counting as one,

    P(win) = sigmoid(a + b d),     d = log words - log words of the rival

is fitted by maximum likelihood, a tie as half a win, and the figure is sigmoid(a). An empty response counts as one
word. A prompt more, of which a quarter each is won and lost at one standard deviation of d to either side, keeps the
fit finite when every prompt is won, or length alone decides; it draws the figure to a half by about 1/n.

AlpacaEval's fit differs: d is the tanh of the difference in characters, over its standard deviation; each instruction
has a difficulty, from a file for AlpacaEval's own questions; and judgments of one model made short and long on purpose
are fitted along. On judgments of AlpacaEval itself the fit here is nearer to what it publishes than its own fit without
those two files (docs/evaluation.md).

Source: Lee et al. 2023, arXiv:2309.00267 (wins by length ratio, predicted at ratio 1); Dubois et al. 2024,
arXiv:2404.04475, section 3.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from sparring.evaluation.figures import WIN, WIN_LC
from sparring.evaluation.intervals import Estimate, counts, from_draws, mean_of, share_of

STEPS = 50  # of Newton's method; it needs about six
FAR = 2.0  # the longest step, so that a step from where the curve is flat does not end nowhere

Pairs = Float[np.ndarray, "n N"]
"""A number for each of the N pairs of responses to each of n prompts."""


def log_words(text: str) -> float:
    """Give the log of the number of words; an empty text counts as one."""
    return math.log(max(1, len(text.split())))


def win_figures(judge: str, won: Pairs, longer: Pairs) -> dict[str, Estimate]:
    """Give the win rates by a judge: 1, 0.5 or 0 for each pair, and the difference of the log lengths."""
    return {WIN + judge: win_rate(won), WIN_LC + judge: at_equal_length(won, longer)}


def win_rate(won: Pairs, *, seed: int = 0) -> Estimate:
    """Average wins, with a bootstrap over prompts, or Wilson's interval where all prompts agree and no draw differs."""
    values = won.mean(1)
    if np.ptp(values) > 0:
        return mean_of(values.tolist(), seed=seed)
    return replace(share_of(float(values.sum()), len(values)), values=tuple(values.tolist()))


def shares(won: Pairs) -> dict[str, float]:
    """Take wins, ties and losses apart; the three add up to one."""
    return {name: float((won == value).mean()) for name, value in (("won", 1.0), ("tied", 0.5), ("lost", 0.0))}


def at_equal_length(won: Pairs, longer: Pairs, *, seed: int = 0) -> Estimate:
    """Predict the win rate at equal length by a bootstrap over prompts; where all pairs agree, lengths say nothing."""
    n, N = won.shape
    if n == 1 or np.ptp(won) == 0:
        return replace(win_rate(won), values=())
    d = longer / (float(longer.std()) or 1.0)
    whole = _fit(won, d, np.ones((1, n)))
    drawn = [_fit(won, d, part, start=whole)[:, 0] for part in counts(n, N, seed)]
    value, draws = (1 / (1 + np.exp(-x)) for x in (whole[0, 0], np.concatenate(drawn)))
    return from_draws(float(value), draws, _influence(won, d, whole[0]))


def _fit(won: Pairs, d: Pairs, times: Float[np.ndarray, "D n"], start: np.ndarray | None = None) -> np.ndarray:
    """Fit a and b, [D, 2], with every prompt counted so many times, by Newton's method for all rows at once."""
    N = won.shape[1]
    y, x = np.append(won.ravel(), [1, 0, 1, 0]), np.append(d.ravel(), [1, 1, -1, -1])
    weight = np.concatenate([np.repeat(times / N, N, axis=1), np.full((len(times), 4), 0.25)], axis=1)
    found = np.zeros((len(times), 2)) if start is None else np.repeat(start, len(times), axis=0)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(found[:, :1] + found[:, 1:] * x)))
        off, curve = weight * (y - p), weight * p * (1 - p)
        g0, g1 = off.sum(-1), off @ x
        h00, h01, h11 = curve.sum(-1), curve @ x, curve @ (x * x)
        step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], -1) / (h00 * h11 - h01**2)[:, None]
        found = found + step * np.minimum(1, FAR / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return found


def _influence(won: Pairs, d: Pairs, found: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " n"]:
    """How far each prompt moves a: its gradient, times the inverse of the curvature but for a factor."""
    p = 1 / (1 + np.exp(-(found[0] + found[1] * d)))
    off, curve = won - p, p * (1 - p)
    return off.mean(1) * (curve * d * d).sum() - (off * d).mean(1) * (curve * d).sum()

"""Monte-Carlo roll-outs as credit: a prefix is worth the mean of what its completions are worth.

    Q_t = mean over N of D( y_1..y_t, completed by the roll-out policy ),  t < T,     Q_T = D(y)
    L = - sum over batch and time of  log G(y_t | y_<t) * Q_t

All completions of all prefixes are written side by side: at each position one LSTM step over all of them, so a
round costs T - 1 steps and not T (T - 1) / 2. A prefix is read once for all its completions.

Source: Yu et al. 2017, arXiv:1609.05473, equations 4 and 8.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparring.core.masked import masked_sum
from sparring.seqgan.generator import Generator, stay_ended

Score = Callable[[Int[Tensor, "N T"]], Float[Tensor, " N"]]
"""Whole sequences to what each is worth."""


@torch.no_grad()
def complete(
    policy: Generator, tokens: Int[Tensor, "B T"], N: int, draw: torch.Generator, *, has_end: bool
) -> Int[Tensor, "N prefixes B T"]:
    """Complete every proper prefix of every sequence N times; prefixes have 1, 2, ... T - 1 tokens."""
    B, T = tokens.shape
    out = tokens.expand(N, T - 1, B, T).clone()
    hidden, cell = (s.transpose(0, 1).expand(N, T, B, -1) for s in policy.states(tokens))
    state = (hidden[:, :0], cell[:, :0])
    for t in range(1, T):  # the prefixes of 1 .. t tokens get their next one
        state = policy.step(out[:, : t - 1, :, t - 1], state)
        state = (torch.cat([state[0], hidden[:, t : t + 1]], 1), torch.cat([state[1], cell[:, t : t + 1]], 1))
        drawn = policy.draw(state[0].flatten(0, 2), draw).view(N, t, B)
        out[:, :t, :, t] = stay_ended(drawn, out[:, :t, :, t - 1]) if has_end else drawn
    return out


def values(
    score: Score, policy: Generator, tokens: Int[Tensor, "B T"], N: int, draw: torch.Generator, *, has_end: bool
) -> Float[Tensor, "B T"]:
    """What each token's prefix is worth, Q_1 to Q_T."""
    B, T = tokens.shape
    completed = score(complete(policy, tokens, N, draw, has_end=has_end).flatten(0, 2))
    return torch.cat([completed.view(N, T - 1, B).mean(0).T, score(tokens)[:, None]], 1)


def policy_loss(
    token_logps: Float[Tensor, "B T"], credit: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """The generator's loss, summed over batch and time."""
    return -masked_sum(token_logps * credit, mask).sum()

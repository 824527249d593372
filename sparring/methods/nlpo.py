"""NLPO: PPO that only ever draws from the nucleus of an earlier policy.

    L = L_ppo,     pi(y_t) = 1[y_t in N] softmax(logits)_t / sum over N
    N = the fewest tokens that hold the share p under pi_psi( . | x, y_<t)

The masking policy pi_psi is the policy as it was up to `nucleus_every` rounds ago. Its nucleus bounds the actions:
a token outside has probability exactly 0 and gets no gradient, in sampling and whenever log-probabilities of
the samples are computed anew, for which the very same set is used. A large vocabulary thus becomes a small
set of actions that an earlier policy thought sensible. At p = 1 it is ppo exactly.

What that does to the end: within the nucleus of a fixed masking policy it is ppo's, pi_ref exp(r / kl) among
the tokens of N. The set only shrinks along the way when the policy sharpens, and a token that has left it can
come back only if the copies do: a response outside is never tried again.

The model that is kept is the whole policy, and held-out prompts are answered with it; top-p sampling of the
user's own is the nearest thing to the masked one. Any other method that learns from its own samples takes the same
settings.

Papers and code differ: the KL is taken of the policy that samples, so masked; RL4LMs takes that of the
whole one, which differs by a number that no single token can change. RL4LMs adapts
its KL price to a target per token; here it stays at its 0.1 unless --kl-target is given. Share 0.9, at
least 100 tokens and 5 rounds are RL4LMs' settings for IMDB.

Source: Ramamurthy et al. 2022, arXiv:2210.01241, algorithm 1.
"""

from sparring.core.registry import recipe

NLPO = recipe(
    "nlpo",
    data="prompt",
    policies=("ppo",),
    defaults={"ppo": {"nucleus": 0.9, "nucleus_least": 100, "nucleus_every": 5, "kl": 0.1}},
)

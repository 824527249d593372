"""RLSR: reinforcement learning from the similarity to demonstrations. No judge that learns, no preferences.

    r(x, y) = cos( phi(y) - m,  phi(y*) - m )
    L = the equation of rloo, grpo, ppo or reinforce, its score r

phi is the mean of the start model's states over a text, y* the demonstration of the prompt x and m the mean
phi of all demonstrations. A cheap rival of rlgaf: both learn from demonstrations alone, this one without a game. It can
neither collapse with its judge nor learn more than what the start model's states show, and it needs a demonstration for
each prompt that is sampled for. The paper embeds texts by a model made for that, and has most when SFT comes first.

Source: arXiv:2510.14200.
"""

from sparring.core.registry import recipe

RLSR = recipe(
    "rlsr",
    data="demonstration",
    policies=("rloo", "grpo", "ppo", "reinforce"),
    feedback="similarity",
    defaults={name: {"rounds": 20, "batch": 8} for name in ("rloo", "grpo", "ppo", "reinforce")},
)

"""The words a loss may use, each with one shape and one meaning.

A loss names its inputs as parameters; the loop computes exactly those. This file is the only
place where a name is given a shape, so a name means the same thing everywhere.

Axes:  B prompts in the batch,  K responses to each prompt (best first when they are ordered),
T response tokens, padded on the right.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One quantity that a loop can hand to a loss."""

    axes: str
    unit: str
    meaning: str


SIGNALS = {
    "mask": Signal(axes="B K T", unit="bool", meaning="true on response tokens, false on padding"),
    "token_logps": Signal(
        axes="B K T", unit="nats", meaning="log-probability of each token under the policy being trained"
    ),
    "ref_token_logps": Signal(axes="B K T", unit="nats", meaning="the same under the frozen reference policy"),
    "other_token_logps": Signal(
        axes="B K T", unit="nats", meaning="token_logps when the prompt gives the opposite instruction"
    ),
    "entropies": Signal(
        axes="B K T", unit="nats of entropy", meaning="entropy of the policy's distribution of each token"
    ),
    "token_kls": Signal(
        axes="B K T",
        unit="nats of KL",
        meaning="KL of the policy's distribution of each token from the frozen reference's, over the whole vocabulary",
    ),
    "old_token_logps": Signal(axes="B K T", unit="nats", meaning="the same under the policy that sampled the response"),
    "advantages": Signal(axes="B K T", unit="reward", meaning="how much better than expected each token was"),
    "values": Signal(axes="B K T", unit="reward", meaning="predicted return from each token on, before it is chosen"),
    "old_values": Signal(axes="B K T", unit="reward", meaning="the same before this round of updates"),
    "returns": Signal(axes="B K T", unit="reward", meaning="observed return from each token on"),
    "scores": Signal(axes="B K", unit="reward", meaning="one number per response, from feedback or from a scalar head"),
    "token_scores": Signal(
        axes="B K T", unit="reward", meaning="the part of the score that each token earned; the last one earns the rest"
    ),
    "relaxed_scores": Signal(
        axes="B K", unit="reward", meaning="the judge's score of each response, through whose tokens a gradient passes"
    ),
    "step_kls": Signal(
        axes="B K T", unit="nats of KL", meaning="KL of the policy's distribution of each token from the reference's"
    ),
    "margin": Signal(axes="B", unit="reward", meaning="how much better the chosen response was rated, 0 if not said"),
    "ratings": Signal(
        axes="B K",
        unit="mark",
        meaning="the data's own mark of each response, best first; one apart from best to worst if not said",
    ),
    "batch_kl": Signal(
        axes="B",
        unit="nats of KL",
        meaning="mean log-ratio to the reference of responses to other prompts of the batch, at least 0",
    ),
    "label": Signal(axes="B", unit="probability", meaning="how likely the chosen response is better, 1 if not said"),
}

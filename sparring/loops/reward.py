"""Scores, and what is made of them before the policy learns: the price of not ending, and that of KL over time."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.credit import AdaptiveKL
from sparring.core.errors import Diverged
from sparring.data.responses import Responses
from sparring.feedback.combine import judged
from sparring.feedback.protocol import Feedback
from sparring.loops.settings import OnlineSettings, RewardSettings
from sparring.models.machine import Machine
from sparring.rollout.sample import Stop


def ask(
    feedback: Feedback, responses: Responses, machine: Machine, number: int
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K T"] | None]:
    """Score the responses of a round, and say what each token earned of that where the judge knows it.

    Raises Diverged for a score that is not finite.
    """
    with machine.computing():
        scores, by_token = judged(feedback, responses)
    scores = scores.float().to(machine.device)
    if not bool(scores.isfinite().all()):
        bad = (~scores.isfinite()).any(-1).nonzero()[:5, 0].tolist()
        worst = [responses.batch.where[b] or repr(responses.prompts[b]) for b in bad]
        raise Diverged(f"the judge's scores are not finite in round {number}; the prompts are {', '.join(worst)}")
    return scores, None if by_token is None else by_token.float().to(machine.device)


def rewarded(scores: Float[Tensor, "B K"], stops: Sequence[Sequence[Stop]], unfinished: float) -> Float[Tensor, "B K"]:
    """Take a penalty off the score of every response that was cut before it ended itself.

    The penalty is subtracted, as TRL does. OpenAI and AlpacaFarm put a fixed score, -1, in place of the judge's;
    what that means depends on where the judge's scores lie, and a judge that learns keeps moving them.
    """
    cut = torch.tensor([[stop is not Stop.EOS for stop in row] for row in stops], device=scores.device)
    return scores - unfinished * cut.to(scores.dtype)


def controller(price: float, reward: RewardSettings, settings: OnlineSettings) -> AdaptiveKL | None:
    """Make what adapts the price of KL to its target, if it has one.

    Without a horizon the rate is the paper's 0.1 for each round, with one it is the code's: the responses of a
    round over the horizon, which is 10,000 in OpenAI's.
    """
    if not reward.kl_target:
        return None
    rate = settings.batch * settings.K / reward.kl_horizon if reward.kl_horizon else 0.1
    return AdaptiveKL(beta=price, target=reward.kl_target, rate=rate)

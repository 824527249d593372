"""From one score per response to how much each token deserves. Pure functions.

A score is what the judge gave. No gradient flows through it, or through what is made of it here. The price
of KL is taken off it (whole responses) or spread over the tokens (PPO); a baseline says what was to be
expected; what is left is the advantage.

Which KL estimator goes where is no matter of taste. As a price that is taken off a score only k1 gives the
gradient of the KL, for the gradient passes by the price. In a loss (GRPO) it flows through the estimate: there
k1 has a mean gradient of zero, k2 that of KL(pi | ref), and k3 that of KL(ref | pi).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparring.core.errors import SettingError
from sparring.core.masked import masked_sum, whiten


def leave_one_out(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Take from each score the mean of the other scores for the same prompt.

    The baseline does not depend on the response it is used for, so the gradient stays unbiased.
    Raises SettingError when there is only one response to a prompt.
    """
    K = scores.shape[-1]
    return above_group_mean(scores) * (K / (K - 1))


def above_group_mean(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Take from each score the mean of all scores for the same prompt, its own among them.

    That shrinks the expected gradient by 1 - 1/K and does not turn it. Raises SettingError when there is
    only one response to a prompt.
    """
    _check_group(scores)
    return scores - scores.mean(-1, keepdim=True)


def above_batch_mean(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Take from each score the mean of all scores of the round.

    Each score is part of its own baseline; that shrinks the expected gradient by 1 - 1/(B K) and does
    not turn it.
    """
    return scores - scores.mean()


def normalise_batch(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Shift and scale the scores of a round to mean 0 and (population) standard deviation 1; equal scores become 0."""
    return whiten(scores, torch.ones_like(scores, dtype=torch.bool))


def normalise_group(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Shift and scale the scores for each prompt to mean 0 and standard deviation 1; equal scores become 0.

    Raises SettingError when there is only one response to a prompt.
    """
    _check_group(scores)
    return torch.stack([whiten(row, torch.ones_like(row, dtype=torch.bool)) for row in scores])


def after_kl(
    scores: Float[Tensor, "B K"],
    old_token_logps: Float[Tensor, "B K T"],
    ref_token_logps: Float[Tensor, "B K T"],
    mask: Bool[Tensor, "B K T"],
    kl: float,
) -> Float[Tensor, "B K"]:
    """Take the price of a response's distance from the reference off its score: kl per nat, by the k1 estimator."""
    return scores - kl * masked_sum(kl_k1(old_token_logps, ref_token_logps), mask)


def at_last_token(scores: Float[Tensor, "B K"], mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K T"]:
    """Pay the score at the last token of the response, and nothing before it."""
    last = (mask.int().cumsum(-1) == mask.sum(-1, keepdim=True)) & mask
    return torch.zeros_like(scores)[..., None].where(~last, scores[..., None])


def token_by_token(
    scores: Float[Tensor, "B K"],
    token_scores: Float[Tensor, "B K T"] | None,
    mask: Bool[Tensor, "B K T"],
) -> Float[Tensor, "B K T"]:
    """Pay each token what it earned by itself, and the last one what is left of the score; all of it if none is known.

    Whatever the parts are, a response is paid its score.
    """
    if token_scores is None:
        return at_last_token(scores, mask)
    earned = token_scores.where(mask, 0.0)
    return earned + at_last_token(scores - earned.sum(-1), mask)


def every_token(advantages: Float[Tensor, "B K"], mask: Bool[Tensor, "B K T"]) -> Float[Tensor, "B K T"]:
    """Give every token of a response the response's advantage, and padding none."""
    return advantages[..., None].where(mask, 0.0)


def discounted(x: Float[Tensor, "B K T"], mask: Bool[Tensor, "B K T"], gamma: float) -> Float[Tensor, "B K"]:
    """Sum over the tokens of a response, each worth gamma times the one before it."""
    if gamma == 1:
        return masked_sum(x, mask)
    return masked_sum(x * gamma ** torch.arange(x.shape[-1]).to(x), mask)


def gae(
    rewards: Float[Tensor, "B K T"],
    values: Float[Tensor, "B K T"],
    mask: Bool[Tensor, "B K T"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "B K T"], Float[Tensor, "B K T"]]:
    """Estimate advantages and returns by Generalized Advantage Estimation (arXiv:1506.02438, equation 16).

    The value after the last token is 0. Returns are advantages (not whitened) plus values. Both are 0 on padding.
    """
    rewards, values = rewards.where(mask, 0.0), values.where(mask, 0.0)
    advantages = torch.zeros_like(values)
    ahead = value_ahead = torch.zeros_like(values[..., 0])
    for t in reversed(range(mask.shape[-1])):
        step = rewards[..., t] + gamma * value_ahead - values[..., t] + gamma * lam * ahead
        # Padding follows the last token, where both are still 0, so nothing needs to be carried over it.
        ahead, value_ahead = step.where(mask[..., t], 0.0), values[..., t]
        advantages[..., t] = ahead
    return advantages, advantages + values


def kl_k1(token_logps: Float[Tensor, "*B T"], ref_token_logps: Float[Tensor, "*B T"]) -> Float[Tensor, "*B T"]:
    """Estimate the KL from the reference, in nats per token: unbiased on the policy's samples, of either sign."""
    return token_logps - ref_token_logps


def kl_k2(token_logps: Float[Tensor, "*B T"], ref_token_logps: Float[Tensor, "*B T"]) -> Float[Tensor, "*B T"]:
    """Estimate the KL as half the squared log-ratio: never negative, a little biased, small variance."""
    return (token_logps - ref_token_logps) ** 2 / 2


def kl_k3(token_logps: Float[Tensor, "*B T"], ref_token_logps: Float[Tensor, "*B T"]) -> Float[Tensor, "*B T"]:
    """Estimate the KL as 1/q - 1 + log q with q = pi/pi_ref: unbiased and never negative (Schulman's k3)."""
    log_ratio = token_logps - ref_token_logps
    return torch.expm1(-log_ratio) + log_ratio


def _check_group(scores: Float[Tensor, "B K"]) -> None:
    if scores.shape[-1] < 2:
        raise SettingError("K is 1, but responses are judged against others to the same prompt; set K to 2 or more")


@dataclass(frozen=True, kw_only=True)
class AdaptiveKL:
    """A price of KL that follows a target: dearer when the policy is too far away, cheaper when too near.

        e = clip(kl / target - 1, -0.2, 0.2),     beta <- beta (1 + rate e)

    The paper (Ziegler et al. 2019, arXiv:1909.08593, section 2.2) uses rate 0.1 for each update; its
    code uses the responses of the update divided by a horizon of 10,000. Pass the one you mean.
    """

    beta: float
    target: float
    rate: float = 0.1

    def __post_init__(self) -> None:
        assert self.target > 0, "a price that follows a KL target needs one above 0"

    def update(self, kl: float) -> "AdaptiveKL":
        """Adapt the price to the mean KL of a round, in nats per response (k1, so it may be negative)."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, beta=self.beta * (1 + self.rate * error))

"""Mistakes that were found in well-known repositories, or are easy to make. Each must break the law it is named for.

A trap without a law of its own keeps them all, and only the oracle knows. The annotations matter: the
laws read them.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparring.core import registry
from sparring.core.credit import at_last_token, every_token, gae, leave_one_out
from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean, masked_sum, whiten
from sparring.core.registry import knob
from sparring.core.surrogate import clipped

BKT = Float[Tensor, "B K T"]
MASK = Bool[Tensor, "B K T"]
TRAPS = {}


def trap(breaks, *, data="preference", oracle=None):
    def add(cls):
        name = "trap_" + cls.__name__
        registry.method(name, data=data)(cls)
        TRAPS[cls.__name__] = (registry.METHODS.pop(name), breaks, oracle)
        return cls

    return add


def pair_loss(reward):
    return per_prompt(-logsigmoid(reward[:, 0] - reward[:, 1]), reward)


def token_loss(total, mask):
    return Loss(masked_sum(total, mask).sum(-1), mask.sum((-1, -2)).to(total.dtype))


@trap("shape")  # HALOs, SLiC: the regularizer keeps one axis more than the hinge
class KeepsTheTokenAxis:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        logp = masked_sum(token_logps, mask)
        return per_prompt((1 - logp[:, 0] + logp[:, 1]).clamp(min=0)[:, None] - token_logps[:, 0])


@trap("finite_at_start")  # HALOs, IPO: the length is guessed by counting the log-ratios that are not zero
class GuessesTheMask:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        ratio = (token_logps - ref_token_logps).where(mask, 0.0)
        return pair_loss(ratio.sum(-1) / (ratio != 0).sum(-1))


@trap("every_signal_counts")  # HALOs, SimPO: a reference is loaded and run, and its answer thrown away
class AsksForAReference:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss(2 * masked_mean(token_logps, mask))


@trap("every_signal_counts")  # a soft label is welcomed, and thrown away
class WelcomesALabel:
    def loss(self, token_logps: BKT, mask: MASK, label: Float[Tensor, " B"] | None = None) -> Loss:
        return pair_loss(masked_sum(token_logps, mask))


@trap("absent_means_neutral")  # without a label the pair is taken for a coin toss
class TakesNoLabelForATie:
    def loss(self, scores: Float[Tensor, "B K"], label: Float[Tensor, " B"] | None = None) -> Loss:
        p = 0.5 if label is None else label
        d = scores[:, 0] - scores[:, 1]
        return per_prompt(-p * logsigmoid(d) - (1 - p) * logsigmoid(-d))


@trap("words")  # HALOs: *args swallows whatever the caller sends
class SwallowsArguments:
    def loss(self, token_logps: BKT, mask: MASK, *args) -> Loss:
        return pair_loss(masked_sum(token_logps, mask))


@trap("words")  # one name with a shape of its own
class GivesAWordAnotherShape:
    def loss(self, token_logps: BKT, mask: MASK, margin: Float[Tensor, "B K"] | None = None) -> Loss:
        reward = masked_sum(token_logps, mask)
        return pair_loss(reward if margin is None else reward - margin[:, None])


@trap("shape")  # open-instruct, WPO: sequence sums [B] meet a token mask [B, T]
class MasksASum:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        logp = masked_sum(token_logps, mask)
        weight = (logp[:, 0] * mask[:, 0]).sum(-1) / mask[:, 0].sum(-1)
        return per_prompt(-logsigmoid(logp[:, 0] - logp[:, 1]) * weight)


@trap("micro_batches")  # the batch mean is taken inside the loss
class TakesTheMean:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        r = masked_sum(token_logps - ref_token_logps, mask)
        return per_prompt(-logsigmoid(r[:, 0] - r[:, 1]).mean().expand(len(r)))


@trap("padding")  # padding is summed too
class ForgetsTheMask:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss((token_logps - ref_token_logps).sum(-1) + 0.1 * mask.sum(-1))


@trap("padding")  # multiplying by the mask keeps the NaN of padding, in the value or in the gradient
class MultipliesByTheMask:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss((token_logps * mask).sum(-1))


@trap("direction")  # chosen and rejected change places
class RanksBackwards:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss(-masked_sum(token_logps - ref_token_logps, mask))


@trap("finite_far_away")  # log(sigmoid(z)) instead of logsigmoid(z)
class TakesTheLogOfTheSigmoid:
    def loss(self, scores: Float[Tensor, "B K"]) -> Loss:
        return per_prompt(-torch.sigmoid(scores[:, 0] - scores[:, 1]).log(), scores)


@trap("gradient")  # part of the loss is detached: its value is right, its gradient is not
class DetachesTheRejected:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        logp = masked_sum(token_logps, mask)
        return per_prompt(-logsigmoid(logp[:, 0] - logp[:, 1].detach()))


@trap("every_knob_counts")  # a documented knob that turns nothing
class ForgetsAKnob:
    smoothing: float = knob(0.0, "a knob of a trap")

    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss(masked_sum(token_logps, mask))


@trap("every_knob_counts")  # two choices that are the same
class OffersOneChoiceTwice:
    average: str = knob("sum", "a knob of a trap", choices=("sum", "mean", "average"))

    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss((masked_sum if self.average == "sum" else masked_mean)(token_logps, mask))


@trap("pure")  # RRHF's official code: the labels that make the mask are overwritten in place
class OverwritesItsInput:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        token_logps.masked_fill_(~mask, 0.0)
        return pair_loss(token_logps.sum(-1))


@trap(None, oracle="pairwise_ranker")  # only the letters are compared, so nothing is ever written but by chance
class ComparesTheLettersOnly:
    def loss(self, token_logps: BKT, mask: MASK, label: Float[Tensor, " B"] | None = None) -> Loss:
        letter = masked_sum(token_logps, mask)
        d, p = letter[:, 0] - letter[:, 1], 1.0 if label is None else label
        return per_prompt(-p * logsigmoid(d) - (1 - p) * logsigmoid(-d), letter)


@trap(None, oracle="dpo")  # beta is applied twice
class SquaresBeta:
    beta: float = knob(0.1, "a knob of a trap")
    label_smoothing = 0.0

    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss(self.beta**2 * masked_sum(token_logps - ref_token_logps, mask))


@trap(None, oracle="dpo")  # DPO with rewards averaged over the tokens, as its variants have them
class AveragesTheReward:
    beta: float = knob(0.1, "a knob of a trap")
    label_smoothing = 0.0

    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        return pair_loss(self.beta * masked_mean(token_logps - ref_token_logps, mask))


@trap(None, data="demonstration", oracle="sft")  # each response weighs the same, so tokens of short ones weigh more
class AveragesEachResponse:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        return per_prompt(-masked_mean(token_logps, mask).sum(-1))


@trap(None, data="ranking", oracle="listwise_dpo")  # a thesis prints the first response for the k-th in its equation
class PrintsTheFirstForTheKth:
    beta: float = knob(0.1, "a knob of a trap")
    mode, stages = "full", "sum"

    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
        h = self.beta * masked_sum(token_logps - ref_token_logps, mask)
        here = mask.any(-1)
        lost = torch.zeros_like(h[:, 0])
        for k in range(h.shape[1] - 1):
            worse = (h[:, k + 1 :] - h[:, :1]).masked_fill(~here[:, k + 1 :], -torch.inf)
            lost = lost + torch.cat([torch.zeros_like(h[:, :1]), worse], 1).logsumexp(-1)
        return per_prompt(lost)


@trap("finite_far_away", data="ranking")  # PRO's official code: the log of a sum of exps, with a small number added
class AddsUpExponentials:
    def loss(self, token_logps: BKT, mask: MASK, ratings: Float[Tensor, "B K"]) -> Loss:
        s = masked_mean(token_logps, mask)
        own = (s[:, 0] * (ratings[:, 0] - ratings[:, -1])).exp()
        rivals = (s[:, 1:] * (ratings[:, :1] - ratings[:, 1:])).exp().sum(-1)
        return per_prompt(-(own / (own + rivals + 1e-10)).log())


@trap("missing_responses", data="ranking")  # the worst response is taken to be the last of the tensor
class TakesTheLastForTheWorst:
    def loss(self, token_logps: BKT, mask: MASK) -> Loss:
        s = masked_sum(token_logps, mask)
        return per_prompt(-logsigmoid(s[:, 0] - s[:, -1]))


@trap("micro_batches", data="rating")  # KTO with the baseline taken from whatever shares the micro-batch
class TakesTheBaselineFromTheMicroBatch:
    def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK, ratings: Float[Tensor, "B K"]) -> Loss:
        ratio = masked_sum(token_logps - ref_token_logps, mask)[:, 0]
        gain = 0.1 * (ratio - ratio.mean().clamp(min=0))
        return per_prompt(torch.sigmoid(torch.where(ratings[:, 0] > 0.5, -gain, gain)))


class Sampled:
    """Knobs and credit for traps in a PPO loss."""

    clip = value_clip = 0.2
    value_weight = 0.0

    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        return {"advantages": every_token(leave_one_out(scores), mask)}


@trap(None, data="prompt", oracle="ppo")  # the maximum instead of the minimum: pessimism becomes optimism
class ClipsTheOtherSide(Sampled):
    def loss(self, token_logps: BKT, old_token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        q, a = (token_logps - old_token_logps).where(mask, 0.0).exp(), advantages.where(mask, 0.0)
        return token_loss(-torch.maximum(q * a, q.clamp(0.8, 1.2) * a), mask)


@trap("gradient", data="prompt", oracle="ppo")  # the ratio itself is clamped, and detached where it should push back
class DetachesTheRatio(Sampled):
    def loss(self, token_logps: BKT, old_token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        q, a = (token_logps - old_token_logps).where(mask, 0.0).exp(), advantages.where(mask, 0.0)
        return token_loss(-torch.minimum(q.detach() * a, q.clamp(0.8, 1.2) * a), mask)


class Grouped:
    """Knobs and credit for traps in a GRPO loss."""

    kl, clip, scale, average, estimator = 0.04, 0.2, "none", "token", "k3"

    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        return {"advantages": every_token(scores - scores.mean(-1, keepdim=True), mask)}


@trap("micro_batches", data="prompt")  # several losses divide by the longest response that the batch happens to hold
class DividesByTheLongestResponse(Grouped):
    def loss(self, token_logps: BKT, old_token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        each = clipped(token_logps, old_token_logps, advantages, mask, self.clip) / mask.sum(-1).max()
        return Loss(masked_sum(each, mask).sum(-1), torch.full_like(each[:, 0, 0], 4.0))


@trap(None, data="prompt", oracle="grpo")  # k1 in the loss: its derivative is 1 everywhere, so it holds nothing back
class PutsTheLogRatioIntoTheLoss(Grouped):
    def loss(self, token_logps: BKT, old_token_logps: BKT, ref_token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        each = clipped(token_logps, old_token_logps, advantages, mask, self.clip)
        return token_loss(each + self.kl * (token_logps - ref_token_logps), mask)


@trap(None, data="prompt", oracle="grpo")  # the ratio of k3 upside down: pi/pi_ref - 1 - log(pi/pi_ref)
class TurnsTheRatioOfK3Round(Grouped):
    def loss(self, token_logps: BKT, old_token_logps: BKT, ref_token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        each = clipped(token_logps, old_token_logps, advantages, mask, self.clip)
        log_ratio = (token_logps - ref_token_logps).where(mask, 0.0)
        return token_loss(each + self.kl * (log_ratio.exp() - 1 - log_ratio), mask)


class Plain:
    """The REINFORCE loss, for traps in the credit."""

    def loss(self, token_logps: BKT, advantages: BKT, mask: MASK) -> Loss:
        return token_loss(-advantages.where(mask, 0.0) * token_logps, mask)


@trap("padding", data="prompt")  # right where all responses have one length, as in OpenAI's code; wrong elsewhere
class PaysAtTheEndOfTheTensor(Plain):
    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        rewards = torch.zeros(mask.shape, dtype=scores.dtype)
        rewards[..., -1] = scores
        return {"advantages": rewards}


@trap("padding", data="prompt")  # advantages are whitened over padding too
class WhitensThePadding(Plain):
    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        return {"advantages": whiten(at_last_token(scores, mask), torch.ones_like(mask))}


@trap("credit", data="prompt")  # the baseline is the running mean of what came before in the batch
class ReliesOnTheOrder(Plain):
    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        before = scores.cumsum(-1) / torch.arange(1, scores.shape[-1] + 1)
        return {"advantages": every_token(scores - before, mask)}


@trap("credit", data="prompt")  # the loss asks for values that nobody trains, the credit forgets the returns
class ForgetsTheReturns(Sampled):
    def loss(self, token_logps: BKT, values: BKT, returns: BKT, advantages: BKT, mask: MASK) -> Loss:
        off = (values - returns).where(mask, 0.0)
        return token_loss(off**2 - advantages.where(mask, 0.0) * token_logps, mask)


@trap(None, data="prompt", oracle="rloo_credit")  # a baseline that includes the response itself
class IncludesItself(Plain):
    kl = 0.0

    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        return {"advantages": every_token(scores - scores.mean(-1, keepdim=True), mask)}


@trap(None, data="prompt", oracle="grpo_credit")  # scaled by the whole round instead of the group
class ScalesByTheBatch(Plain):
    scale = "std"

    def credit(self, scores: Float[Tensor, "B K"], mask: MASK):
        above = scores - scores.mean(-1, keepdim=True)
        return {"advantages": every_token(above / scores.std(correction=0), mask)}


@trap(None, data="prompt", oracle="ppo_credit")  # returns are made of the whitened advantages
class AddsValuesToWhitenedAdvantages:
    kl, gamma, lam, whiten = 0.0, 1.0, 0.95, "advantages"

    def credit(self, scores: Float[Tensor, "B K"], old_values: BKT, mask: MASK):
        advantages = whiten(gae(at_last_token(scores, mask), old_values, mask, self.gamma, self.lam)[0], mask)
        return {"advantages": advantages, "returns": (advantages + old_values).where(mask, 0.0)}

    def loss(self, token_logps: BKT, values: BKT, returns: BKT, advantages: BKT, mask: MASK) -> Loss:
        off = (values - returns).where(mask, 0.0)
        return token_loss(off**2 - advantages.where(mask, 0.0) * token_logps, mask)


@trap(
    None, data="prompt", oracle="ppo_credit"
)  # rewards are shifted to mean 0: every token but the last costs something
class ShiftsTheRewards:
    kl, gamma, lam, whiten = 0.0, 1.0, 0.95, "rewards"

    def credit(self, scores: Float[Tensor, "B K"], old_values: BKT, mask: MASK):
        rewards = whiten(at_last_token(scores, mask), mask)
        advantages, returns = gae(rewards, old_values, mask, self.gamma, self.lam)
        return {"advantages": advantages, "returns": returns}

    def loss(self, token_logps: BKT, values: BKT, returns: BKT, advantages: BKT, mask: MASK) -> Loss:
        off = (values - returns).where(mask, 0.0)
        return token_loss(off**2 - advantages.where(mask, 0.0) * token_logps, mask)


def accepts_by_value(texts, scores, beta, m, random):
    """RSO's algorithm 1 as it is printed: candidates are keys of a dictionary, so equal samples become one."""
    pool, kept = dict(zip(texts, scores, strict=True)), []
    while len(kept) < m:
        top = max(pool.values())
        taken = [y for y, r in pool.items() if random.random() < math.exp((r - top) / beta)]
        kept += taken[: m - len(kept)]
        pool = {y: r for y, r in pool.items() if y not in taken}
    return kept

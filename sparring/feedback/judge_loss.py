"""What a judge that learns along makes smaller, given the logits of a demonstration and of a fake.

    bce:  [ -log sigmoid(s(real)) - log sigmoid(-s(fake)) ] / 2
    ls:   [ (s(real) - 1)^2 + (s(fake) + 1)^2 ] / 4
    bt:   -log sigmoid(m),                     m = s(real) - s(fake)
    tie:  -log( P(real) + 0.55 P(tie) ),       P(real) = sigmoid(m - log 2), P(fake) = sigmoid(-m - log 2)

The last is a verdict of three words, as Rao and Kupper have it: which of two texts is the demonstration, or that
nobody can say. A critic who is sure earns 1 when he is right and nothing when he is wrong, a tie earns 0.55, a little
more than guessing. RARO maximises what is earned by reinforcement learning; with the verdict's probabilities known
its mean is known as well, and its logarithm has a slope where a critic is sure and wrong.

Source: Yu et al. 2023, arXiv:2305.06176, table 1 (bce); Mao et al. 2017, arXiv:1611.04076 (ls); GAD, arXiv:2511.10643
(bt); RARO, arXiv:2511.21667, and Rao and Kupper 1967, doi:10.1080/01621459.1967.10482901 (tie).
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from sparring.core.loss import Loss, per_prompt
from sparring.core.masked import masked_mean
from sparring.feedback.adversary import called_real, tie_odds

OF_PAIRS = ("bt", "tie")
"""The losses that look at nothing but the difference of two logits."""

TIE = 0.55  # what a tie earns the critic


def misfit(form: str, sees: str, reward: str) -> str:
    """Say why a judge that sees this, and pays this, has no use for a loss; empty where it has."""
    if sees == "pair" and form not in OF_PAIRS:
        return f"judge_sees pair says which of two is real, and judge_loss {form} judges one; set tie or bt"
    if sees == "prefix" and form in OF_PAIRS:
        return f"judge_sees prefix compares no pairs, and judge_loss {form} does; set bce or ls"
    if sees == "one" and form in OF_PAIRS and reward != "logit":
        return (
            f"judge_loss {form} learns how far one text is above another, and reward {reward} asks on which side of "
            "zero one is; set reward logit, or judge_loss bce"
        )
    return ""


def judge_loss(real: Float[Tensor, " B"], fake: Float[Tensor, " B"], form: str, smoothing: float) -> Loss:
    """Give the judge's loss for pairs of logits; `smoothing` is how far the targets stay from 0 and 1."""
    if form in OF_PAIRS:
        ahead = real - fake
        return per_prompt((1 - smoothing) * _lost(ahead, form) + smoothing * _lost(-ahead, form))
    return per_prompt((_alone(real, form, smoothing) + _alone(-fake, form, smoothing)) / 2)


def standing(real: Float[Tensor, " B"], fake: Float[Tensor, " B"], form: str) -> tuple[Tensor, Tensor]:
    """Say how far a demonstration and a fake are on the right and the wrong side of zero.

    A loss that looks at the difference alone leaves zero anywhere, so there each has half the difference.
    """
    if form not in OF_PAIRS:
        return real, fake
    half = (real - fake) / 2
    return half, -half


def loss_so_far(
    real: Float[Tensor, "B T"],
    fake: Float[Tensor, "B T"],
    masks: tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T"]],
    form: str,
    smoothing: float,
) -> Loss:
    """Give the same for logits of every prefix of the texts, of which each text takes the mean; bce or ls."""
    lost = (_alone(real, form, smoothing), _alone(-fake, form, smoothing))
    of_real, of_fake = (masked_mean(x, mask) for x, mask in zip(lost, masks, strict=True))
    return per_prompt((of_real + of_fake) / 2)


def _lost(ahead: Tensor, form: str) -> Tensor:
    """What a difference of logits costs that should be large."""
    if form == "bt":
        return softplus(-ahead)
    return -called_real(ahead) - (TIE * tie_odds(ahead)).log1p()


def _alone(s: Tensor, form: str, smoothing: float) -> Tensor:
    """What a logit costs that should be large."""
    if form == "ls":
        return (s - (1 - 2 * smoothing)).square() / 2
    return (1 - smoothing) * softplus(-s) + smoothing * softplus(s)

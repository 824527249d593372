"""Figures of judges that learn along: how sure they are, how often right, and of what."""

from sparring.core.metric import Metric

JUDGE = {
    "judge_loss": Metric(
        meaning="loss of the discriminator (log 2 = 0.693 when it cannot tell)",
        unit="nats",
        healthy="0.3 to 0.7; near 0 the policy gets no usable reward",
        low=0.1,
        high=0.8,
    ),
    "words_loss": Metric(
        meaning="judge_loss of a judge of words beside another",
        unit="nats",
        healthy="as that of any judge",
        low=0.1,
        high=0.8,
    ),
    "words_accuracy": Metric(
        meaning="its judge_accuracy", unit="share", healthy="0.6 to 0.9, as of any judge", low=0.5, high=0.95
    ),
    "judge_loss_real": Metric(
        meaning="its part on demonstrations", unit="nats", healthy="near judge_loss_fake", low=0.05, high=1.0
    ),
    "judge_loss_fake": Metric(
        meaning="its part on the policy's samples", unit="nats", healthy="near judge_loss_real", low=0.05, high=1.0
    ),
    "judge_accuracy": Metric(
        meaning="share of real and fake that it tells apart while learning from them",
        unit="share",
        healthy="0.6 to 0.9; 0.5 says nothing, 1 says only 'fake'",
        low=0.5,
        high=0.95,
    ),
    "judge_accuracy_held_out": Metric(
        meaning="the same on demonstrations it never saw and on fresh samples",
        unit="share",
        healthy="within 0.1 of judge_accuracy; lower means it learned the demonstrations by heart",
        low=0.5,
        high=0.95,
    ),
    "judge_by_heart": Metric(
        meaning="judge_accuracy lately, where held-out accuracy is below 0.6; else 0",
        unit="share",
        healthy="0; above 0.9 the reward may be noise, as another judge can say",
        high=0.9,
    ),
    "judge_score_real": Metric(
        meaning="mean score of held-out demonstrations", unit="logit", healthy="above judge_score_fake, the gap below 5"
    ),
    "judge_score_fake": Metric(
        meaning="mean score of fresh samples beside them", unit="logit", healthy="approaches judge_score_real"
    ),
    "judge_grad_norm": Metric(
        meaning="length of the judge's gradient before clipping", unit="norm", healthy="steady, without jumps", low=0.0
    ),
    "judge_steps": Metric(
        meaning="updates of the judge in this round",
        unit="steps",
        healthy="judge_steps as set; 0 while the judge is above its gate and rests",
        low=0.0,
    ),
}

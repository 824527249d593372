"""Every figure that a run writes to metrics.jsonl: what it means, its unit, and what a healthy run shows.

The bands are signs, not proofs. `low` and `high` are where a figure becomes worth a look; None means
that no number is right for every run. Means over responses or tokens are taken over the whole batch.
"""

from sparring.core.judge_metrics import JUDGE
from sparring.core.metric import Metric
from sparring.core.selection_metrics import SELECTION
from sparring.core.seqgan_metrics import SEQGAN

_TRAINING = {
    "step": Metric(meaning="optimizer steps made so far", unit="steps", healthy="counts up by one", low=1.0),
    "round": Metric(
        meaning="rounds of sampling so far, those in which only a judge learns included",
        unit="rounds",
        healthy="counts up by one",
        low=1.0,
    ),
    "loss": Metric(
        meaning="what the optimizer makes smaller",
        unit="nats",
        healthy="falls, then levels off; for online methods it wanders about 0",
    ),
    "eval_loss": Metric(
        meaning="the loss on held-out records",
        unit="nats",
        healthy="falls with loss; when it rises while loss falls, the model learns by heart",
    ),
    "pretrain_loss": Metric(
        meaning="mean loss of a token of the pre-training text that is mixed into the updates",
        unit="nats",
        healthy="stays near its start; a rise means that the policy forgets how to write such text",
        low=0.0,
    ),
    "grad_norm": Metric(
        meaning="length of the gradient before clipping",
        unit="norm",
        healthy="steady; a jump of ten times and more is a warning",
        low=0.0,
    ),
    "lr": Metric(meaning="learning rate of this step", unit="per step", healthy="follows its schedule", low=0.0),
    "tokens": Metric(meaning="response tokens trained on so far", unit="tokens", healthy="rises evenly", low=0.0),
    "tokens_per_second": Metric(
        meaning="tokens computed in a second, prompts included",
        unit="tokens/s",
        healthy="steady; a fall means longer rows or a busy machine",
        low=0.0,
    ),
    "seconds": Metric(
        meaning="wall-clock time spent on the run, without pauses between a stop and its resumption",
        unit="s",
        healthy="rises evenly",
        low=0.0,
    ),
}

_ORDERED = {
    "reward_accuracy": Metric(
        meaning="share of neighbouring responses that the model ranks as the data does",
        unit="share",
        healthy="0.5 is chance, 0.6 to 0.8 usual on human choices; near 1 early is too easy or a leak",
        low=0.5,
        high=0.98,
    ),
    "eval_reward_accuracy": Metric(
        meaning="the same on held-out records",
        unit="share",
        healthy="within 0.1 of the training figure",
        low=0.5,
        high=0.98,
    ),
    "reward_margin": Metric(
        meaning="reward of the better response of a pair minus that of the worse",
        unit="reward",
        healthy="positive and growing slowly",
        low=0.0,
    ),
    "reward_best": Metric(
        meaning="reward of the chosen response; of a ranking, of the better ones of all pairs",
        unit="reward",
        healthy="about 0 at the start; for DPO it may fall, more slowly than reward_worst",
    ),
    "reward_worst": Metric(
        meaning="reward of the rejected response; of a ranking, of the worse ones of all pairs",
        unit="reward",
        healthy="falls below reward_best",
    ),
    "eval_reward_margin": Metric(
        meaning="reward_margin on held-out records",
        unit="reward",
        healthy="rises with the training figure; when it falls, the model learns by heart",
        low=0.0,
    ),
    "eval_reward_best": Metric(
        meaning="reward_best on held-out records", unit="reward", healthy="near the training figure"
    ),
    "eval_reward_worst": Metric(
        meaning="reward_worst on held-out records", unit="reward", healthy="near the training figure"
    ),
}

_SAMPLES = {
    "score": Metric(
        meaning="mean score that the feedback gave to the samples",
        unit="reward",
        healthy="rises; against a judge that learns, it settles",
    ),
    "score_std": Metric(
        meaning="standard deviation of the scores of one round",
        unit="reward",
        healthy="above 0; when all scores are equal nothing is learned",
        low=1e-6,
    ),
    "eval_score": Metric(
        meaning="mean score of answers to held-out prompts, by a judge that does not learn",
        unit="reward",
        healthy="rises with score; a growing gap means that prompts are learnt by heart",
    ),
    "reward": Metric(
        meaning="mean score after the price of KL, and of not ending, is taken off",
        unit="reward",
        healthy="rises; when score rises and reward falls, KL costs more than it earns",
    ),
    "kl": Metric(
        meaning="distance from the reference, summed over a response (k1, may be negative)",
        unit="nats",
        healthy="rises from 0 and levels off; far beyond 50 means an over-optimised judge",
        low=-5.0,
        high=50.0,
    ),
    "kl_per_token": Metric(
        meaning="the same for each token, so that responses of any length compare",
        unit="nats/token",
        healthy="below 0.5; above 1 the text is hardly the reference's any more",
        low=-0.1,
        high=1.0,
    ),
    "ref_nll": Metric(
        meaning="what the reference finds a token of the samples worth: their cross-entropy (entropy + kl_per_token)",
        unit="nats/token",
        healthy="level or falling; 0.3 above its lowest a learnt judge is being over-optimised",
        low=0.0,
    ),
    "ref_nll_error": Metric(
        meaning="standard error of ref_nll, by response",
        unit="nats/token",
        healthy="below 0.1; a few short responses have more, and the watch waits for what is beyond it",
        low=0.0,
    ),
    "kl_k3": Metric(
        meaning="kl by an estimator that is never negative",
        unit="nats",
        healthy="close to kl; far from it means few samples or a policy far away",
        low=0.0,
        high=50.0,
    ),
    "kl_price": Metric(
        meaning="reward paid for one nat of KL",
        unit="reward/nat",
        healthy="constant, or slowly following its target",
        low=0.0,
    ),
    "entropy": Metric(
        meaning="mean entropy of the policy's next token",
        unit="nats/token",
        healthy="falls slowly; below a third of its first value the policy is collapsing",
        low=0.1,
    ),
    "length": Metric(
        meaning="mean length of a response",
        unit="tokens",
        healthy="within 15 percent of the start unless length is rewarded",
        low=1.0,
    ),
    "eos_rate": Metric(
        meaning="share of responses that ended by themselves",
        unit="share",
        healthy="steady; falling to 0 means rambling, 1 with short length means giving up",
        low=0.0,
        high=1.0,
    ),
    "distinct_1": Metric(
        meaning="different tokens as a share of all tokens in the round",
        unit="share",
        healthy="within 15 percent of the start",
        low=0.02,
        high=1.0,
    ),
    "distinct_2": Metric(
        meaning="different pairs of tokens as a share of all pairs in the round",
        unit="share",
        healthy="within 15 percent of the start",
        low=0.1,
        high=1.0,
    ),
    "repeated_4grams": Metric(
        meaning="share of 4-grams that occurred before in the same response",
        unit="share",
        healthy="below 0.1; a rise is the first sign of degenerate text",
        low=0.0,
        high=0.2,
    ),
    "cue_length": Metric(
        meaning="correlation of score and length within a round: whether the judge looks at length",
        unit="correlation",
        healthy="near 0 unless length is rewarded; beyond 0.5 the judge mostly counts tokens",
        low=-0.5,
        high=0.5,
    ),
    "cue_fluency": Metric(
        meaning="correlation of score and the reference's log-probability per token: whether it looks at fluency",
        unit="correlation",
        healthy="near 0; beyond 0.5 the judge mostly tells usual text from unusual, whatever it says",
        low=-0.5,
        high=0.5,
    ),
    "identical": Metric(
        meaning="share of responses that equal another one of the round",
        unit="share",
        healthy="near 0 for long text; a rise means mode collapse",
        low=0.0,
        high=0.3,
    ),
}

_UPDATES = {
    "clip_fraction": Metric(
        meaning="share of tokens whose probability ratio left the clip range",
        unit="share",
        healthy="0 in the first update of a round, then below 0.3",
        low=0.0,
        high=0.3,
    ),
    "ratio_max": Metric(
        meaning="largest probability ratio between the policy and the one that sampled",
        unit="ratio",
        healthy="1 in the first update of a round, then below 10",
        low=1.0,
        high=10.0,
    ),
    "value_loss": Metric(
        meaning="mean squared error of the value head, halved",
        unit="reward^2",
        healthy="falls; a jump follows a change of the reward",
        low=0.0,
    ),
    "value_explained": Metric(
        meaning="share of the variance of returns that the values explain",
        unit="share",
        healthy="rises above 0; below 0 the values are worse than a constant",
        low=-1.0,
        high=1.0,
    ),
}

METRICS: dict[str, Metric] = {**_TRAINING, **_ORDERED, **_SAMPLES, **_UPDATES, **JUDGE, **SELECTION, **SEQGAN}

_OF_LOOP = {
    "offline": (*_TRAINING, *_ORDERED),
    "online": (*_TRAINING, *_SAMPLES, *_UPDATES),
    "rounds": ("score", "length", "kl", "eval_score", *SELECTION),
}


def of_loop(loop: str, *, has_discriminator: bool = False) -> list[str]:
    """List the figures that a run of this loop has: offline, online or rounds."""
    return [*_OF_LOOP[loop], *(JUDGE if has_discriminator else ())]

"""Figures of the methods that learn by selecting: what was kept of what was sampled."""

from sparring.core.metric import Metric

SELECTION = {
    "kept": Metric(
        meaning="records that were selected to train on", unit="records", healthy="enough for several steps", low=1.0
    ),
    "kept_prompts": Metric(
        meaning="share of the prompts for which something was selected",
        unit="share",
        healthy="steady; a fall means that only easy prompts are still learned from",
        low=0.05,
        high=1.0,
    ),
    "score_selected": Metric(
        meaning="mean score of the selected responses (of the better one of a pair)",
        unit="reward",
        healthy="above score; when both meet, selecting teaches nothing more",
    ),
    "threshold": Metric(
        meaning="what a response had to exceed to be selected (scaled, or a quantile, as its method says)",
        unit="reward",
        healthy="below the scores of a good part of the samples",
    ),
    "acceptance_rate": Metric(
        meaning="probability that rejection sampling accepts a sample, in its first pass over the pool",
        unit="share",
        healthy="0.05 to 0.8; near 1 it rejects nothing, near 0 the pool is too small for its beta",
        low=0.02,
        high=0.95,
    ),
}

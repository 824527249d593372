"""Figures of SeqGAN: what the oracle, the held-out sequences and the discriminator say of the generator."""

from sparring.core.metric import Metric

SEQGAN = {
    "nll_oracle": Metric(
        meaning="mean negative log-likelihood of a sampled token by the oracle that made the real sequences",
        unit="nats/token",
        healthy="falls; while nll_test rises it tells of fewer things said, not of better ones",
        low=0.0,
    ),
    "nll_test": Metric(
        meaning="mean negative log-likelihood of a held-out real token by the generator",
        unit="nats/token",
        healthy="falls in maximum likelihood; a rise in the game is what forgetting real sequences costs",
        low=0.0,
    ),
    "loss_d": Metric(
        meaning="cross-entropy of the CNN discriminator, without the price of its weights",
        unit="nats",
        healthy="0.3 to 0.7; near 0 every sample earns nothing",
        low=0.1,
        high=0.8,
    ),
    "accuracy_d": Metric(
        meaning="share of real sequences and fakes that the CNN discriminator tells apart while learning from them",
        unit="share",
        healthy="0.6 to 0.9; 0.5 says nothing, 1 says only 'fake'",
        low=0.5,
        high=0.95,
    ),
}

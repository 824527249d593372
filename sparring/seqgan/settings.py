"""SeqGAN: an LSTM that writes, a CNN that tells, and Monte-Carlo roll-outs that say which token earned what.

    L = - sum_t log G(y_t | y_<t) * Q_t,     Q_t = mean of D over N completions of y_1..y_t,     Q_T = D(y)
    L = cross-entropy of D, real against fake + l2 * (|W|^2 + |b|^2) / 2

The first is the generator's, the second the discriminator's. D(y) is the probability that y is real. A prefix is
worth what its completions are worth on average, so every token gets a reward of its own though D only reads whole
sequences. Sums run over batch and time; there is no discount and, unless asked for, no baseline. Both networks
start from nothing and have a vocabulary of their own: this is the adversarial text generation of 2017 and a
baseline to compare with, not a way to align a language model.

Three stages, each counted in rounds one after the other: the generator learns by maximum likelihood (`mle`, a
round is an epoch), the discriminator learns from fresh fakes (`judge`, a round is one set of them), and then they
alternate (`game`, a round is one step of the generator and some sets for the discriminator).

Without --data the real sequences come from an oracle: an LSTM with random weights, N(0, 1), whose likelihood is
known. nll_oracle is what the oracle thinks of the generator's samples, nll_test what the generator thinks of
real sequences that it never saw; the first rewards a generator that repeats the few things it does well, the
second does not forgive it. Read them together, with the entropy. With --data a text is cut into words and
punctuation in lower case; rare words become one unknown word, and too long sentences are left out and counted.

Two things to know before believing a result:

    constant    upstream's issue 21 says that a constant in place of D's reward trains about as fast. The
                expected gradient of a constant reward is zero, but single steps are not: each sharpens what
                was sampled, so entropy falls, nll_test rises, and nll_oracle can fall without anything
                having been learned. Always run --credit constant beside.
    MCTS        what the paper (and arXiv:2305.06176 after it) calls Monte-Carlo tree search builds no tree; it is
                plain roll-out, and so it is here.

Where the paper and its code differ, this is the code. The paper's roll-out policy is the generator itself (`lag` 0);
the code means it to lag by 0.8, its embeddings taken over at once, and so it is here. But its TensorFlow 1 update
binds new Python names after the graph was built, so that it probably never reached the roll-outs. Here real
sequences are shuffled anew in each epoch; there each epoch has the same batches. The game starts with a fresh Adam.

Source: Yu et al. 2017, arXiv:1609.05473, algorithm 1 and equations 2 to 8; defaults from the authors' code.
"""

from sparring.core.registry import knob, settings


@settings
class TaskSettings:
    """What is learned."""

    vocabulary: int = knob(5000, "different tokens; of a text the most frequent words", within=(2, 1_000_000))
    length: int = knob(20, "tokens in a sequence; a sentence has at most one less, and its end", within=(1, 1000))
    samples: int = knob(
        10_000, "real sequences to learn from, and fakes in each set for the discriminator", within=(1, 100_000_000)
    )
    held_out: float = knob(0.1, "real sequences for nll_test, as a share of the rest", within=(0.0001, 0.9))


@settings
class GeneratorSettings:
    """The LSTM and its optimizer."""

    embedding: int = knob(32, "numbers that stand for a token", within=(1, 100_000))
    hidden: int = knob(32, "numbers in the LSTM's state", within=(1, 100_000))
    lr: float = knob(0.01, "Adam's learning rate, in maximum likelihood and in the game", above=0)
    max_grad_norm: float = knob(5.0, "gradients longer than this are scaled down to it", above=0)


@settings
class JudgeSettings:
    """The CNN and its optimizer."""

    judge_embedding: int = knob(64, "numbers that stand for a token", within=(1, 100_000))
    filters: float = knob(1.0, "how many of the authors' 100 to 200 filters of each width", within=(0.001, 100))
    judge_lr: float = knob(1e-4, "Adam's learning rate", above=0)
    keep: float = knob(0.75, "share of the features that dropout keeps", within=(0.01, 1))
    l2: float = knob(0.2, "price of the squared weights of the output layer", within=(0, 1000))


@settings
class GameSettings:
    """The three stages, and the credit."""

    mle_epochs: int = knob(120, "rounds of maximum likelihood", within=(0, 1_000_000))
    judge_warmup: int = knob(50, "rounds in which only the discriminator learns", within=(0, 1_000_000))
    rounds: int = knob(200, "rounds of the game", within=(0, 10_000_000))
    judge_sets: int = knob(5, "sets of fresh fakes for the discriminator in a round of the game", within=(0, 1000))
    judge_epochs: int = knob(3, "passes over one set and as many real sequences", within=(1, 1000))
    rollouts: int = knob(16, "completions of every prefix", within=(1, 10_000))
    lag: float = knob(0.8, "share of its old weights that the roll-out policy keeps in a round", within=(0, 1))
    credit: str = knob(
        "discriminator",
        "what is rolled out to, or the control: 1 for every token",
        choices=("discriminator", "constant"),
    )
    baseline: str = knob(
        "none", "what is taken off Q: nothing, or the mean Q of the batch's others there", choices=("none", "others")
    )


@settings
class LoopSettings:
    """What goes for all stages."""

    batch: int = knob(64, "sequences in one update", within=(1, 1_000_000))
    eval_every: int = knob(5, "rounds between measurements", within=(1, 10_000_000))
    save_every: int = knob(5, "rounds between checkpoints", within=(1, 10_000_000))
    seed: int = knob(0, "the one seed that every random choice of the run is derived from", within=(0, 2**62))
    device: str = knob(
        "auto", "where to compute: auto takes an accelerator if there is one", choices=("auto", "cpu", "cuda", "mps")
    )


GROUPS = {
    "task": TaskSettings,
    "generator": GeneratorSettings,
    "judge": JudgeSettings,
    "game": GameSettings,
    "loop": LoopSettings,
}
"""The settings by the part of a request that holds them."""

"""RLGAF that differentiates through the sampler: the judge's gradient teaches every token. Demonstrations only.

    L = ( softplus(-s(x, y_real)) + softplus(s(x, y_fake)) ) / 2
    L = the equation of gumbel: -r(s(x, y~)) and the price of KL, y~ the policy's own response in relaxed tokens

The first is the discriminator's, the second the policy's; they alternate as in rlgaf, and the discriminator learns,
rests, remembers and is measured as there. In its update no gradient reaches the policy; in the policy's the
discriminator's weights stand still and its gradient passes through the text.

Forms of the relaxed tokens (`--form`):

    straight_through   the policy is fed, and the discriminator reads, exact tokens; only the gradient is that of the
                       softmax. Nothing that the discriminator reads is soft, so nothing is to be told from softness.
    soft               both read mixtures of embeddings. The discriminator then learns from mixtures too: every text
                       it is shown, demonstrations first of all, is relaxed at the same temperature, with the noise
                       the policy would have had, had it drawn that text. Else it would tell soft from hard, no more.

With `--base MODEL --judge-reads ratio` the discriminator is a language model q that is held against the base, as in
rlgaf. A mixture of tokens is then as much likelier as its tokens are on average, so what the policy is told of every
token is what each other one would have been worth in its place: log q(v | x, y~_<t) - log p_base(v | x, y~_<t), and
what it would have made of the rest. No gradient through hidden states, which a judge has never learnt to give, takes
part in the first. It is by far the better judge here, too (docs/results/gumbel.md).

Source: Yu et al. 2023, arXiv:2305.06176, table 1 and the Gumbel variant beside it.
"""

from sparring.core.registry import recipe

RLGAF_GUMBEL = recipe(
    "rlgaf_gumbel",
    data="demonstration",
    policies=("gumbel",),
    feedback="discriminator",
    defaults={"gumbel": {"reward": "logsig", "rounds": 20, "batch": 8}},
    with_ratio={"kl": 0.0125, "reward": "norm", "tau": 1.0},
)

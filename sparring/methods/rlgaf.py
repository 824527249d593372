"""RLGAF: reinforcement learning from generative adversarial feedback. Demonstrations only, no preferences.

    L = ( softplus(-s(x, y_real)) + softplus(s(x, y_fake)) ) / 2
    L = the equation of ppo, reinforce, rloo or grpo, its score made of s(x, y_fake)

The first is the discriminator's, the second the policy's. s is the discriminator, a language model
with a scalar head. It reads a prompt with a response and learns to tell demonstrated responses (real)
from the policy's own samples (fake); the policy learns to be taken for real. The two updates alternate.
In the discriminator's update the samples are text, so no gradient reaches the policy; in the policy's
update the discriminator only scores.

Three reward forms, of which the paper uses all at one place or another (a fourth is for verdicts with ties):

    logit     s                   unbounded; at best log( p_data / pi )
    norm      sigmoid(s) - 1/2    -1/2 to 1/2, 0 when nobody can tell
    logsig    log sigmoid(s)      never positive; minus the cross-entropy

With a perfect discriminator and no KL each of them ends at pi = p_data, where the discriminator's loss
is log 2. With KL price b and the logit form the end is pi ~ p_data^(1/(1+b)) * pi_ref^(b/(1+b)).

With the model before fine-tuning (`--base`) the game begins one move earlier: while the judge warms up it is not the
policy that answers but the base, as for a reward model that learns demonstrations over the base's own texts. So the
judge first learns what fine-tuning began to change, which is easier to see than what it left undone, and then the rest.
The base is dropped after that; its answers stay among the earlier ones until newer ones have taken their place. Such a
judge learns as reward models do, by default: one above the other (bt), targets of 0 and 1, at the rate that fits the
model; and a nat costs 0.05.

With --judge-reads ratio the discriminator has no head on its states: it is a language model q that scores a response by
how much likelier it finds it than the base does,

    s = sum_t [ log q(y_t | x, y_<t) - log p_base(y_t | x, y_<t) - level ] / sqrt(T) + bias

It starts as the policy does, so it knows what fine-tuning changed before it has learnt anything; the end is the same.
T is the mean length of a demonstration, and the level makes length worth nothing (docs/rlgaf.md). What it has not met
it may overrate without bound, and the policy leaps there, so by default it pays the bounded form norm, which is s / 4
where s is small, and a nat costs a quarter as well, 0.025 (docs/log.md).

With --judge-anchor a share a of s is what the judge said when its warm-up ended (feedback/anchored.py): the game keeps
what the judge knew before it met the policy, and ends at pi ~ ( p_data q^-a pi_ref^b )^(1 / (1 - a + b)), q being
whoever answered in the warm-up.

Two readings of the paper's IMDB experiment, in which only positive reviews are wanted: (i) positive
reviews are real and only the policy's samples are fake; (ii) negative reviews are fakes as well
(section 3.1 of the paper: the discriminator punishes them). Extra fakes are a setting of the data.

The discriminator may also see every prefix of a response, and then pays PPO's tokens one by one (`--judge-sees
prefix`), or a response beside a demonstration of its prompt, with ties (`--judge-sees pair --judge-loss tie`).

With few demonstrations a discriminator knows them by heart before it knows what they share. Then
--feedback bag_of_words helps: a judge that learns along as well and sees words only, a logistic regression
fitted to its optimum against all responses of the run so far. `discriminator+bag_of_words` is paid for by both.

Schedule of the paper's table 12: each epoch 10 demonstrations for the discriminator, each with a fresh
fake, and 100 prompts for the generator. The discriminator is trained little on purpose: once it always
wins, the norm reward is -1/2 everywhere and the text decays. Both of its totals, 150 and 570
demonstrations, mean ten times as many samples of the generator.

What the paper leaves open and what is done here: prices and clips of its equation 3 are not given. A nat
of KL costs 0.1, twice what the policies ask for elsewhere: a judge of a few hundred demonstrations is a
weak guide, and with less the policy drifts (docs/log.md). PPO looks ahead to the end (lambda 1): a judge that
moves makes all values wrong by the same amount, which a shorter view pays to the last tokens, the end of
the text among them, and responses shrink. The pre-training term has weight 0 unless --pretrain names a
text and --pretrain-weight its weight; table 1 back-propagates through
the discriminator, which fits only its Gumbel variant, so here as in its equations 1 to 3 the
discriminator's output is a reward.

Source: Yu et al. 2023, arXiv:2305.06176, table 1 and equations 1 to 3.
"""

from sparring.core.registry import recipe

RLGAF = recipe(
    "rlgaf",
    data="demonstration",
    policies=("ppo", "reinforce", "rloo", "grpo"),
    feedback="discriminator",
    defaults={
        "ppo": {"kl": 0.1, "lam": 1.0, "rounds": 20, "batch": 8},
        "reinforce": {"kl": 0.1, "rounds": 20, "batch": 8},
        "rloo": {"kl": 0.1, "rounds": 20, "batch": 8},
        "grpo": {"kl": 0.1, "rounds": 20, "batch": 8},
    },
    with_base={"kl": 0.05, "judge_loss": "bt", "label_smoothing": 0.0},
    with_ratio={"kl": 0.025, "reward": "norm"},
)

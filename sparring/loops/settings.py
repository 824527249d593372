"""Every setting of a run that is not a method's own knob: default, meaning and range, in one place.

The command line makes its flags from these classes and `run.yaml` stores them; nothing else holds a
default. This file imports no torch, so that help is instant.
"""

from sparring.core.registry import knob, settings


@settings
class ModelSettings:
    """How the model is loaded."""

    adapter: str = knob(
        "none", "what is trained: every weight, LoRA, or LoRA on 4-bit weights", choices=("none", "lora", "qlora")
    )
    rank: int = knob(16, "rank of the LoRA adapters", within=(1, 1024))
    precision: str = knob(
        "auto",
        "number format of the forward pass; auto measures which is fastest",
        choices=("auto", "fp32", "bf16"),
    )
    device: str = knob(
        "auto", "where to compute: auto takes an accelerator if there is one", choices=("auto", "cpu", "cuda", "mps")
    )
    trust_remote_code: str = knob(
        "no", "run code that comes with a model; say yes only to what you have read", choices=("no", "yes")
    )


@settings
class RunSettings:
    """What a run does beside its run folder."""

    tracker: str = knob(
        "none",
        "where figures go as well; metrics.jsonl is always written, and nothing leaves the machine unless asked",
        choices=("none", "tensorboard", "wandb", "mlflow", "trackio"),
    )


@settings
class DataSettings:
    """How text becomes tokens."""

    max_prompt: int = knob(
        512, "longest prompt in tokens; longer ones lose their beginning, and that is counted", within=(1, 1_000_000)
    )
    max_response: int = knob(512, "longest response in tokens", within=(1, 1_000_000))
    overflow: str = knob(
        "error",
        "what happens to a response that is too long: stop, drop its row, or cut it (no end-of-text)",
        choices=("error", "drop", "cut"),
    )
    held_out: float = knob(0.1, "share of the prompts kept for evaluation without --eval-data", within=(0, 0.9))


@settings
class OptimizerSettings:
    """How a gradient becomes a step."""

    lr: float = knob(0.0, "peak learning rate; 0 takes one that fits the size of the model", within=(0, 10))
    warmup: float = knob(0.05, "share of the steps in which the learning rate rises from zero", within=(0, 1))
    schedule: str = knob("cosine", "what the learning rate does after warm-up", choices=("cosine", "constant"))
    weight_decay: float = knob(0.0, "decoupled weight decay of AdamW", within=(0, 1))
    max_grad_norm: float = knob(1.0, "gradients longer than this are scaled down to it", above=0)
    micro_tokens: int = knob(
        8192, "tokens in one forward pass; lower it when memory runs out, results stay the same", within=(1, 10_000_000)
    )


@settings
class OfflineSettings:
    """How a method that learns from a file goes through it."""

    epochs: float = knob(1.0, "how often each record is seen", above=0)
    steps: int = knob(0, "optimizer steps; 0 means as many as the epochs need", within=(0, 10_000_000))
    batch: int = knob(32, "prompts in one step", within=(1, 100_000))
    eval_every: int = knob(50, "steps between evaluations on the held-out records", within=(1, 10_000_000))
    save_every: int = knob(50, "steps between checkpoints", within=(1, 10_000_000))
    reference: str = knob(
        "live",
        "the reference beside the policy, or its log-probabilities computed once and kept on disk",
        choices=("live", "stored"),
    )
    keep_best: str = knob(
        "eval_loss",
        "the metric whose best checkpoint becomes the model",
        choices=("eval_loss", "eval_reward_accuracy", "last"),
    )
    patience: int = knob(
        0, "evaluations without improvement before the run stops early; 0 never stops early", within=(0, 10_000)
    )
    seed: int = knob(0, "the one seed that every random choice of the run is derived from", within=(0, 2**62))


@settings
class OnlineSettings:
    """How a method that learns from its own samples goes about it."""

    rounds: int = knob(100, "how often to sample and train", within=(1, 10_000_000))
    batch: int = knob(16, "prompts in one round", within=(1, 100_000))
    K: int = knob(4, "responses to each prompt", within=(1, 1024))
    max_tokens: int = knob(64, "longest sampled response in tokens", within=(1, 1_000_000))
    temperature: float = knob(1.0, "temperature of the policy, in sampling and in training alike", above=0)
    epochs: int = knob(1, "passes over the samples of one round", within=(1, 100))
    minibatches: int = knob(1, "optimizer steps in one pass over the samples", within=(1, 1024))
    watch: str = knob(
        "rollback",
        "what to do when collapse is certain: warn, stop, or stop with the best checkpoint",
        choices=("warn", "stop", "rollback"),
    )
    save_every: int = knob(10, "rounds between checkpoints and evaluations on held-out data", within=(1, 10_000_000))
    keep_best: str = knob(
        "last",
        "which checkpoint becomes the model: the last, or the best by score on held-out prompts",
        choices=("last", "eval_score"),
    )
    seed: int = knob(0, "the one seed that every random choice of the run is derived from", within=(0, 2**62))


@settings
class SelectionSettings:
    """How a method that trains on what it selects goes about it."""

    rounds: int = knob(3, "how often to sample, select and train", within=(1, 10_000))
    prompts: int = knob(0, "prompts that are sampled for in one round; 0 takes all", within=(0, 100_000_000))
    K: int = knob(8, "responses to each prompt", within=(1, 100_000))
    max_tokens: int = knob(64, "longest sampled response in tokens", within=(1, 1_000_000))
    join: str = knob(
        "none",
        "responses that are scored and selected beside the samples: none, or those that the data has",
        choices=("none", "data"),
    )
    temperature: float = knob(1.0, "temperature of sampling; training knows none", above=0)
    top_k: int = knob(0, "sample among so many likeliest tokens; 0 among all", within=(0, 10_000_000))
    epochs: float = knob(1.0, "how often each selected record is seen in one round", above=0)
    steps: int = knob(0, "optimizer steps of one round; 0 means as many as the epochs need", within=(0, 10_000_000))
    batch: int = knob(32, "selected records in one step", within=(1, 100_000))
    save_every: int = knob(50, "steps between checkpoints", within=(1, 10_000_000))
    keep_best: str = knob(
        "last",
        "which round's model is kept: the last, or the best by score on held-out prompts",
        choices=("last", "eval_score"),
    )
    seed: int = knob(0, "the one seed that every random choice of the run is derived from", within=(0, 2**62))


@settings
class RewardSettings:
    """What is made of a score before the policy learns from it."""

    scores: str = knob(
        "given",
        "scores as the judge gives them, or at mean 0 and spread 1 a round",
        choices=("given", "whitened"),
    )
    unfinished: float = knob(
        0.0, "taken off the score of a response that was cut before it ended itself", within=(0, 1_000_000)
    )
    kl_target: float = knob(
        0.0, "nats from the reference that the price of KL aims at; 0: it is fixed", within=(0, 10_000)
    )
    kl_horizon: float = knob(
        0.0, "responses until the price has moved by its error; 0: a tenth a round", within=(0, 1e12)
    )


@settings
class PretrainSettings:
    """How much of the updates goes to other text."""

    pretrain_weight: float = knob(
        0.0, "weight of the mean loss of a token of the --pretrain text beside the policy's loss", within=(0, 1e6)
    )
    pretrain_batch: int = knob(16, "texts of --pretrain in one update", within=(1, 100_000))


@settings
class NucleusSettings:
    """Which tokens the policy may draw at all, in the eyes of the policy as it was some rounds ago."""

    nucleus: float = knob(1.0, "share of its probability that the tokens hold; 1 allows all", within=(0.01, 1))
    nucleus_least: int = knob(1, "how many tokens are allowed at least", within=(1, 10_000_000))
    nucleus_every: int = knob(5, "rounds between copies of the policy", within=(1, 10_000_000))


@settings
class JudgeSettings:
    """What a judge is told that learns along with the policy, whatever it is made of."""

    reward: str = knob(
        "logit",
        "the score: s, sigmoid(s) - 1/2, log sigmoid(s), or a verdict (tie)",
        choices=("logit", "norm", "logsig", "tie"),
    )
    judge_warmup: int = knob(30, "judge updates before the first round", within=(0, 100_000))
    negatives_share: float = knob(0.5, "share of the fakes that are unwanted texts, if given", within=(0, 1))


@settings
class RelaxedSettings:
    """How tokens are relaxed, so that a gradient passes through them."""

    form: str = knob(
        "straight_through",
        "what is read: exact tokens with the gradient of relaxed ones, or the relaxed ones themselves",
        choices=("straight_through", "soft"),
    )
    tau: float = knob(0.5, "temperature of the relaxation in the first round; nearer 0 it is nearer to tokens", above=0)
    tau_end: float = knob(
        0.0, "that of the last round, reached by equal factors; 0: it stays the same", within=(0, 1000)
    )


@settings
class DiscriminatorSettings:
    """How a judge that is a language model learns."""

    judge_loss: str = knob(
        "bce",
        "real and fake each alone (bce, ls), or one above the other (bt, tie)",
        choices=("bce", "bt", "ls", "tie"),
    )
    judge_sees: str = knob(
        "one",
        "one response, its prefixes (pays each token), or it beside a real one",
        choices=("one", "prefix", "pair"),
    )
    judge_lr: float = knob(0.0, "its rate; 0: half of what fits, all with --base, ratio a tenth", within=(0, 10))
    judge_steps: int = knob(1, "judge updates in one round", within=(0, 100))
    judge_batch: int = knob(16, "demonstrations in one judge update, each with as many fakes", within=(1, 10_000))
    gate: float = knob(0.95, "the judge rests while its held-out accuracy is above this", within=(0.5, 1))
    label_smoothing: float = knob(0.1, "how far the judge's targets stay from 0 and 1", within=(0, 0.49))
    replay: float = knob(0.5, "share of the fakes in an update that are of earlier rounds", within=(0, 1))
    judge_spoilt: float = knob(0.0, "share of fakes that are demonstrations, spoilt in a few tokens", within=(0, 1))
    judge_reads: str = knob(
        "mean",
        "all tokens, the last, or how much likelier it finds them than --base",
        choices=("mean", "last", "ratio"),
    )
    judge_anchor: float = knob(0.0, "share of the score that is the judge's as its warm-up left it", within=(0, 1))
    judge_held_out: float = knob(0.2, "share of the demonstrations that the judge never learns from", within=(0, 0.9))


@settings
class WordsSettings:
    """How a judge that knows words only learns."""

    words_ridge: float = knob(
        0.1, "price of the squared weights of the words; larger for fewer demonstrations", above=0
    )


@settings
class RecipeSettings:
    """How a recipe begins."""

    sft_epochs: float = knob(0.0, "epochs of SFT on the demonstrations before the first round", within=(0, 1000))
    sft_lr: float = knob(0.0, "its peak learning rate; 0 takes one that fits the model", within=(0, 10))


@settings
class ScorerSettings:
    """What a model that gives scores looks at."""

    reads: str = knob(
        "last",
        "what the head reads: the last token (large models, much data), or the mean of all (small ones, few examples)",
        choices=("last", "mean"),
    )


@settings
class MarginSettings:
    """How a method that knows margins reads them."""

    margins: str = knob(
        "small",
        "numbers for margins in words, significantly better to unsure: 1, 2/3, 1/3, 0 (small) or 3, 2, 1, 0 (large)",
        choices=("small", "large"),
    )


@settings
class HindsightSettings:
    """What a method is told that compares an instruction with its opposite."""

    good_instruction: str = knob("Answer the following rightly.\n\n", "stands before the prompt of a good response")
    bad_instruction: str = knob("Answer the following wrongly.\n\n", "stands before the prompt of any other response")
    sub_outputs: float = knob(
        0.0, "share of the responses whose beginning joins the prompt, so that only the rest is learnt", within=(0, 1)
    )


RECORDED = ("command", "versions", "hashes", "made", "machine", "tokens", "status")
"""What run.yaml says about the run that was made; none of it is a setting, so --config reads past it."""

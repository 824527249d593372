"""The judges of a run, made of their names: rules, models, and those that learn along with the policy."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError, ModelError
from sparring.core.seeds import derive, rng
from sparring.data.batch import Row
from sparring.feedback.adversary import Demonstrations
from sparring.feedback.anchored import AnchoredDiscriminator
from sparring.feedback.bag_of_words import BagOfWords
from sparring.feedback.combine import build
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.expression import BAG_OF_WORDS, DISCRIMINATOR, SIMILARITY
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import is_ranker, load_ranker
from sparring.feedback.rule import Rule, as_rule, load_rule
from sparring.feedback.saved import load_saved
from sparring.feedback.similarity import Similarity
from sparring.loops.job import Job
from sparring.loops.load import Data
from sparring.models import folders
from sparring.models.backbone import load_tokenizer
from sparring.models.folders import whole_path
from sparring.models.machine import Machine
from sparring.models.roles import Network, frozen_start, new_anchor, new_ratio, new_scorer
from sparring.models.scorers import frozen_model
from sparring.models.trunk import BARE, Trunk
from sparring.models.twin import Twin
from sparring.models.update import Updater, fitting_rate

# A scorer's body is pre-trained, and a head that reads the mean state starts from zero. With one rate for both, 400
# demonstrations and 80 updates left it guessing (docs/log.md).
HEAD_RATE = 100.0
# Of the rate that fits the model. A judge that reads the ratio knows at the start what fine-tuning taught, and forgets
# it if it learns as fast as a head does (docs/log.md).
SLOW = 0.1


def load_feedback(job: Job, trunk: Trunk, data: Data, machine: Machine) -> Feedback:
    """Make the judge that `--feedback` names: a rule, a reward model, the discriminator, or a weighted sum."""

    def find(name: str) -> Feedback:
        if name == DISCRIMINATOR:
            return make_discriminator(job, trunk, data, machine)
        if name == BAG_OF_WORDS:
            return make_bag_of_words(job, trunk, data, machine)
        if name == SIMILARITY:
            with machine.computing():
                return Similarity(frozen_start(trunk), [*data.train, *data.held_out])
        if is_ranker(name):
            return load_ranker(name, trunk, device=str(machine.device))
        if Path(name).is_dir():
            return load_saved(name, trunk, device=str(machine.device))
        return _told(load_rule(name), data)

    if len(job.feedback) == 1 and not isinstance(job.feedback[0], str):
        function = job.feedback[0]
        if isinstance(function, Feedback):
            return function
        return _told(as_rule(getattr(function, "__name__", "rule"), function), data)
    return build(job.feedback, find)


def _told(rule: Rule, data: Data) -> Rule:
    """Refuse a rule that reads what is right where the data does not say it, before the first round meets it."""
    if rule.reads_reference:
        for row in (*data.train, *data.held_out):
            if row.reference is None:
                raise rule.untold(row.where)
    return rule


def make_discriminator(job: Job, trunk: Trunk, data: Data, machine: Machine) -> Discriminator:
    """Make a judge from the policy's own start, with a share of the demonstrations kept from it."""
    settings = job.discriminator
    assert settings is not None and job.judge is not None
    if job.compares:
        length = sum(len(row.responses[0]) for row in data.train) / len(data.train)
        network = new_ratio(trunk, "judge", derive(job.seed, "judge"), base_of(job, trunk)(), length)
    else:
        network = new_scorer(trunk, "judge", derive(job.seed, "judge"), reads=settings.judge_reads)
    if settings.judge_sees == "pair":
        _check_room_for_two(job, trunk, data)
    real, kept = _keep_from_judge(data.train, settings.judge_held_out, job.seed)
    size = sum(p.numel() for p in trunk.lm.parameters())
    share = SLOW if job.compares else 0.5 if job.opponent is None else 1.0
    updater = Updater(
        network.trainable(), machine, total=1,
        lr=settings.judge_lr or share * fitting_rate(size, is_adapter=trunk.adapter != "none"),
        head_rate=head_rate(settings.judge_reads),
    )  # fmt: skip
    known = Demonstrations(real=real, held_out=kept, unwanted=data.unwanted)
    plain = Discriminator(
        network, updater, known, settings, job.judge, seed=job.seed, micro_tokens=job.optimizer.micro_tokens
    )
    if not settings.judge_anchor:
        return plain
    return AnchoredDiscriminator(
        plain, Twin(original=network, copy=new_anchor(network, job.seed)), settings.judge_anchor
    )


def base_lies_below(job: Job) -> bool:
    """Whether the policy's adapters hang on the base itself, which then needs no weights of its own."""
    if job.base is None or job.model_settings.adapter == "none":
        return False
    return whole_path(folders.resolve(job.base)) == whole_path(folders.base_of(folders.resolve(job.model))[0])


def base_of(job: Job, trunk: Trunk) -> Callable[[], Network]:
    """Check now that the base reads the policy's words, and load it when it is called, unless it is there already."""
    assert job.base is not None
    if base_lies_below(job):
        return lambda: Network(trunk=trunk, adapter=BARE)
    trusts = job.model_settings.trust_remote_code == "yes"
    _check_words(load_tokenizer(job.base, trust_remote_code=trusts), job.base, trunk)
    return partial(frozen_model, job.base, device=str(trunk.device), low=trunk.low, trust_remote_code=trusts)


def _check_words(tokenizer: Any, model: str, trunk: Trunk) -> None:
    if tokenizer.get_vocab() != trunk.tokenizer.get_vocab():
        raise ModelError(
            f"{model}: its tokenizer is not that of {trunk.source}, so it would read other words; name the model that "
            "the policy was fine-tuned from"
        )


def _check_room_for_two(job: Job, trunk: Trunk, data: Data) -> None:
    """Raise DataError when a prompt with two responses, each after the prompt, is longer than the model can read."""
    longest = max(data.train, key=lambda row: len(row.prompt) + max(job.room, len(row.responses[0])))
    tokens = 2 * (len(longest.prompt) + max(job.room, len(longest.responses[0])))
    if trunk.context and tokens > trunk.context:
        raise DataError(
            f"{longest.where}: judge_sees pair reads two responses in {tokens} tokens, and {trunk.source} reads "
            f"{trunk.context}; lower --max-tokens or --max-prompt, or leave judge_sees at one"
        )


def make_bag_of_words(job: Job, trunk: Trunk, data: Data, machine: Machine) -> BagOfWords:
    """Make the judge that knows words only; it keeps no demonstration aside, for held-out ones mislead it."""
    assert job.words is not None and job.judge is not None
    known = Demonstrations(real=data.train, held_out=(), unwanted=data.unwanted)
    return BagOfWords(known, job.words, job.judge, machine, vocabulary=len(trunk.tokenizer), seed=job.seed)


def head_rate(reads: str) -> float:
    """How much faster a scalar head learns than its body, by what it reads."""
    return HEAD_RATE if reads == "mean" else 1.0


def _keep_from_judge(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Split by prompt, so that fresh responses to the kept prompts have a demonstration beside them.

    Where there are too few prompts for that, such as one that all texts share, single demonstrations are kept.
    """
    prompts = sorted({r.prompt for r in rows})
    by_prompt = round(share * len(prompts)) > 0
    keys = [r.prompt if by_prompt else (i,) for i, r in enumerate(rows)]
    options = sorted(set(keys))
    order = rng(seed, "judge", "held out").permutation(len(options))
    kept = {options[i] for i in order[: min(round(share * len(options)), len(options) - 1)]}
    pairs = list(zip(rows, keys, strict=True))
    return [r for r, key in pairs if key not in kept], [r for r, key in pairs if key in kept]

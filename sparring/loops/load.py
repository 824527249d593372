"""From names to things: read the data, load the model, make the judge. Nothing is written here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError, ModelError
from sparring.core.records import Rating, Record
from sparring.core.seeds import derive, rng
from sparring.data.batch import Row
from sparring.data.compare import cramped
from sparring.data.formats import recognise, to_records
from sparring.data.hindsight import cut_in_two, relabel
from sparring.data.lessons import lessons
from sparring.data.read import read_rows
from sparring.data.split import shared_prompts, split
from sparring.data.tokens import prepare
from sparring.data.views import COMPARISON, VIEWS
from sparring.feedback.adversary import Demonstrations
from sparring.feedback.bag_of_words import BagOfWords
from sparring.feedback.combine import build
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.expression import BAG_OF_WORDS, DISCRIMINATOR, SIMILARITY
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import is_ranker, load_ranker
from sparring.feedback.rule import Rule, as_rule, load_rule
from sparring.feedback.saved import load_saved
from sparring.feedback.similarity import Similarity
from sparring.loops.job import DEMONSTRATION, Job
from sparring.models import folders
from sparring.models.backbone import load_tokenizer, load_trunk
from sparring.models.folders import whole_path
from sparring.models.machine import Machine
from sparring.models.roles import Network, frozen_start, new_ratio, new_scorer
from sparring.models.scorers import frozen_model
from sparring.models.trunk import BARE, Trunk
from sparring.models.update import Updater, fitting_rate

# A scorer's body is pre-trained, and a head that reads the mean state starts from zero. With one rate for both, 400
# demonstrations and 80 updates left it guessing (docs/log.md).
HEAD_RATE = 100.0
# Of the rate that fits the model. A judge that reads the ratio knows at the start what fine-tuning taught, and forgets
# it if it learns as fast as a head does (docs/log.md).
SLOW = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows to train on and rows held out; `unwanted` join the fakes of an adversarial run, `pretrain` the updates.

    `records` are what the rows were made from, by their `where`, for a run that makes records of its own. `start` is
    what the fine-tuning reads that a recipe may begin with, for a plan.
    """

    train: Sequence[Row]
    held_out: Sequence[Row]
    unwanted: Sequence[Row] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    pretrain: Sequence[Row] = ()
    start: "Data | None" = None


def load_model(job: Job, machine: Machine, start: str | None = None) -> Trunk:
    """Load the model that a run starts from (`start` if it is not the one asked for); find out what it can do."""
    settings = job.model_settings
    return load_trunk(
        start or job.model, adapter=settings.adapter, rank=settings.rank, device=str(machine.device), low=machine.low,
        trust_remote_code=settings.trust_remote_code == "yes",
    )  # fmt: skip


def load_data(job: Job, trunk: Trunk, say: Say) -> Data:
    """Read, split, encode and check; everything that was cut or cannot teach is said in words."""
    records = _joinable(job) if job.selection and job.selection.join == "data" else _records(job.data, job.kind, job)
    if job.eval_data is not None:
        train, held_out = records, _records(job.eval_data, job.kind, job)
        if shared := shared_prompts(train, held_out):
            say(f"warning: {len(shared)} prompts of {job.eval_data} are also trained on, so it measures memory too")
    else:
        train, held_out = split(records, job.data_settings.held_out, job.seed)
    for sentence in lessons(train).sentences():
        say(f"warning: {sentence}")
    if job.equation.view == COMPARISON and (number := cramped(train, trunk.tokenizer, job.data_settings.max_prompt)):
        say(f"warning: of {number} of {len(train)} preferences a part of the first response is cut, for the prompt "
            "holds both; raise --max-prompt")  # fmt: skip
    shown = VIEWS[job.equation.view]
    first = _encode(shown(train, job.seed, "train"), job, trunk, say, "data")
    unwanted = _load_negatives(job, trunk, say)
    asked = shown(held_out, job.seed, "held out")
    second = _encode(asked, job, trunk, say, "held-out data", start=len(first)) if asked else []
    pretrain = () if job.pretrain is None else _load_pretraining(job.pretrain, job, trunk, say)
    named = {r.where: r for r in (*train, *held_out)} if job.selection else {}
    return Data(train=first, held_out=second, unwanted=unwanted, pretrain=pretrain, records=named)


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
    return Discriminator(
        network, updater, Demonstrations(real=real, held_out=kept, unwanted=data.unwanted), settings, job.judge,
        seed=job.seed, micro_tokens=job.optimizer.micro_tokens,
    )  # fmt: skip


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


def _load_negatives(job: Job, trunk: Trunk, say: Say) -> list[Row]:
    """Read the texts of the unwanted kind, if there are any."""
    if job.negatives is None:
        return []
    raw = read_rows(job.negatives, where=job.negatives_where)
    return _encode(to_records(raw, DEMONSTRATION, fields=job.fields), job, trunk, say, "negatives")


def _load_pretraining(source: str, job: Job, trunk: Trunk, say: Say) -> list[Row]:
    """Read texts whose every token is learnt, or demonstrations whose responses are; long ones are cut."""
    rows, truncation = prepare(
        to_records(read_rows(source), DEMONSTRATION), trunk.tokenizer, max_prompt=job.data_settings.max_prompt,
        max_response=job.data_settings.max_response, overflow="cut", context=trunk.context,
    )  # fmt: skip
    for sentence in truncation.sentences():
        say(f"pre-training text: {sentence}")
    return rows


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


def _records(source: str, kind: str, job: Job) -> list[Record]:
    rows = read_rows(source, where=job.where)
    return to_records(rows, kind, fields=job.fields, margins=job.margin.margins if job.margin else "small")


def _joinable(job: Job) -> list[Record]:
    """Read prompts together with the responses that the file has to them, of whatever kind it is."""
    kind = recognise(read_rows(job.data, where=job.where), fields=job.fields).kind
    if kind == job.kind:
        raise DataError(f"{job.data}: join data scores the file's own responses, and it has none; leave join at none")
    return _records(job.data, kind, job)


def _encode(records: Sequence[Record], job: Job, trunk: Trunk, say: Say, what: str, start: int = 0) -> list[Row]:
    limits = job.data_settings
    others: Sequence[Record] = ()
    if job.hindsight is not None:
        rated = [r for r in records if isinstance(r, Rating)]
        records, others = relabel(rated, job.hindsight.good_instruction, job.hindsight.bad_instruction)
    # A demonstration that the policy has no tokens to match would be told from its samples by its length alone.
    room, longest, flag = job.room, limits.max_response, "--max-response"
    if 0 < room < longest:
        longest, flag = room, "--max-tokens"
    rows, truncation = prepare(
        records, trunk.tokenizer, max_prompt=limits.max_prompt, max_response=longest, overflow=limits.overflow,
        context=trunk.context, room=room, flag=flag,
    )  # fmt: skip
    for sentence in truncation.sentences():
        say(f"{what}: {sentence}")
    if job.kind == "preference" and truncation.made_equal == len(rows):
        raise DataError(
            f"{job.data}: after cutting, chosen and rejected are the same in every row; raise --max-response"
        )
    rows = [replace(row, index=start + i) for i, row in enumerate(rows)]
    return _with_other_prompts(rows, records, others, job, trunk) if job.hindsight is not None else rows


def _with_other_prompts(
    rows: Sequence[Row], records: Sequence[Record], others: Sequence[Record], job: Job, trunk: Trunk
) -> list[Row]:
    """Give every row that was kept the prompt that asks for the opposite, with as much room as its own has."""
    assert job.hindsight is not None
    limits, kept = job.data_settings, {row.where for row in rows}
    asked = [other for record, other in zip(records, others, strict=True) if record.where in kept]
    found, _ = prepare(
        asked, trunk.tokenizer, max_prompt=limits.max_prompt, max_response=limits.max_response, overflow="cut",
        context=trunk.context, room=max(len(row.responses[0]) for row in rows),
    )  # fmt: skip
    paired = [replace(row, other_prompt=other.prompt) for row, other in zip(rows, found, strict=True)]
    return cut_in_two(paired, job.hindsight.sub_outputs, job.seed)


def trainable(weights: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    """Join the weights of several roles, each under its own name."""
    out = {f"policy.{n}": p for n, p in weights.items()}
    for i, extra in enumerate(more):
        out |= {f"extra{i}.{n}": p for n, p in extra.items()}
    return out

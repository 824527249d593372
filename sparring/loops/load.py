"""From names to things: read the data, load the model. Nothing is written here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparring.core.errors import DataError
from sparring.core.records import Rating, Record
from sparring.data.batch import Row
from sparring.data.compare import cramped
from sparring.data.formats import recognise, to_records
from sparring.data.hindsight import cut_in_two, relabel
from sparring.data.lessons import lessons
from sparring.data.read import read_rows
from sparring.data.split import shared_prompts, split
from sparring.data.tokens import prepare
from sparring.data.views import COMPARISON, VIEWS
from sparring.loops.job import DEMONSTRATION, Job
from sparring.models.backbone import load_trunk
from sparring.models.machine import Machine
from sparring.models.trunk import Trunk

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

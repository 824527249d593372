"""What a run will need, said before it runs: memory at its peak, tokens, time.

Memory and tokens are computed from config.json, the settings and the lengths of the data; not one weight is loaded.
Time is measured where the model is here: a little of the real work, on the real model, multiplied by how often the
run does it (loops/calibrate.py). Where only its config.json is, time is the number of multiplications over the
measured rate of this machine's matrix products, which no run can beat and few reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sparring.core.registry import needs, welcomes
from sparring.data.standin import StandIn
from sparring.feedback.expression import DISCRIMINATOR, SIMILARITY, call_of
from sparring.loops.begin import load_with_beginning
from sparring.loops.calibrate import ONCE, bound, calibrate
from sparring.loops.gumbel import NUMBERS
from sparring.loops.job import Job
from sparring.loops.judges import base_lies_below
from sparring.loops.load import Data
from sparring.loops.passes import narrowed
from sparring.loops.workload import Work, readers, smaller, workload
from sparring.models import memory
from sparring.models.backbone import blank_model, load_tokenizer
from sparring.models.folders import has_tokenizer, has_weights, resolve
from sparring.models.machine import Machine
from sparring.models.signals import asks_for_reference
from sparring.models.size import Size, held_bytes, size_of
from sparring.models.trunk import Trunk, narrow
from sparring.rollout.sample import rows_at_once

LEAST = 64  # tokens in a pass: fewer are not worth recommending


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is predicted. `standing` is there all the time, `moments` come on top of it one at a time; all in bytes.

    `program` are the libraries, on a CPU. `seconds` is empty where time cannot be told; with `is_bound` it is what no
    run can beat.
    """

    device: str
    precision: str
    standing: Mapping[str, float]
    moments: Mapping[str, float]
    program: int
    available: int | None
    work: Work
    seconds: Mapping[str, float]
    cpu_seconds: float | None
    is_bound: bool
    notes: tuple[str, ...]

    @property
    def peak(self) -> float:
        """Bytes at the worst moment, without the libraries."""
        return sum(self.standing.values()) + max(self.moments.values())

    @property
    def seconds_once(self) -> float:
        """Those of the seconds that do not grow with the number of rounds or steps."""
        return sum(spent for name, spent in self.seconds.items() if name in ONCE)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        work = {n: v for n, v in vars(self.work).items() if isinstance(v, int | str)}
        known = {n: v for n, v in vars(self).items() if n != "work"}
        return known | {"work": work, "notes": list(self.notes), "peak": self.peak}


def plan(job: Job, *, from_config: bool = False) -> Plan:
    """Predict what a job needs; with `from_config` nothing but config.json and the tokenizer is read of the model.

    Raises UserError for anything that `train` would refuse before its first step.
    """
    notes: list[str] = []
    machine = _machine(job, notes)
    device, precision = job.model_settings.device, job.model_settings.precision
    if machine is not None:
        device, precision = machine.device.type, machine.precision
    elif precision == "auto":
        precision = "bf16"
    data = load_with_beginning(job, described(job, notes), notes.append)
    size = _size(job, job.model, precision)
    work = workload(job, data)
    standing, moments = memory_of(job, work, size, on_cpu=device == "cpu")
    made = Plan(
        device=device, precision=precision, standing=standing, moments=moments, available=_available(machine),
        program=_resident() if device == "cpu" else 0, work=work, seconds={}, cpu_seconds=None,
        is_bound=False, notes=(),
    )  # fmt: skip
    made = _timed(job, made, machine, size, data, notes, from_config=from_config)
    return replace(made, notes=(*notes, *_advice(job, data, size, made)))


def described(job: Job, notes: list[str]) -> Trunk:
    """Make the model without its weights: enough to encode the data for it."""
    trusts = job.model_settings.trust_remote_code == "yes"
    lm = blank_model(job.model, trust_remote_code=trusts)
    if has_tokenizer(resolve(job.model)):
        tokenizer: Any = load_tokenizer(job.model, trust_remote_code=trusts)
    else:
        tokenizer = StandIn()
        notes.append(f"{job.model} has no tokenizer, so tokens are estimated: {StandIn.__doc__}")
    return Trunk(lm=lm, tokenizer=tokenizer, source=job.model)


def memory_of(job: Job, work: Work, size: Size, *, on_cpu: bool) -> tuple[dict[str, float], dict[str, float]]:
    """What stands in memory all the time, by name, and what comes on top of it, by moment; in bytes."""
    asked = _asked(job)
    is_judged = DISCRIMINATOR in readers(job)
    has_critic = "values" in asked
    trained = size.adapter or (size.body if job.trains_scorer else size.numbers)
    anchored = job.discriminator is not None and job.discriminator.judge_anchor > 0
    masks = job.nucleus is not None and job.nucleus.nucleus < 1
    own = trained + size.adapter * has_critic + size.width * (has_critic or job.trains_scorer)
    compares = job.compares  # the judge is a language model, head and all
    judged = (size.adapter or (size.numbers if compares else size.body)) + size.width if is_judged else 0
    is_read = job.relaxed is not None or asks_for_reference(asked)
    has_reference = is_read and not (job.offline and job.offline.reference == "stored")
    standing = {
        "weights": float(size.held),
        "adapters and heads": float(memory.adapters(size, 1 + has_critic + is_judged + anchored + masks)
                                    + memory.NUMBER * (own - trained + size.width * (is_judged + anchored))),
        "reference": float(memory.frozen(size, int(has_reference))),
        "judge": float(memory.copies(size, int(is_judged)) + _fixed_judges(job, size)),
        "anchor of the judge": float(memory.frozen(size, int(anchored))),
        "copy that masks": float(memory.frozen(size, int(masks))),
        "optimizer of the policy": float(memory.moments(own)),
        "optimizer of the judge": float(memory.moments(judged)),
    }  # fmt: skip
    if job.trains_scorer:
        standing["optimizer of the scorer"] = standing.pop("optimizer of the policy")
    moments = {"update": _update(job, work, size, own)}
    if work.judge is not None:
        moments["update of the judge"] = memory.update(size, work.judge, trained=judged, has_logits=compares)
    if is_read or readers(job):
        moments["reading"] = memory.reading(size, work.update, has_logits=compares or is_read)
    if work.sampling is not None:
        s = work.sampling
        K = s.responses // s.prompts
        prompts = max(1, min(s.prompts, rows_at_once(size.remembered, s.prompt + s.response) // K))
        start = size.held if job.selection else 0  # the model that the run began with speaks beside the newest
        moments["sampling"] = (
            start
            - (memory.moments(own) if job.selection else 0)
            + memory.sampling(size, rows=prompts * K, prompts=prompts, prompt=s.prompt, longest=s.response)
        )
    if job.opponent is not None and not base_lies_below(job):  # it is dropped after the warm-up
        busiest = max(moments[name] for name in ("update of the judge", "sampling") if name in moments)
        moments["warm-up of the judge"] = _held(job.opponent, size) + busiest
    keeps_best = job.offline is not None and job.offline.keep_best != "last" and job.has_held_out
    if keeps_best and on_cpu:  # a checkpoint is read into the machine's memory: the weights and their moments
        moments["best checkpoint"] = float(memory.NUMBER * own + memory.moments(own))
    return {n: v for n, v in standing.items() if v}, moments


def _update(job: Job, work: Work, size: Size, trained: int) -> float:
    """Bytes of the policy's update, or of a scorer's, and of the gradient of other text that is set aside for it."""
    aside = memory.gradients(trained) if job.mix is not None and job.mix.pretrain_weight else 0
    if job.relaxed is not None:
        one = narrowed(work.update, NUMBERS // size.vocabulary)
        return aside + memory.relaxed(size, one, trained=trained, compares=job.compares)
    return aside + memory.update(size, work.update, trained=trained, has_logits=not job.trains_scorer)


def _asked(job: Job) -> list[str]:
    """The signals that the method's equations name."""
    credit = getattr(job.equation, "credit", None)
    return [*needs(job.equation.loss), *welcomes(job.equation.loss), *(needs(credit) if credit else [])]


def _fixed_judges(job: Job, size: Size) -> int:
    """Bytes of the judges that are models and do not learn, and of the model that one is held against."""
    total = 0
    if job.compares and job.base is not None and not base_lies_below(job):
        total += _held(job.base, size)
    for name in readers(job):
        if name == SIMILARITY:
            total += memory.frozen(size, 1)
        elif name != DISCRIMINATOR:
            call = call_of(name)
            # A classifier has no language-model head; a ranker answers with its own, and is held in 32 bits.
            total += held_bytes(blank_model(call.parts[0])) if call else _held(name, size, has_head=False)
    return total


def _held(model: str, size: Size, *, has_head: bool = True) -> int:
    """Bytes of a model that is read only."""
    lm = blank_model(model)
    kept = lm if has_head else lm.base_model
    narrow(kept, size.low)
    return held_bytes(kept)


def _size(job: Job, model: str, precision: str) -> Size:
    settings = job.model_settings
    return size_of(model, adapter=settings.adapter, rank=settings.rank, precision=precision,
                   trust_remote_code=settings.trust_remote_code == "yes")  # fmt: skip


def _machine(job: Job, notes: list[str]) -> Machine | None:
    """This machine, unless a device is asked for that it does not have: then only memory and tokens are told."""
    asked = job.model_settings.device
    if (asked == "cuda" and not torch.cuda.is_available()) or (
        asked == "mps" and not torch.backends.mps.is_available()
    ):
        notes.append(f"there is no {asked} here, so time is not predicted; memory is that of {asked}")
        return None
    return Machine(asked, job.model_settings.precision)


def _timed(
    job: Job, made: Plan, machine: Machine | None, size: Size, data: Data, notes: list[str], *, from_config: bool
) -> Plan:
    """Add the time: measured where the model is here and fits, else from the number of multiplications."""
    if machine is None:
        return made
    if from_config or not has_weights(resolve(job.model)):
        return replace(made, seconds=bound(machine, size, made.work), is_bound=True)
    if made.available is not None and made.peak > made.available:
        notes.append("it does not fit into the memory that is free here, so its time was not measured")
        return made
    found = calibrate(job, machine, data, made.work)
    made = replace(made, seconds=found.seconds, cpu_seconds=found.cpu_seconds)
    if found.length is None:
        return made
    notes.append(f"a trial's responses had {found.length:.0f} tokens on average; longer ones will take more")
    work = workload(job, data, found.length)
    return replace(made, work=work, moments=memory_of(job, work, size, on_cpu=made.device == "cpu")[1])


def _advice(job: Job, data: Data, size: Size, made: Plan) -> list[str]:
    """Say whether it fits, and which smaller passes would."""
    if made.available is None or made.peak <= made.available:
        return []
    limit = job.optimizer.micro_tokens // 2
    while limit >= LEAST:
        less = smaller(job, limit)
        standing, moments = memory_of(less, workload(less, data), size, on_cpu=made.device == "cpu")
        peak = sum(standing.values()) + max(moments.values())
        if peak <= made.available:
            return [f"--micro-tokens {limit} would need {peak / 1e9:.1f} GB and fit"]
        limit //= 2
    return ["no --micro-tokens makes it fit; take --adapter lora or qlora, a smaller model, or another machine"]


def _available(machine: Machine | None) -> int | None:
    """Bytes that are free where the model would be."""
    if machine is None or machine.device.type == "mps":
        return None
    if machine.device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    import psutil  # comes with accelerate

    return psutil.virtual_memory().available


def _resident() -> int:
    """Bytes of this program and its libraries, all of which the run needs too; a first step loads some of them."""
    import psutil

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()
    return psutil.Process().memory_info().rss

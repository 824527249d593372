"""Every line checked before the first is run, counted, and cut to one budget.

    tokens    all that a network passes over: trained on, judged, read, sampled (at their longest)
    flops     6 N for a token that is trained on, 2 N for one that is read or sampled; N weights
    seconds   of this machine, from a trial of each line (loops/plan.py)

What gives way to the budget is how long a method goes on: its rounds, or steps if it learns from a file; what is done
once (starting, fine-tuning by the recipe's own settings, a judge's warm-up) is paid first. A line that
judges for others may say that itself; it is measured as little as a reward model then. The start that methods share is
nobody's cost. Source of the formula: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.compare.lines import SFT, Line, data_of, fill, negatives_of
from sparring.compare.plan import SEED, Plan
from sparring.core.errors import FeedbackError, SettingError, UserError
from sparring.core.registry import needs, welcomes
from sparring.data.read import fingerprint
from sparring.feedback.expression import LEARN_ALONG, leaves
from sparring.feedback.ranker import is_ranker
from sparring.feedback.rule import load_rule
from sparring.loops.begin import load_with_beginning
from sparring.loops.job import Job, make_job
from sparring.loops.plan import described
from sparring.loops.plan import plan as predict
from sparring.loops.workload import Work, workload

MOST = 1_000_000  # rounds or steps that a budget may buy


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a cell of a line is going to spend: counted, not measured, that of its `judges` (lines, by name) among it.

    `settings` are those that the line runs with.
    """

    settings: Mapping[str, Any]
    tokens: int
    flops: float
    labels: int
    trains_judge: bool
    judges: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def job_of(plan: Plan, line: Line, lines: Mapping[str, Line], out: Path, seed: int, settings: Mapping[str, Any]) -> Job:
    """Make the request of a cell, as if it started from the model of the plan: what is checked needs no other."""
    assert line.method is not None
    source = line.data
    return make_job(
        line.method, model=plan.model, data=data_of(line, seed), run=line.place(out, seed), policy=line.policy,
        feedback=[fill(text, lines, out, seed) for text in line.feedback], negatives=negatives_of(line, seed),
        base=line.base, pretrain=line.pretrain, fields=source.fields, where=source.where,
        settings={**settings, "seed": seed},
    )  # fmt: skip


def check_feedback(plan: Plan, lines: Mapping[str, Line], out: Path) -> None:
    """Refuse a measure or a judge that cannot be loaded."""
    for text in (*plan.feedback, *([plan.judge] if plan.judge else [])):
        for leaf in leaves([fill(text, lines, out, plan.seeds[0])]):
            if leaf in LEARN_ALONG:
                raise FeedbackError(
                    f"a {leaf} lives only in its run; name that run: {{NAME}}, with its name under methods"
                )
            if not Path(leaf).is_dir() and not is_ranker(leaf):
                load_rule(leaf)


def costs_of(plan: Plan, lines: Mapping[str, Line], out: Path) -> dict[str, Cost]:
    """Check and count every line that trains. Raises UserError, naming the line."""
    for line in lines.values():
        for name in line.needs:
            lines[name].place(out, plan.seeds[0]).mkdir(parents=True, exist_ok=True)  # as a judge that is to come
    check_feedback(plan, lines, out)
    found: dict[str, Cost] = {}
    for line in lines.values():
        _count(plan, line, lines, out, found)
    return {name: found[name] for name in lines if name in found}


def _count(plan: Plan, line: Line, lines: Mapping[str, Line], out: Path, found: dict[str, Cost]) -> None:
    """Count a line and, before it, those that it is paid by."""
    if line.method is None or line.name in found:
        return
    if line.paid_by and "seconds" in plan.budget:
        raise SettingError(f"{line.name}: how long it takes is measured, and its judge is still to be trained; give a "
                           "budget of tokens or flops")  # fmt: skip
    for name in line.paid_by:
        _count(plan, lines[name], lines, out, found)
    judges = {name: found[name] for name in line.paid_by if name in found and found[name].trains_judge}
    try:
        found[line.name] = _cost(plan, line, lines, out, judges)
    except UserError as error:
        raise type(error)(f"{line.name}: {error}") from error


def _cost(plan: Plan, line: Line, lines: Mapping[str, Line], out: Path, judges: Mapping[str, Cost]) -> Cost:
    def make(more: Mapping[str, Any]) -> Job:
        return job_of(plan, line, lines, out, plan.seeds[0], {**line.settings, **more})

    for seed in plan.seeds if SEED in line.data.file else ():
        fingerprint(data_of(line, seed))  # a file that is missing is missed now
    job = make({})
    more = _shared(job, line)
    job = make(more)
    is_judge = job.trains_scorer or job.equation.view == "comparison" or _only_judges(plan, line, lines, _clock(job))
    trunk = described(job, [])
    data = load_with_beginning(job, trunk, lambda text: None)
    before = {kind: sum(getattr(cost, kind) for cost in judges.values()) for kind in ("tokens", "flops", "labels")}
    if plan.budget and line.name != SFT and not is_judge:
        (kind, amount), *_ = plan.budget.items()
        left = amount - before.get(kind, 0)
        more |= _fitted(kind, left, line, lambda extra: make({**more, **extra}), data, trunk.lm)
        job = make(more)
    work = workload(job, data)
    labels = 0 if job.kind == "prompt" else len(data.train) + len(data.held_out)
    return Cost(
        settings={**line.settings, **more}, tokens=tokens_of(work) + before["tokens"],
        flops=flops_of(work, trunk.lm) + before["flops"], labels=labels + before["labels"],
        trains_judge=is_judge, judges=list(judges),
    )  # fmt: skip


def tokens_of(work: Work) -> int:
    """All tokens that a network passes over."""
    return work.trained + work.judged + work.read + work.sampled


def flops_of(work: Work, lm: Any) -> float:
    """Floating-point operations: a multiplication and an addition for each weight, thrice where there is a way back."""
    weights = sum(p.numel() for p in lm.parameters())
    return 2.0 * weights * (3 * (work.trained + work.judged) + work.read + work.sampled)


def _shared(job: Job, line: Line) -> dict[str, Any]:
    """The setting by which lines that start from one model compute its log-probabilities once, where they can."""
    names = {*needs(job.equation.loss), *welcomes(job.equation.loss)}
    can = job.offline is not None and "ref_token_logps" in names and not names & {"batch_kl", "token_kls"}
    return {"reference": "stored"} if can and "reference" not in line.settings else {}


def _clock(job: Job) -> tuple[str, ...]:
    """The settings that say how long a method goes on; the first is the one that a budget decides."""
    return ("steps", "epochs") if job.offline is not None else ("rounds",)


def _only_judges(plan: Plan, line: Line, lines: Mapping[str, Line], clock: Collection[str]) -> bool:
    """Whether a line is there to judge for others: one of them names it, and it says how long it learns itself."""
    pays = any(line.name in other.paid_by for other in lines.values())
    return bool(plan.budget) and pays and any(name in line.settings for name in clock)


def _fitted(
    kind: str,
    amount: float,
    line: Line,
    make: Callable[[Mapping[str, Any]], Job],
    data: Any,
    lm: Any,
) -> dict[str, int]:
    """Find the most rounds or steps that what is left of the budget pays for.

    Raises SettingError when it does not pay for one.
    """
    job = make({})
    clock, *others = _clock(job)
    fixed = [n for n in (clock, *others) if n in line.settings]
    if fixed:
        raise SettingError(f"the budget decides how many {clock} there are; leave {fixed[0]} out")
    if kind == "seconds":
        found = predict(job)
        if not found.seconds:
            raise SettingError("how long it takes cannot be predicted on this device; give a budget of tokens")
        first = found.seconds_once
        each = (sum(found.seconds.values()) - first) / found.work.count
        _check_one(first + each, kind, amount, clock, job)
        return {clock: max(1, min(MOST, int((amount - first) / each)))}

    def spent(count: int) -> float:
        work = workload(make({clock: count}), data)
        return tokens_of(work) if kind == "tokens" else flops_of(work, lm)

    _check_one(spent(1), kind, amount, clock, job)
    low, high = 1, 2
    while high <= MOST and spent(high) <= amount:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) <= amount else (low, middle)
    return {clock: low}


def _check_one(least: float, kind: str, amount: float, clock: str, job: Job) -> None:
    """Refuse a budget that does not pay for one round or step, and what comes before it."""
    if least > amount:
        digits = 2 if kind == "seconds" else 0
        large = "judge_warmup, batch or K" if job.judge is not None else "batch, K or prompts"
        raise SettingError(f"one of its {clock} costs {least:,.{digits}f} {kind}, with all that comes before it, and "
                           f"the budget has {amount:,.{digits}f} for it; raise it, or lower {large}")  # fmt: skip

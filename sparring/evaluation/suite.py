"""sparring.evaluate: a model and held-out data to figures with intervals, and eval.json in the run folder.

What is measured follows from what is there: scores by every judge that was named; distance and fluency
if a start model is known; how the data's own responses fare if it has any. What cannot be measured, and
what a figure must not be taken for, is said in the notes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import SettingError
from sparring.core.records import Preference, Record
from sparring.data.read import fingerprint
from sparring.data.responses import Responses, read_out
from sparring.data.split import prompt_text
from sparring.evaluation.against import compare, find_rival
from sparring.evaluation.draw import draw
from sparring.evaluation.figures import JUDGED
from sparring.evaluation.given import (
    data_perplexity,
    implied_rewards,
    ordered,
    ranker_rewards,
    references,
    scorer_rewards,
    wanted,
)
from sparring.evaluation.intervals import Estimate
from sparring.evaluation.load import (
    Judge,
    Plan,
    different,
    given_rows,
    is_pairwise,
    is_scorer,
    judge_name,
    load_judge,
    load_judges,
    load_rankers,
    load_start,
    read_records,
)
from sparring.evaluation.measure import Tick, distance, measure, select
from sparring.evaluation.memory import memory_figures
from sparring.evaluation.origin import Origin, ancestry, data_notes, seen_by
from sparring.evaluation.overlap import overlap_figures
from sparring.evaluation.overoptimisation import best_of_table
from sparring.evaluation.trust import Tables
from sparring.feedback.protocol import Feedback
from sparring.models.backbone import load_trunk
from sparring.models.checkpoint import write_text
from sparring.models.machine import Machine
from sparring.models.scorers import load_level, load_scorer
from sparring.models.signals import Network
from sparring.models.trunk import Trunk
from sparring.rollout.sample import Rollout, Sampling

SHOWN = 8  # prompts whose responses are kept in eval.json, for people to look at, unless more are asked for


def evaluate(
    model: str,
    *,
    data: str,
    feedback: Sequence[Judge] = (),
    base: str | None = None,
    reference: str | None = None,
    judge: Judge | None = None,
    best_of: int = 1,
    against: str | None = None,
    memory: str | None = None,
    overlap: bool = False,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    prompts: int = 0,
    shown: int = SHOWN,
    K: int = 1,
    max_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    max_prompt: int = 512,
    max_response: int = 512,
    micro_tokens: int = 8192,
    device: str = "auto",
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Sample K responses to held-out prompts, measure them, and return what eval.json holds.

    Each of `feedback` is a figure of its own: a name, a weighted sum, a Python function, or a folder (a reward
    model, or a run that holds a judge). `base` is the model that distance and fluency are measured from; by
    default the one that the run started from. `reference` is another whose distance is to be known. With `best_of`
    n, n responses are drawn for each that is measured, and `judge` picks. `against` names a rival (a model, a file
    with responses to the same prompts, or "references": the data's own) and adds the win rate by each of `feedback`,
    among which may then be the run of a pairwise ranker. `memory` is a file with responses that may have been learnt
    by heart; by default the data of the run and of those it started from. With `overlap` the responses are compared
    with the data's own, by BLEU, chrF, ROUGE-L and exact match. `prompts` takes so many different prompts of the
    data, the same for every model and seed; 0 takes all; the responses to `shown` of them are kept. The figures go
    by name to mean, low, high and n; beside them are "notes", "settings", "values" (one score for each prompt, for
    paired comparisons) and "samples"; "tables" say what win rates are made of, and what the best of n is worth where
    several responses were drawn. A reward model is measured by how it ranks the data's own responses; "tables" say how
    far it can be trusted. Raises UserError for anything that cannot be used.
    """
    plan = Plan(
        feedback=tuple(feedback), judge=judge, best_of=best_of, against=against, overlap=overlap, base=base,
        reference=reference, shown=shown, K=K, seed=seed, max_prompt=max_prompt, max_response=max_response,
        how=Sampling(max_tokens=max_tokens, temperature=temperature), micro_tokens=micro_tokens,
        device=str(Machine(device, "fp32").device), tick=tick or (lambda what, done, total: None),
    )  # fmt: skip
    if prompts < 0:
        raise SettingError(f"prompts must be at least 1, or 0 for all, got {prompts}")
    named = {"model": model, "data": data, "fields": dict(fields or {}), "where": list(where), "prompts": prompts}
    named["memory"] = memory
    records, notes = read_records(data, fields or {}, where, prompts)
    runs = ancestry(model)
    seen = [seen_by(run) for run in runs]
    notes += data_notes(records, {run.folder.name: own for run, own in zip(runs, seen, strict=True)})
    known = read_records(memory, {}, (), 0)[0] if memory is not None else [r for own in seen for r in own or ()]
    found, samples, tables = _measure(model, records, runs, plan, notes, known)
    values = {name: list(e.values) for name, e in found.items() if e.values and name.startswith(tuple(JUDGED))}
    out: dict[str, Any] = {name: e.to_dict() for name, e in found.items()}
    settings = named | plan.to_dict() | {"data_hash": fingerprint(data)}
    out |= {"notes": notes, "settings": settings, "values": values, "samples": samples}
    out |= {"tables": tables} if tables else {}
    if (file := eval_file(model, best_of)) is not None:
        write_text(file, json.dumps(out, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return out


def eval_file(model: str, best_of: int = 1) -> Path | None:
    """Say where the figures of a model go: into its run folder, or nowhere when it is not one.

    Best-of-n has a file of its own, for it is another policy than the run's model.
    """
    folder = Path(model).expanduser()
    if not (folder / "run.yaml").is_file():
        return None
    return folder / ("eval.json" if best_of == 1 else f"eval-best-of-{best_of}.json")


Found = tuple[dict[str, Estimate], list[dict[str, Any]], Tables]


def _measure(
    model: str, records: Sequence[Record], runs: Sequence[Origin], plan: Plan, notes: list[str], known: Sequence[Record]
) -> Found:
    is_ranker = is_pairwise(runs)
    if not is_scorer(model) and not is_ranker:
        return _measure_policy(model, records, runs, plan, notes, known)
    pairs = [r for r in ordered(records) if isinstance(r, Preference) or not is_ranker]
    if not pairs:
        what = "compares two responses; give it preferences" if is_ranker else "scores; give it preferences or rankings"
        raise SettingError(f"{model} writes no text, it {what}, or name it as --feedback")
    if plan.feedback or plan.judge is not None or plan.against is not None:
        raise SettingError(f"{model} is a reward model: it writes nothing for --feedback, --judge or --against")
    what = "pairwise ranker" if is_ranker else "reward model"
    notes.append(f"this is a {what}: it was measured by how it ranks the data's own responses")
    if is_ranker:
        trunk = load_trunk(model, device=plan.device)
        rows = given_rows(pairs, trunk, plan, [])
        found, tables = ranker_rewards(pairs, rows, Network(trunk=trunk), micro_tokens=plan.micro_tokens)
        return found, [], tables
    scorer = load_scorer(model, device=plan.device)
    rows = given_rows(pairs, scorer.trunk, plan, notes)
    mean = load_level(model)
    if mean:  # a discriminator has none: what its 0 means, it has learnt
        notes.append(f"its mean score of good responses when it was trained, {mean:.4g}, is taken off")
    found, tables = scorer_rewards(rows, scorer, mean, micro_tokens=plan.micro_tokens)
    return found, [], tables


def _measure_policy(
    model: str, records: Sequence[Record], runs: Sequence[Origin], plan: Plan, notes: list[str], known: Sequence[Record]
) -> Found:
    trunk = load_trunk(model, device=plan.device)
    policy = Network(trunk=trunk)
    judges, rankers = load_judges(trunk, runs, plan, notes), load_rankers(plan)
    picker = None if plan.judge is None else load_judge(plan.judge, trunk, device=plan.device)
    start = load_start(runs, trunk, plan, notes)
    rollout = draw(policy, different(records), plan, notes)
    tables = best_of_table(read_out(rollout.batch, trunk.tokenizer), picker, judges)
    if picker is not None:
        rollout = select(rollout, picker.score(read_out(rollout.batch, trunk.tokenizer)), plan.best_of)
        notes.append(_best_of_note(plan))
    found = measure(
        rollout, trunk.tokenizer, judges=judges, start=start, temperature=plan.how.temperature,
        is_selected=picker is not None, micro_tokens=plan.micro_tokens, tick=plan.tick,
    )  # fmt: skip
    if plan.how.temperature == 0:
        notes.append("no KL: it is an average over the policy's samples, and temperature 0 draws none")
    found |= _measure_data(records, policy, start, plan, notes)
    if plan.reference is not None and plan.how.temperature > 0 and picker is None:
        reference = Network(trunk=load_trunk(plan.reference, device=plan.device))
        away = distance(rollout, reference, temperature=plan.how.temperature, micro_tokens=plan.micro_tokens)
        found["kl_reference"] = away["kl"]
    mine = read_out(rollout.batch, trunk.tokenizer)
    if heart := [text for record in known for text in record.responses()]:
        found |= memory_figures(mine.texts, heart)
    if plan.overlap:
        found |= _overlap(mine, records, notes)
    if plan.against is not None:
        rival = find_rival(plan.against, records, trunk, plan, notes)
        wins, tables["against"] = compare(mine, rival, judges, rankers, plan.micro_tokens)
        found = wins | found
    return found, _samples(rollout, trunk, judges, plan.shown), tables


def _measure_data(
    records: Sequence[Record], policy: Network, start: Network | None, plan: Plan, notes: list[str]
) -> dict[str, Estimate]:
    """The figures about the data's own responses, if it has any that tell something."""
    found: dict[str, Estimate] = {}
    if good := wanted(records):
        rows = given_rows(good, policy.trunk, plan, notes)
        found["data_perplexity"] = data_perplexity(rows, policy, micro_tokens=plan.micro_tokens, tick=plan.tick)
    if (pairs := ordered(records)) and start is not None:
        rows = given_rows(pairs, policy.trunk, plan, notes)
        found |= implied_rewards(rows, policy, start, micro_tokens=plan.micro_tokens, tick=plan.tick)
    return found


def _overlap(mine: Responses, records: Sequence[Record], notes: list[str]) -> dict[str, Estimate]:
    """Compare responses with those of the data, of which a prompt's first one counts."""
    known = references(records)
    pairs = [
        (row, known[text])
        for row, record in zip(mine.texts, different(records), strict=True)
        if (text := prompt_text(record.prompt)) in known
    ]
    if not pairs:
        raise SettingError("the data has no responses that --overlap could compare with")
    return overlap_figures([row for row, _ in pairs], [reference for _, reference in pairs], notes)


def _best_of_note(plan: Plan) -> str:
    n, judge = plan.best_of, judge_name(plan.judge or "")
    bound = math.log(n) - (n - 1) / n
    said = f"best of {n} by {judge}: no KL is measured; picking adds at most log n - (n-1)/n = {bound:.2f} nats to it"
    is_named_twice = judge in map(judge_name, plan.feedback)
    return said + (f"; {judge} picked, so its own score is no independent figure" if is_named_twice else "")


def _samples(rollout: Rollout, trunk: Trunk, judges: Mapping[str, Feedback], shown: int) -> list[dict[str, Any]]:
    """Keep the responses to some prompts with their scores."""
    few = read_out(rollout.batch.rows(0, shown), trunk.tokenizer)
    scores = {name: judge.score(few).tolist() for name, judge in judges.items()}
    return [
        {"prompt": prompt, "response": text, "scores": {name: found[b][k] for name, found in scores.items()}}
        for b, (prompt, texts) in enumerate(zip(few.prompts, few.texts, strict=True))
        for k, text in enumerate(texts)
    ]

"""sparring.evaluate: a model and held-out data to figures with intervals, and eval.json in the run folder.

What is measured follows from what is there: scores by every judge that was named; distance and fluency
if a start model is known; how the data's own responses fare if it has any. What cannot be measured, and
what a figure must not be taken for, is said in the notes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.records import Record
from sparring.data.read import fingerprint
from sparring.evaluation.figures import JUDGED
from sparring.evaluation.intervals import Estimate
from sparring.evaluation.load import is_pairwise, is_scorer, read_records
from sparring.evaluation.measure import Tick
from sparring.evaluation.origin import Origin, ancestry, data_notes, seen_by
from sparring.evaluation.plan import Judge, Plan
from sparring.evaluation.policy import measure_policy
from sparring.evaluation.scorer import measure_scorer
from sparring.evaluation.trust import Tables
from sparring.models.checkpoint import write_text
from sparring.models.machine import Machine
from sparring.rollout.sample import Sampling

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
    rubric: Judge | None = None,
    harmless: Judge | None = None,
    harness: Sequence[str] = (),
    answers: str | None = None,
    alpaca_eval: str | None = None,
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

    Each of `feedback` is a figure of its own: a name, a weighted sum, a Python function, or a folder (a reward model,
    or a run that holds a judge). `base` is the model that distance and fluency are measured from; by default the one
    that the run started from; `reference` is another whose distance is to be known. With `best_of` n, n responses are
    drawn for each that is measured, and `judge` picks. `against` names a rival (a model, a file with responses to the
    same prompts, or "references": the data's own) and adds the win rate by each of `feedback`, among which may then be
    the run of a pairwise ranker. `memory` is a file with responses that may have been learnt by heart; by default the
    data of the run and of those it started from. With `overlap` the responses are compared with the data's own, by
    BLEU, chrF, ROUGE-L and exact match. `rubric` is a judge that calls responses good, average or bad (1, 0, -1), the
    start model's too; `harmless` one whose score is above 0 for what does no harm; `harness` names tasks of the
    lm-evaluation-harness. `answers` is a file that all responses are written to, `alpaca_eval` a folder for
    AlpacaEval's own tools. `prompts` takes so many different prompts of the data, the same for every model and seed; 0
    takes all; the responses to `shown` of them are kept. The figures go by name to mean, low, high and n; beside them
    are "notes", "settings", "values" (one score for each prompt, for paired comparisons) and "samples"; "tables" say
    what win rates are made of, and what the best of n is worth where several responses were drawn. A reward model is
    measured by how it ranks the data's own responses; "tables" say how far it can be trusted. Raises UserError for
    anything that cannot be used.
    """
    plan = Plan(
        feedback=tuple(feedback), judge=judge, best_of=best_of, against=against, overlap=overlap, rubric=rubric,
        harmless=harmless, harness=tuple(harness), answers=answers, alpaca_eval=alpaca_eval, base=base,
        reference=reference, prompts=prompts, shown=shown, K=K, seed=seed, max_prompt=max_prompt,
        how=Sampling(max_tokens=max_tokens, temperature=temperature), max_response=max_response,
        micro_tokens=micro_tokens, device=str(Machine(device, "fp32").device), tick=tick or _silent,
    )  # fmt: skip
    named = {"model": model, "data": data, "fields": dict(fields or {}), "where": list(where), "memory": memory}
    records, notes = read_records(data, fields or {}, where, prompts)
    runs = ancestry(model)
    seen = [seen_by(run) for run in runs]
    notes += data_notes(records, {run.folder.name: own for run, own in zip(runs, seen, strict=True)})
    known = read_records(memory, {}, (), 0)[0] if memory is not None else [r for own in seen for r in own or ()]
    found, samples, tables = _measure(model, records, runs, plan, notes, known)
    settings = named | plan.to_dict() | {"data_hash": fingerprint(data)}
    out = _content(found, tables) | {"notes": notes, "settings": settings, "samples": samples}
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


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far it is."""


def _content(found: Mapping[str, Estimate], tables: Tables) -> dict[str, Any]:
    """Write figures as eval.json has them, for each prompt what a judge says, for paired comparisons, and tables."""
    values = {name: list(e.values) for name, e in found.items() if e.values and name.startswith(tuple(JUDGED))}
    figures = {name: estimate.to_dict() for name, estimate in found.items()}
    return figures | {"values": values} | ({"tables": tables} if tables else {})


def _measure(
    model: str, records: Sequence[Record], runs: Sequence[Origin], plan: Plan, notes: list[str], known: Sequence[Record]
) -> tuple[dict[str, Estimate], list[dict[str, Any]], Tables]:
    is_ranker = is_pairwise(runs)
    if is_scorer(model) or is_ranker:
        found, tables = measure_scorer(model, records, plan, notes, is_ranker=is_ranker)
        return found, [], tables
    return measure_policy(model, records, runs, plan, notes, known)

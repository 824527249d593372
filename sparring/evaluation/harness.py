"""Tasks of the lm-evaluation-harness, by its own Python API on the loaded model: what has it unlearnt?

    sparring evaluate runs/x --data held_out.jsonl --harness hellaswag,arc_easy       (extra: harness)

A task is a name that the harness knows, which it downloads, or a YAML file of your own. The figure is the harness's;
the interval is ours, over the task's documents where the metric is a mean over them. The start model does the same
tasks, and the change is a paired one: document by document.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparring.core.errors import SettingError
from sparring.evaluation.figures import HARNESS
from sparring.evaluation.intervals import NORMAL, TAIL, Estimate, difference, mean_of
from sparring.evaluation.trust import Found
from sparring.models.trunk import Trunk

MISSING = '--harness needs an extra: pip install "sparring[harness]"'
AT_ONCE = 8  # texts that the harness reads together
NAME = re.compile(r"^task:\s*(\S+)", re.M)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Which tasks are done, and on how many documents of each (0: all)."""

    names: tuple[str, ...]
    limit: int = 0


def check_installed() -> None:
    """Raise SettingError when the harness is not there, before anything is spent."""
    if find_spec("lm_eval") is None:
        raise SettingError(MISSING)


def harness_figures(model: Trunk, start: Trunk | None, tasks: Tasks) -> Found:
    """Do the tasks by a model and, if it is known, by its start.

    A figure is called by task and metric. Raises SettingError when the harness is not installed or has no such task.
    """
    check_installed()
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports] - an extra

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    named = [_named(name) for name in tasks.names]
    manager = TaskManager(include_path=[str(folder) for _, folder in named if folder is not None] or None)
    names = [name for name, _ in named]
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise SettingError(f"the harness has no task {unknown[0]!r}; `lm-eval ls tasks` lists them")
    own = _metrics(model, names, tasks.limit, manager)
    before = {} if start is None else _metrics(start, names, tasks.limit, manager)
    rows = []
    for name, found in own.items():
        row: dict[str, Any] = {"task": name, "model": found.mean, "low": found.low, "high": found.high}
        if name in before:
            change = _change(found, before[name])
            row |= {"start": before[name].mean, "change": change.mean}
            row |= {"change_low": change.low, "change_high": change.high}
        rows.append(row | {"documents": found.n})
    return {HARNESS + name: found for name, found in own.items()}, {"harness": rows} if rows else {}


def _metrics(trunk: Trunk, names: list[str], limit: int, manager: Any) -> dict[str, Estimate]:
    """Run the harness once and read what it found, without the metrics that are spreads."""
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports] - an extra
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports] - an extra

    with trunk.using(None):
        found = simple_evaluate(
            model=HFLM(pretrained=trunk.lm, tokenizer=trunk.tokenizer, batch_size=AT_ONCE, max_length=trunk.context),
            tasks=names, limit=limit or None, log_samples=True, bootstrap_iters=0, task_manager=manager,
        )  # fmt: skip
    samples = found.get("samples") or {}
    return {
        f"{task} {key.partition(',')[0]}": _estimate(key, value, results, samples.get(task, []))
        for task, results in found["results"].items()
        for key, value in results.items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float)
    }


def _named(task: str) -> tuple[str, Path | None]:
    """Find the name of a task, in its YAML file if it has one, and the folder of that file."""
    if not task.endswith((".yaml", ".yml")):
        return task, None
    file = Path(task).expanduser()
    found = NAME.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    if found is None:
        raise SettingError(f"--harness {task}: there is no such file, or no line `task: NAME` in it")
    return found[1], file.resolve().parent


def _estimate(key: str, value: float, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Estimate:
    """Give the harness's figure an interval: over documents where it is their mean, else by its standard error."""
    metric, _, kind = key.partition(",")
    own = [s.get(metric) for s in sorted(samples, key=lambda s: s["doc_id"]) if s.get("filter", kind) == kind]
    values = [float(x) for x in own if isinstance(x, int | float)]
    if values and len(values) == len(own) and abs(sum(values) / len(values) - value) < 1e-9:
        return mean_of(values)
    error = results.get(f"{metric}_stderr,{kind}")
    half = NORMAL.inv_cdf(TAIL) * error if isinstance(error, int | float) else None
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(mean=float(value), low=low, high=high, n=len(own))


def _change(own: Estimate, before: Estimate) -> Estimate:
    """Compare the same documents, or only the figures where there is nothing for each document."""
    if own.values and len(own.values) == len(before.values):
        return difference(own, before)
    return Estimate(mean=own.mean - before.mean, low=None, high=None, n=own.n)

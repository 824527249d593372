"""What reward costs in distance: every method, its rounds, and best of n, on the same two axes.

Distances are KL in nats for a response, from what the methods start from: SFT if the plan has it, else its model. So
the start lies at 0, best of n on a line that is known without training, and a run's own rounds, which measure their
distance from where the run began, fit in wherever it began there.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from sparring.compare.cells import Comparison, Found
from sparring.compare.lines import BASE, Line, baseline, best_name
from sparring.core.best_of import kl_bound
from sparring.evaluation.figures import SCORE
from sparring.evaluation.intervals import over_seeds
from sparring.evaluation.overoptimisation import FORMS, fit

BEST_OF_N, LEARNT = FORMS
"""The form that the paper found for picking, and that for learning."""


def frontier(work: Comparison, found: Found) -> dict[str, Any]:
    """Gather points, rounds, best of n and the fitted curves by the first feedback, as report/inputs.py describes."""
    plan, key = work.plan, SCORE + work.plan.feedback[0]
    best, trails = _best_of(work, found, key), _trails(work, found)
    return {
        "start": baseline(plan),
        "picker": plan.judge or plan.feedback[0],
        "points": [
            point for name, line in work.lines.items() if (point := _point(work, line, found[name], key)) is not None
        ],
        "best_of": best,
        "trails": [{"name": name, "begins_at": work.lines[name].start, "rows": rows} for name, rows in trails.items()],
        "fits": [
            *(f for name, rows in trails.items() for f in _fits(name, LEARNT, rows)),
            *_fits("best of n", BEST_OF_N, best),
        ],
    }


def _point(work: Comparison, line: Line, cells: Mapping[int, Mapping[str, Any]], key: str) -> dict[str, Any] | None:
    """Place a line by its held-out reward and its distance; None where either was not measured."""
    start = baseline(work.plan)
    far = "kl" if start == BASE else "kl_reference"
    rewards = [cell[key]["mean"] for cell in cells.values() if key in cell]
    if line.name == start:
        away = [0.0 for _ in rewards]
    elif line.best_of > 1:
        away = [kl_bound(line.best_of) for _ in rewards]
    else:
        away = [cell[far]["mean"] for cell in cells.values() if key in cell and far in cell]
    if not rewards or len(away) != len(rewards):
        return None
    return {"name": line.name, "kl": figure(away), "gold": figure(rewards)}


def _best_of(work: Comparison, found: Found, key: str) -> list[dict[str, float]]:
    """Average over seeds what the best of n is worth; by the line of best of n, or else from the start's samples."""
    cells = [c for n in (best_name(work.plan), baseline(work.plan)) for c in found.get(n, {}).values()]
    tables = [c["tables"]["best_of"] for c in cells if "best_of" in c.get("tables", {})]
    same = [t for t in tables if [row["n"] for row in t] == [row["n"] for row in tables[0]]]
    return [
        {"n": rows[0]["n"], "kl": rows[0]["kl"], "gold": fmean(row[key] for row in rows),
         "proxy": fmean(row["picked by"] for row in rows)}
        for rows in zip(*same, strict=True)
    ]  # fmt: skip


def _trails(work: Comparison, found: Found) -> dict[str, list[dict[str, float]]]:
    """List the rounds of all seeds, by line."""
    trails = {
        name: [{"seed": seed, **row} for seed, cell in cells.items() for row in cell.get("trail", [])]
        for name, cells in found.items()
    }
    return {name: rows for name, rows in trails.items() if rows}


def _fits(name: str, usual: str, rows: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Fit both forms; the one that the paper found for this kind of optimisation comes first."""
    kl, gold = zip(*[(row["kl"], row["gold"]) for row in rows], strict=True) if rows else ((), ())
    found = [fit(form, kl, gold) for form in sorted(FORMS, key=lambda form: form != usual)]
    return [{"name": name, **f.to_dict()} for f in found if f is not None]


def figure(values: list[float]) -> dict[str, float | None]:
    """Average over seeds, with the interval, as results.json has it."""
    estimate = over_seeds(values)
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}

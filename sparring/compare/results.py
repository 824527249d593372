"""What a comparison found: results.json and results.csv, from the cells that are there.

Figures are means over seeds with Student's t interval. Costs: `tokens` and `flops` were counted before (budget.py),
`seconds` and `memory` measured; `labels` are the records of the data that a method learns from. What a judge cost that
is a line of its own is in every line that it pays; the start's own cost is in the start's line only, and best of n pays
when it answers, not before.
"""

import csv
import io
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from sparring.compare.cells import Comparison, Found, Key, missed, read_cell
from sparring.compare.frontier import figure, frontier
from sparring.compare.lines import BASE, baseline, best_name
from sparring.compare.verdict import POWER, Finding, headline, judge, sentences
from sparring.evaluation.figures import SCORE
from sparring.loops.record import versions
from sparring.loops.run import Run

FIGURES = {
    "kl": "kl", "perplexity": "perplexity", "distinct_2": "distinct_2_words", "words": "words",
    "copied_words": "copied_words", "copied_words_max": "copied_words_max",
}  # fmt: skip
WINS = "win_rate"
MEASURED: Mapping[str, Callable[[Iterable[float]], float]] = {"seconds": sum, "memory": max}
"""What was measured, and how that of a line and that of its judges are one."""
COUNTED = ("tokens", "flops", "labels")


def collect(work: Comparison) -> Found:
    """Read all cells that are done."""
    return {
        name: {seed: cell for seed in work.plan.seeds if (cell := read_cell(work.out, line, seed)) is not None}
        for name, line in work.lines.items()
    }


def results(work: Comparison, found: Found, failed: Mapping[Key, str], command: str) -> dict[str, Any]:
    """Make what results.json holds; `methods`, `verdict` and the like are as report/inputs.py describes them."""
    plan = work.plan
    against, among = findings(work, found)
    names, wins = _names(plan.feedback), win_rates(work, found)
    measured = {line: cells for line, cells in found.items() if any("values" in cell for cell in cells.values())}
    return {
        "title": plan.title,
        "headline": headline(against, among, baseline(plan)),
        "verdict": "\n".join([*sentences(against, among), *_failures(work, failed), _basis(work, against)]),
        "methods": [_row(work, line, found, names, wins.get(line, {})) for line in measured or found],
        "judges": [_row(work, line, found, {}, {}) for line, cost in work.costs.items() if cost.trains_judge],
        "tests": {"with the baselines": list(map(_plain, against)), "among themselves": list(map(_plain, among))},
        "failed": [{"name": name, "seed": seed, "error": error} for (name, seed), error in failed.items()],
        "frontier": frontier(work, found),
        "base": next(iter(measured or found)),
        "yardstick": plan.feedback[0],
        "seeds": list(plan.seeds),
        "prompts": max((t.prompts for t in against), default=None),
        "notes": _notes(found),
        "command": command,
        "versions": versions(),
        "machine": f"{platform.platform()}, {os.cpu_count()} processors",
        "settings": {name: dict(cost.settings) for name, cost in work.costs.items()},
        "plan": plan.to_dict(),
    }


def findings(work: Comparison, found: Found) -> tuple[list[Finding], list[Finding]]:
    """Test the lines by the first feedback: with the baselines, and among themselves."""
    start = baseline(work.plan)
    kept = {name: some for name, some in _scores(work, found).items() if some and (name != BASE or start == BASE)}
    return judge(kept, [start, best_name(work.plan)])


def win_rates(work: Comparison, found: Found) -> dict[str, dict[int, float]]:
    """By line and seed: the share of prompts on which it scores above the start by the first feedback, a tie as half.

    The scores of a prompt are the means over its responses, of which a plan draws one if it does not say otherwise.
    """
    scores = _scores(work, found)
    start = scores.get(baseline(work.plan), {})
    return {
        name: {seed: share_above(own[seed], start[seed]) for seed in own if seed in start}
        for name, own in scores.items()
        if name != baseline(work.plan)
    }


def share_above(scores: Sequence[float], rivals: Sequence[float]) -> float:
    """Count how often a score is above the rival's to the same prompt, a tie as half."""
    return fmean((a > b) + (a == b) / 2 for a, b in zip(scores, rivals, strict=True))


def as_csv(work: Comparison, found: Found, failed: Mapping[Key, str]) -> str:
    """Write a row for every cell: its figures, what it cost, and its error if it has one."""
    names, wins = _names(work.plan.feedback) | FIGURES, win_rates(work, found)
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["name", "method", "seed", *names, WINS, *MEASURED, *COUNTED, "error"])
    for name, line in work.lines.items():
        cost = work.costs.get(name)
        for seed in work.plan.seeds:
            cell = found[name].get(seed, {})
            figures = [cell[key]["mean"] if key in cell else "" for key in names.values()]
            figures.append(wins.get(name, {}).get(seed, ""))
            measured = _measured(work, found, name, seed)
            spent = [measured.get(key, "") for key in MEASURED] + [getattr(cost, key) if cost else 0 for key in COUNTED]
            table.writerow([name, line.method or "", seed, *figures, *spent, failed.get((name, seed), "")])
    return file.getvalue()


def samples(work: Comparison, found: Found) -> list[dict[str, Any]]:
    """Put the first seed's responses to the same prompts side by side, for the page.

    `gold` is the score of the response that is shown, `mean` that of all to the prompt, over seeds.
    """
    key, first = work.plan.feedback[0], work.plan.seeds[0]
    scores = _scores(work, found)
    told = {name: cells[first]["samples"] for name, cells in found.items() if cells.get(first, {}).get("samples")}
    out: dict[str, dict[str, Any]] = {}
    for name, rows in told.items():
        means = list(map(fmean, zip(*scores[name].values(), strict=False)))
        firsts = {row["prompt"]: row for row in reversed(rows)}
        for place, prompt in enumerate(dict.fromkeys(row["prompt"] for row in rows)):
            row = firsts[prompt]
            answer = {"text": row["response"].strip(), "gold": row["scores"].get(key)}
            out.setdefault(prompt, {})[name] = answer | ({"mean": means[place]} if place < len(means) else {})
    return [{"prompt": prompt, "answers": answers} for prompt, answers in out.items()]


def curves(work: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Read what the first seed's runs logged, by line, for the page."""
    seed = work.plan.seeds[0]
    runs = {name: Run(line.place(work.out, seed), "step") for name, line in work.lines.items() if line.method}
    return {name: rows for name, run in runs.items() if (rows := run.rows())}


def _row(
    work: Comparison, name: str, found: Found, names: Mapping[str, str], wins: Mapping[int, float]
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    cells = found[name]
    for column, key in {**names, **FIGURES}.items():
        if values := [cell[key]["mean"] for cell in cells.values() if key in cell]:
            row[column] = figure(values)
    if wins:
        row[WINS] = figure(list(wins.values()))
    if (cost := work.costs.get(name)) is not None:
        row |= {key: getattr(cost, key) for key in COUNTED}
    measured = [_measured(work, found, name, seed) for seed in cells]
    for key in MEASURED:
        row[key] = fmean(values) if (values := [one[key] for one in measured if key in one]) else None
    if missing := [seed for seed in work.plan.seeds if seed not in cells]:
        row["note"] = f"without seed {', '.join(map(str, missing))}"
    return row


def _measured(work: Comparison, found: Found, name: str, seed: int) -> dict[str, float]:
    """Say what a cell took, with its judges: nothing of what its own process did not measure."""
    own, cost = found[name].get(seed, {}), work.costs.get(name)
    judges = [_measured(work, found, judge, seed) for judge in (cost.judges if cost else ())]
    return {key: one([own[key], *(j[key] for j in judges if key in j)]) for key, one in MEASURED.items() if key in own}


def _scores(work: Comparison, found: Found) -> dict[str, dict[int, list[float]]]:
    """List the scores of all prompts by the first feedback, for each line and seed that has them."""
    key = SCORE + work.plan.feedback[0]
    return {
        name: {seed: cell["values"][key] for seed, cell in cells.items() if key in cell.get("values", {})}
        for name, cells in found.items()
    }


def _names(feedback: Sequence[str]) -> dict[str, str]:
    """Name scores as columns: a function by its own name, if no other judge has it; anything else as it is written."""
    short = [spec.rpartition(":")[2] for spec in feedback]
    return {
        s if short.count(s) == 1 and s not in (*FIGURES, WINS) else spec: SCORE + spec
        for s, spec in zip(short, feedback, strict=True)
    }


def _plain(found: Finding) -> dict[str, Any]:
    return asdict(found) | {"variances": list(found.variances)}


def _basis(work: Comparison, against: Sequence[Finding]) -> str:
    """Say what the verdict rests on."""
    plan = work.plan
    prompts = max((t.prompts for t in against), default=0)
    text = f"By {plan.feedback[0]}; {len(plan.seeds)} seeds, {prompts} prompts, two-sided tests that pair both, "
    text += "corrected by Holm at 5 %; the intervals are those of single differences."
    if plan.budget:
        (kind, amount), *_ = plan.budget.items()
        text += f" Each method could spend {amount:,.0f} {kind} after the start."
    if any(t.seeds_needed for t in against):
        text += f" About n seeds: so many would show a difference of that size in {100 * POWER:.0f} % of comparisons, "
        text += "as far as these can say; they can be added to this one."
    if plan.best_of > 1:
        text += f" {best_name(plan)} draws {plan.best_of} responses for every one it gives."
    return text


def _failures(work: Comparison, failed: Mapping[Key, str]) -> list[str]:
    """Say what failed by itself, and how much was not run because of that."""
    own = {key: error for key, error in failed.items() if not missed(work, key, failed)}
    said = [f"Failed: {name}, seed {seed} ({error.rstrip('.')})." for (name, seed), error in own.items()]
    left = len(failed) - len(own)
    return said + ([f"{left} cells that need one of these were not run."] if left else [])


def _notes(found: Found) -> list[str]:
    """Gather what the evaluations had to say, each sentence once with the lines it is about."""
    said: dict[str, list[str]] = {}
    for name, cells in found.items():
        for note in dict.fromkeys(note for cell in cells.values() for note in cell.get("notes", [])):
            said.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in said.items()]

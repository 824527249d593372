"""sparring compare: from a plan to a verdict. Everything is in one folder, and the same command goes on in it.

prepared.json   what was checked and counted before the first cell: settings, tokens, operations
plan.yaml       the plan, as it was read; one with other methods or seeds goes on here if no cell is against it
data/           the two sides of the data, if the plan names no eval_data
cells/          a run folder for each line and seed
results.json    everything that was found; results.csv has a row for each cell
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sparring.compare.budget import Cost, costs_of
from sparring.compare.cells import Comparison, Key, Launch, Tell, run_cells
from sparring.compare.lines import lineage, lines_of
from sparring.compare.plan import SEED, Plan, Source, differences, load_plan, read_plan
from sparring.compare.results import as_csv, collect, results
from sparring.core.errors import RunError, SettingError
from sparring.data.formats import recognise, to_records
from sparring.data.read import RawRow, columns_of, read_rows
from sparring.data.split import split
from sparring.models.checkpoint import write_text

PLAN, PREPARED = "plan.yaml", "prepared.json"


def prepare(plan: Plan, out: Path) -> Comparison:
    """Check everything, split the data, count, and write down what is going to be done; or find that it has been.

    Raises UserError for a plan, a method, a setting, a judge or data that cannot be used, and RunError for a folder
    that holds another comparison or something else; nothing has been trained then.
    """
    before = _before(out)
    lines_of(plan)  # refuses names that do not fit together, before anything is written
    if before is None or differences(before, plan):
        given, known = _grown(before, plan, out) if before is not None else (_split(plan, out), {})
        costs = costs_of(given, lines_of(given), out) | known
        content = {"plan": given.to_dict(), "costs": {name: cost.to_dict() for name, cost in costs.items()}}
        write_text(out / PREPARED, json.dumps(content, indent=1) + "\n")
        # The plan comes last: where it is, everything else is.
        write_text(out / PLAN, yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True))
    return load(out)


def load(out: Path) -> Comparison:
    """Read a comparison that has been prepared. Raises RunError when there is none."""
    try:
        content = json.loads((out / PREPARED).read_text(encoding="utf-8"))
        costs = {name: Cost(**cost) for name, cost in content["costs"].items()}
        plan = read_plan(content["plan"], str(out / PREPARED))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{out / PREPARED}: this does not say what is compared ({type(error).__name__}); start anew in "
                       "another folder") from error  # fmt: skip
    return Comparison(plan=plan, lines=lines_of(plan), costs=costs, out=out)


def compare(work: Comparison, launch: Launch, *, workers: int, tell: Tell, command: str) -> dict[str, Any]:
    """Run what is missing, and write results.json and results.csv; returns what results.json holds."""
    failed = run_cells(work, launch, workers=workers, tell=tell)
    return write_results(work, failed, command)


def write_results(work: Comparison, failed: Mapping[Key, str], command: str) -> dict[str, Any]:
    """Write down what the cells found."""
    found = collect(work)
    content = results(work, found, failed, command)
    write_text(work.out / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(work.out / "results.csv", as_csv(work, found, failed))
    return content


def _before(out: Path) -> Plan | None:
    """Read the plan that a folder was prepared for; None when there is none. Raises RunError for another folder."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: this is a file; a comparison is a folder")
    found = {p.name for p in out.iterdir() if not p.name.startswith(".")} if out.is_dir() else set()
    if {PLAN, PREPARED} <= found:
        return load_plan(out / PLAN)
    if strange := sorted(found - {PLAN, PREPARED, "data", "cells"}):
        raise RunError(f"{out}: there is no comparison here, but {strange[0]} is; choose another --out")
    return None


def _grown(before: Plan, now: Plan, out: Path) -> tuple[Plan, dict[str, Cost]]:
    """Go on with other methods or seeds: the plan with the data as it was split, and the costs that still hold.

    Raises RunError for any other change, and when a cell that is here is none of the new plan's.
    """
    if changed := differences(before, replace(now, title=before.title, seeds=before.seeds, methods=before.methods)):
        raise RunError(f"{out}: the plan is not that of this comparison: {'; '.join(changed)}; "
                       "put it back, or choose another --out")  # fmt: skip
    lines, then = lines_of(now), lines_of(before)
    same = {name for name in then if name in lines and lineage(name, lines) == lineage(name, then)}
    strange = [
        place
        for name, line in then.items()
        for seed in before.seeds
        if (name not in same or seed not in now.seeds) and any((place := line.place(out, seed)).glob("*"))
    ]
    if strange:
        raise RunError(f"{out}: {len(strange)} of its cells are of another plan, such as {strange[0]}; put the plan "
                       "back, remove those cells, or choose another --out")  # fmt: skip
    _check_sources(now)
    known = load(out)
    given = replace(now, data=known.plan.data, eval_data=known.plan.eval_data)
    return given, {name: cost for name, cost in known.costs.items() if name in same}


def _check_sources(plan: Plan) -> None:
    """Refuse several data files when nothing is named to measure on."""
    if plan.eval_data is None and (SEED in plan.data.file or any(entry.data is not None for entry in plan.methods)):
        raise SettingError("with several data files nothing can be put aside to measure on; name eval_data")


def _split(plan: Plan, out: Path) -> Plan:
    """Put a share of the prompts aside to measure on, unless the plan names data for that."""
    _check_sources(plan)
    if plan.eval_data is not None:
        return plan
    source = plan.data
    rows = read_rows(source.file, where=source.where)
    records = to_records(rows, recognise(rows, fields=source.fields).kind, fields=source.fields)
    _, measured = split(records, plan.held_out, 0)
    aside = {record.where for record in measured}
    sides = {
        "train": [row for row in rows if row.where not in aside],
        "held_out": [row for row in rows if row.where in aside],
    }
    files = {name: _write(out / "data" / name, some) for name, some in sides.items()}
    data, eval_data = (Source(file=str(files[name]), fields=source.fields) for name in sides)
    return replace(plan, data=data, eval_data=eval_data)


def _write(place: Path, rows: Sequence[RawRow]) -> Path:
    """Write rows as they were read: as JSON, or as CSV where every value is text because the file knew no other."""
    if rows[0].is_typed:
        path, text = place.with_suffix(".jsonl"), "".join(json.dumps(dict(row.values)) + "\n" for row in rows)
    else:
        file = io.StringIO()
        table = csv.DictWriter(file, columns_of(rows), lineterminator="\n")
        table.writeheader()
        table.writerows(dict(row.values) for row in rows)
        path, text = place.with_suffix(".csv"), file.getvalue()
    write_text(path, text)
    return path

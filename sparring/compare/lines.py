"""The lines of a comparison's table: the start, best of n from it, and each method with each combination of its grid.

A line and a seed are a cell, which has a folder of its own. Lines may need others: the run that they start from, or
one whose judge scores for them.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.compare.plan import SEED, Entry, Plan, Source
from sparring.core.errors import SettingError, did_you_mean

BASE, SFT = "base", "SFT"
REFERENCE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: what `method` makes of the model of the line `start`, or that model itself, with `best_of` of it."""

    name: str
    method: str | None = None
    start: str | None = None
    policy: str | None = None
    feedback: tuple[str, ...] = ()
    data: Source
    negatives: str | None = None
    base: str | None = None
    pretrain: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    best_of: int = 1
    judge: str | None = None

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9_.=-]+", "-", self.name).strip("-.")

    @property
    def paid_by(self) -> list[str]:
        """The lines whose judges score for it."""
        return list(dict.fromkeys(name for text in self.feedback for name in REFERENCE.findall(text)))

    @property
    def needs(self) -> list[str]:
        """The lines whose cell of the same seed must be there before."""
        start = [self.start] if self.start else []
        return list(dict.fromkeys([*start, *self.paid_by, *REFERENCE.findall(self.judge or "")]))

    def place(self, out: Path, seed: int) -> Path:
        """The folder of one of its cells."""
        return out / "cells" / self.slug / f"seed-{seed}"


def lines_of(plan: Plan) -> dict[str, Line]:
    """Make the lines by name, in the order of the table. Raises SettingError for names that do not fit together."""
    made = [Line(name=BASE, data=plan.data)]
    if plan.sft is not None:
        settings = {**plan.settings, **plan.sft}
        made.append(Line(name=SFT, method="sft", start=BASE, data=plan.data, settings=settings))
    start = made[-1].name
    if plan.best_of > 1:
        judge = plan.judge or plan.feedback[0]
        made.append(Line(name=best_name(plan), start=start, data=plan.data, best_of=plan.best_of, judge=judge))
    elif plan.judge is not None:
        raise SettingError("judge picks among several responses; say of how many with best_of, for example 4")
    for place, entry in enumerate(plan.methods):
        made += _of_entry(plan, entry, start, f"methods[{place}]")
    _check(made)
    return {line.name: line for line in made}


def lineage(name: str, lines: Mapping[str, Line]) -> dict[str, Line]:
    """Gather a line and all that its cells are made from."""
    found = {name: lines[name]}
    for other in lines[name].needs:
        found |= lineage(other, lines)
    return found


def baseline(plan: Plan) -> str:
    """Name the line that methods start from, and have to beat."""
    return SFT if plan.sft is not None else BASE


def best_name(plan: Plan) -> str:
    """Name the line of best of n."""
    return f"{baseline(plan)} + best of {plan.best_of}"


def data_of(line: Line, seed: int) -> str:
    """The data file of a cell."""
    return line.data.file.replace(SEED, str(seed))


def negatives_of(line: Line, seed: int) -> str | None:
    """The file of unwanted texts of a cell, if it has one."""
    return None if line.negatives is None else line.negatives.replace(SEED, str(seed))


def fill(text: str, lines: Mapping[str, Line], out: Path, seed: int) -> str:
    """Put run folders in place of {NAME}."""
    return REFERENCE.sub(lambda found: str(lines[found[1]].place(out, seed)), text)


def _of_entry(plan: Plan, entry: Entry, start: str, where: str) -> list[Line]:
    if entry.start == "sft" and plan.sft is None:
        raise SettingError(f"{where}: it starts from sft, and there is none; add sft with its settings to the plan")
    if both := sorted({*entry.settings} & {*entry.grid}):
        raise SettingError(f"{where}: {both[0]} is both in settings and in grid; leave one out")
    name = entry.name or "-".join(filter(None, (entry.method, entry.policy)))
    out = []
    for values in itertools.product(*entry.grid.values()):
        point = dict(zip(entry.grid, values, strict=True))
        out.append(
            Line(
                name=" ".join([name, *(f"{knob}={value}" for knob, value in point.items())]), method=entry.method,
                start=BASE if entry.start == "base" else start, policy=entry.policy, feedback=entry.feedback,
                data=entry.data or plan.data, negatives=entry.negatives, pretrain=entry.pretrain,
                base=plan.model if entry.base == BASE else entry.base,
                settings={**plan.settings, **entry.settings, **point},
            )
        )  # fmt: skip
    return out


def _check(lines: Sequence[Line]) -> None:
    """Refuse names that occur twice or would share a folder, and lines that wait for what never comes."""
    names = [line.name for line in lines]
    folders: dict[str, str] = {}
    for line in lines:
        same = folders.setdefault(line.slug.lower(), line.name) if line.slug else ""
        if names.count(line.name) > 1:
            raise SettingError(f"two lines are called {line.name}; give one of them another name: ...")
        if same != line.name:
            raise SettingError(f"{line.name!r} and {same!r} are too much alike for folders; rename one")
        for name in line.needs:
            if name not in names:
                raise SettingError(f"{line.name}: there is no run {{{name}}}; {did_you_mean(name, names)}")
    done: set[str] = set()
    while ready := [line.name for line in lines if line.name not in done and done.issuperset(line.needs)]:
        done.update(ready)
    if waiting := [name for name in names if name not in done]:
        raise SettingError(f"{', '.join(waiting)} wait for each other; a run cannot need what needs it")

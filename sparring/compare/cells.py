"""One cell: a normal run folder, measured. And all of them: a process for each, as many at a time as there are cores.

    cells/NAME/seed-S/             the run folder, in the end without its checkpoints; eval.json in it is what `sparring
                                   evaluate` would write
    cells/NAME/seed-S/cell.json    the figures, the scores of every prompt, seconds, memory; written last of all
    cells/NAME/seed-S.log          what the process said, its error last

A cell is done when its cell.json can be read and its model is there. Whatever is missing is made again or gone on with;
a lock that dies with its process keeps a second comparison out of a cell that an orphan of the first still works on.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparring.compare.budget import Cost
from sparring.compare.lines import BASE, Line, baseline, data_of, fill, negatives_of
from sparring.compare.plan import Plan
from sparring.compare.trail import trail
from sparring.evaluation.suite import evaluate
from sparring.loops.train import train
from sparring.models.checkpoint import write_text

PAUSE = 0.05  # seconds between looks at the processes
CELL = "cell.json"
EVERY = 1_000_000_000  # prompts whose responses are kept: all, so that people can look at any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A plan that has been checked and counted, its data split, and the folder that it fills."""

    plan: Plan
    lines: Mapping[str, Line]
    costs: Mapping[str, Cost]
    out: Path


@runtime_checkable
class Process(Protocol):
    """What a started cell looks like; a Popen is one."""

    def poll(self) -> int | None:
        """Say how it ended, or None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to save and end."""
        ...

    def wait(self) -> int:
        """Wait until it has ended."""
        ...


Found = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What the cells hold, by line and seed; a cell that is not done is not there."""

Key = tuple[str, int]
Launch = Callable[[Path, str, int], Process]
"""Starts the cell of a line and a seed in the folder of its comparison."""

Tell = Callable[[str, int, str], None]
"""Called with a line, a seed, and the error that its cell ended with, empty when it is done."""


def read_cell(out: Path, line: Line, seed: int) -> dict[str, Any] | None:
    """Read what a cell found; None when it is not done."""
    place = line.place(out, seed)
    if line.method is not None and not (place / "model").is_dir():
        return None
    try:
        found = json.loads((place / CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "seconds" in found else None


def run_cell(work: Comparison, name: str, seed: int) -> None:
    """Train and measure one cell, unless that is done. Raises what training and measuring raise."""
    line = work.lines[name]
    place = line.place(work.out, seed)
    with _alone(place):
        if read_cell(work.out, line, seed) is not None:
            return
        begun = time.monotonic()
        if line.method is not None:
            _train(work, line, seed)
        trained = time.monotonic()
        found = _measure(work, line, seed)
        if found and line.method is not None:
            found["trail"] = trail(place, work.plan.feedback[0])
        spent = {"seconds": _seconds(place, trained - begun) if line.method else 0.0}
        spent |= {"measuring_seconds": time.monotonic() - trained, "memory": _memory()}
        write_text(place / CELL, json.dumps(found | spent, ensure_ascii=False) + "\n")
        for waste in sorted(place.rglob("checkpoints")):  # only a run that goes on needs them
            shutil.rmtree(waste, ignore_errors=True)


def run_cells(work: Comparison, launch: Launch, *, workers: int, tell: Tell) -> dict[Key, str]:
    """Run what is not done, each after what it needs; returns the errors of the cells that failed."""
    left = [(name, seed) for name in work.lines for seed in work.plan.seeds]
    done = {(name, seed) for name, seed in left if read_cell(work.out, work.lines[name], seed) is not None}
    failed: dict[Key, str] = {}
    left = [key for key in left if key not in done]
    with _ended_with_us() as running:
        while left or running:
            for key in [key for key in left if missed(work, key, failed)]:
                failed[key] = f"not run, for {missed(work, key, failed)} failed"
                left.remove(key)
                tell(*key, failed[key])
            ready = [key for key in left if all((name, key[1]) in done for name in work.lines[key[0]].needs)]
            for key in ready[: max(0, workers - len(running))]:
                left.remove(key)
                running[key] = launch(work.out, *key)
            for key in [key for key, process in running.items() if process.poll() is not None]:
                del running[key]
                if read_cell(work.out, work.lines[key[0]], key[1]) is None:
                    failed[key] = error_of(work.lines[key[0]].place(work.out, key[1]))
                else:
                    done.add(key)
                tell(*key, failed.get(key, ""))
            if running:
                time.sleep(PAUSE)
    return failed


def spawn(out: Path, name: str, seed: int, *, command: Sequence[str], log: Path) -> Process:
    """Start a command for a cell on one thread: threads that share processors wait for each other."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def log_of(place: Path) -> Path:
    """Say where the words of a cell's process are."""
    return place.with_name(f"{place.name}.log")


def error_of(place: Path) -> str:
    """Find the last line that a failed cell said."""
    log = log_of(place)
    said = log.read_text(errors="replace").split("\n") if log.is_file() else []
    lines = [line.strip() for line in said if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "its process ended without a word; memory may have run out"


def launcher(command: Callable[[Path, str, int], Sequence[str]], work: Comparison) -> Launch:
    """Make what starts cells by a command line."""

    def launch(out: Path, name: str, seed: int) -> Process:
        log = log_of(work.lines[name].place(out, seed))
        return spawn(out, name, seed, command=[sys.executable, *command(out, name, seed)], log=log)

    return launch


def _train(work: Comparison, line: Line, seed: int) -> None:
    assert line.method is not None and line.start is not None
    train(
        line.method, model=_model(work, line.start, seed), data=data_of(line, seed), run=line.place(work.out, seed),
        feedback=[fill(text, work.lines, work.out, seed) for text in line.feedback], policy=line.policy,
        negatives=negatives_of(line, seed), base=line.base, pretrain=line.pretrain, fields=line.data.fields,
        where=line.data.where, resume=True,
        settings={**work.costs[line.name].settings, "seed": seed}, command=f"sparring compare --out {work.out}",
        quiet=True,
    )  # fmt: skip


def _measure(work: Comparison, line: Line, seed: int) -> dict[str, Any]:
    """Score the cell's model on the held-out prompts; its distance is that from the model that the plan started with.

    That from the methods' own start is measured as well, if they have one that is made here.
    """
    if line.name in work.costs and work.costs[line.name].trains_judge:
        return {}  # it writes nothing that could be scored
    plan, how, source = work.plan, work.plan.evaluate, work.plan.eval_data
    assert source is not None
    model, start = _model(work, line.name if line.method else line.start or line.name, seed), baseline(plan)
    return evaluate(
        model, data=source.file, fields=source.fields, where=source.where, feedback=plan.feedback, base=plan.model,
        reference=None if line.name in (BASE, start) else _model(work, start, seed), shown=EVERY,
        judge=None if line.judge is None else fill(line.judge, work.lines, work.out, seed), best_of=line.best_of,
        prompts=how.prompts, K=how.K, max_tokens=how.max_tokens, max_prompt=how.max_prompt,
        temperature=how.temperature, seed=seed,
    )  # fmt: skip


def _model(work: Comparison, name: str, seed: int) -> str:
    """The model of a line: its run, or the one that the plan names, whose folder is left as it is."""
    line = work.lines[name]
    if line.method is not None:
        return str(line.place(work.out, seed))
    inside = Path(work.plan.model).expanduser() / "model"
    return str(inside) if (inside.parent / "run.yaml").is_file() else work.plan.model


def _seconds(place: Path, spent: float) -> float:
    """The seconds of training that a run counted, over its interruptions; those of this process if it counted none."""
    try:
        last = (place / "metrics.jsonl").read_text().splitlines()[-1]
        return float(json.loads(last)["seconds"])
    except (OSError, ValueError, LookupError):
        return spent


def _memory() -> float:
    """Megabytes at this process's worst moment: of the accelerator if there is one, else of the machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def missed(work: Comparison, key: Key, failed: Mapping[Key, str]) -> str:
    """Name what a cell needs and will never get; empty when there is nothing."""
    return next((name for name in work.lines[key[0]].needs if (name, key[1]) in failed), "")


@contextmanager
def _ended_with_us() -> Iterator[dict[Key, Process]]:
    """Hold running processes, and ask them to save and end when we do not get to the end ourselves."""
    running: dict[Key, Process] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until no other process works on a cell; the system gives the lock back however a process ends."""
    import fcntl

    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{place.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

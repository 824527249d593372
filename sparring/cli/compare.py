"""sparring compare PLAN: methods, seeds and one budget, in one command, with a verdict in plain words."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sparring.cli.parser import Parser, integer
from sparring.core.errors import Interrupted, SettingError

if TYPE_CHECKING:
    from sparring.compare.cells import Comparison

BESIDE = ("distinct_2", "words", "win_rate")  # figures that the terminal shows without their intervals
UNTOLD = ("perplexity", "copied_words", "copied_words_max")  # and what only the page and the files have


def add_arguments(parser: Parser) -> None:
    """Add the plan, where it goes, and how much is done at a time."""
    parser.usage = "sparring compare PLAN.yaml --out FOLDER [flags]          sparring compare --demo [--out FOLDER]"
    parser.description = (
        f"{parser.description}\nThe README and examples/plans show plans. The same command goes on where it was, also "
        "when the\nplan has more methods or seeds than before."
    )
    parser.add_argument("plan", nargs="?", metavar="PLAN", help="a YAML file: model, data, feedback, seeds, methods")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write, or to go on in; required but for --demo")
    parser.add_argument("--demo", action="store_true", help="compare on the embedded world, offline, in a few minutes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
        help="put VALUE, in YAML, in the place of what the plan says, such as model=gpt2; repeat for more")  # fmt: skip
    parser.add_argument("--workers", type=integer, default=0, metavar="N", help="cells at a time, each on one thread "
        "(default: as many as processors; 1 with an accelerator)")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="check and count everything, and train nothing")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.add_argument("--only-cell", metavar="SEED/NAME", help=argparse.SUPPRESS)
    parser.set_defaults(words=list(parser.words))


def run(args: argparse.Namespace) -> int:
    """Check, run what is missing, write the results and show them; 2 when cells failed."""
    out = Path(args.out or ("compare-demo" if args.demo else ""))
    if args.only_cell is not None:
        from sparring.compare.cells import run_cell
        from sparring.compare.run import load

        seed, _, name = args.only_cell.partition("/")
        run_cell(load(out), name, int(seed))
        return 0
    work = _prepared(args, out)
    if args.check:
        _show_costs(work)
        return 0
    return carry_out(work, ["compare", *args.words], quiet=args.quiet, workers=args.workers)


def carry_out(work: "Comparison", words: list[str], *, quiet: bool, workers: int = 0) -> int:
    """Run what is missing, each cell in a process of its own, and show what was found; 2 when cells failed."""
    from sparring.compare.cells import launcher
    from sparring.compare.run import compare
    from sparring.report.write import write_comparison

    def command(out: Path, name: str, seed: int) -> list[str]:
        return ["-m", "sparring", "compare", "--out", str(out), "--only-cell", f"{seed}/{name}"]

    _show_costs(work)
    _end_on_request()
    found = compare(
        work, launcher(command, work), workers=workers or _workers(), tell=_teller(work, quiet=quiet),
        command=shlex.join(["sparring", *words]),
    )  # fmt: skip
    _show(found, work.out, write_comparison(work, found, work.out / "report.html"))
    return 2 if found["failed"] else 0


def _prepared(args: argparse.Namespace, out: Path) -> "Comparison":
    if bool(args.plan) == args.demo:
        raise SettingError("sparring compare takes a PLAN, or --demo; see sparring compare --help")
    if args.out is None and not args.demo:
        raise SettingError("sparring compare needs --out; see sparring compare --help")
    if args.demo and args.changes:
        raise SettingError("--set changes a plan, and --demo has its own; see sparring compare --help")
    if args.workers < 0:
        raise SettingError(f"--workers must be at least 1, or 0 for as many as processors, got {args.workers}")
    from sparring.compare.plan import load_plan
    from sparring.compare.run import prepare

    if not args.demo:
        return prepare(load_plan(args.plan, args.changes), out)
    from sparring.compare.embedded import embedded_plan

    return prepare(embedded_plan(out, rivals=True, quiet=args.quiet), out)


def _workers() -> int:
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _end_on_request() -> None:
    """Turn SIGTERM into an exception, so that the cells are asked to save and end as well."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted("ended, as asked; the same command goes on from there")

    signal.signal(signal.SIGTERM, end)


def _teller(work: "Comparison", *, quiet: bool) -> Any:
    total, done = len(work.lines) * len(work.plan.seeds), 0
    from sparring.compare.cells import read_cell

    skipped = sum(read_cell(work.out, line, s) is not None for line in work.lines.values() for s in work.plan.seeds)
    done += skipped
    if skipped and not quiet:
        sys.stderr.write(f"{skipped} of {total} cells are done already\n")

    def tell(name: str, seed: int, error: str) -> None:
        nonlocal done
        done += 1
        if not quiet:
            sys.stderr.write(f"{done}/{total}  {name}, seed {seed}{': failed, ' + error if error else ''}\n")

    return tell


def _show_costs(work: "Comparison") -> None:
    """Say what was counted."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("line", "tokens", "operations", "labels"):
        table.add_column(name, justify="left" if name == "line" else "right", header_style="dim")
    for name, cost in work.costs.items():
        table.add_row(name, f"{cost.tokens:,}", f"{cost.flops:.2g}", f"{cost.labels:,}")
    console = Console(highlight=False)
    console.print(f"{work.plan.title}: what each cell will do", markup=False)
    console.print(table)


def _show(found: dict[str, Any], out: Path, written: list[str]) -> None:
    """Print what fits a terminal: scores and distance with intervals, three figures more, time; where the rest is."""
    from rich.console import Console
    from rich.table import Table

    from sparring.report.figures import duration

    table = Table(box=None, pad_edge=False, header_style="dim")
    keys = dict.fromkeys(key for row in found["methods"] for key in row)
    told = [key for key in keys if any(isinstance(row.get(key), dict) for row in found["methods"])]
    told = [key for key in told if key not in UNTOLD]
    for name in ("method", *told, "time"):
        table.add_column(name, no_wrap=name != "method", justify="left" if name == "method" else "right")
    for row in found["methods"]:
        figures = [_cell(row.get(key), has_interval=key not in BESIDE) for key in told]
        table.add_row(row["name"], *figures, "" if row.get("seconds") is None else duration(row["seconds"]))
    console = Console(highlight=False)
    console.print("\nMeans over seeds, 95 % intervals")
    console.print(table)
    console.print(f"\n{found['verdict']}\n", markup=False)
    console.print(
        "\n".join([*written, str(out / "results.json"), str(out / "results.csv")]), markup=False, soft_wrap=True
    )


def _cell(figure: dict[str, Any] | None, *, has_interval: bool) -> str:
    if figure is None:
        return ""
    mean = f"{figure['mean']:.3f}" if abs(figure["mean"]) < 10 else f"{figure['mean']:.1f}"
    if figure["low"] is None or not has_interval:
        return mean
    return f"{mean}\n[dim]{figure['low']:.3f} to {figure['high']:.3f}[/dim]"

"""sparring evaluate RUN: figures with intervals on prompts that training has not seen."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparring.cli.flags import parse_fields
from sparring.cli.parser import Parser, integer, number
from sparring.core.errors import SettingError

if TYPE_CHECKING:
    from rich.table import Table

    from sparring.evaluation.measure import Tick

WIDE = 110  # columns of a terminal from which what a figure means fits on its line


def add_arguments(parser: Parser) -> None:
    """Add the model, the prompts, and who judges the responses."""
    parser.add_argument("model", nargs="+", metavar="RUN", help="a run folder, a model folder or a hub id; several "
        "are rated against each other")  # fmt: skip
    parser.add_argument("--data", required=True, metavar="FILE", help="held-out prompts or demonstrations; required")
    parser.add_argument("--feedback", action="append", default=[], metavar="JUDGE", help="length, vader, "
        "FILE.py:FUNCTION, a reward model's run, RUN/judge, a sum, or mean(...), worst, uwo, gated; "
        "repeat for a figure each")  # fmt: skip
    parser.add_argument("--base", metavar="MODEL", help="where distance is measured from (default: the run's start)")
    parser.add_argument("--best-of", type=integer, default=1, metavar="N", help="draw N, let --judge pick (default 1)")
    parser.add_argument("--judge", metavar="JUDGE", help="who picks with --best-of, such as runs/x/judge")
    parser.add_argument("--against", metavar="RIVAL", help="count who wins by each judge: a run or model, FILE.jsonl "
        "with responses, or references (the data's own)")  # fmt: skip
    parser.add_argument(
        "--memory", metavar="FILE", help="responses that may be known by heart (default: the run's data)"
    )
    parser.add_argument("--overlap", action="store_true", help="also BLEU, chrF, ROUGE-L and exact match with the "
        "data's own responses (extra: overlap)")  # fmt: skip
    parser.add_argument("--fields", default="", metavar="OURS=THEIRS,...", help="which columns hold what")
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="keep only such rows")
    parser.add_argument("--prompts", type=integer, default=500, metavar="N", help="prompts to take (default 500)")
    parser.add_argument("-k", "--K", type=integer, default=1, metavar="N", help="responses to each (default 1)")
    parser.add_argument("--max-tokens", type=integer, default=64, metavar="N", help="longest response (default 64)")
    parser.add_argument("--max-prompt", type=integer, default=512, metavar="N", help="longest prompt (default 512)")
    parser.add_argument("--temperature", type=number, default=1.0, metavar="X", help="of the policy (default 1)")
    parser.add_argument("--seed", type=integer, default=0, metavar="N", help="the seed of all draws (default 0)")
    parser.add_argument("--ratings", default="ratings.json", metavar="FILE", help="where ratings of several models go "
        "(default ratings.json)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what eval.json holds")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the figures, and leave them in eval.json of the run folder; rate several models."""
    for name in ("prompts", "K", "best_of", "max_tokens", "max_prompt"):
        if getattr(args, name) < 1:
            raise SettingError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if twice := [model for i, model in enumerate(args.model) if model in args.model[:i]]:
        raise SettingError(f"{twice[0]} is named twice; each model is evaluated once")
    if len(args.model) > 1 and not args.feedback:
        raise SettingError("several models are rated by what a judge says; name one with --feedback")
    found = {model: _evaluate(model, args) for model in args.model}
    if len(found) == 1:
        _say(found[args.model[0]], args.json)
    else:
        from sparring.evaluation.ratings import rate, write_ratings

        ratings = rate(found)
        write_ratings(args.ratings, ratings, found)
        sys.stderr.write(f"wrote {args.ratings}\n")
        if args.json:
            _say({"ratings": ratings, "models": found}, is_json=True)
        else:
            _show_ratings(ratings)


def _evaluate(model: str, args: argparse.Namespace) -> Mapping[str, Any]:
    from sparring.evaluation.suite import eval_file, evaluate

    with progress() as tick:
        found = evaluate(
            model,
            data=args.data,
            feedback=args.feedback,
            base=args.base,
            judge=args.judge,
            best_of=args.best_of,
            against=args.against,
            memory=args.memory,
            overlap=args.overlap,
            fields=parse_fields(args.fields) if args.fields else {},
            where=args.where,
            prompts=args.prompts,
            K=args.K,
            max_tokens=args.max_tokens,
            max_prompt=args.max_prompt,
            temperature=args.temperature,
            seed=args.seed,
            tick=tick,
        )
    if (file := eval_file(model, args.best_of)) is not None:
        sys.stderr.write(f"wrote {file}\n")
    return found


def _say(found: Mapping[str, Any], is_json: bool) -> None:
    if is_json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        show(found)


def _show_ratings(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console

    Console(highlight=False).print(_table("ratings", rows))


def show(found: Mapping[str, Any]) -> None:
    """Print a line for each figure (mean, 95 % interval and, if there is room, its meaning), then the notes."""
    from rich.console import Console
    from rich.table import Table

    from sparring.evaluation.figures import meaning

    figures = {name: value for name, value in found.items() if isinstance(value, Mapping) and "mean" in value}
    console = Console(highlight=False)
    is_wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("figure", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if is_wide:
        table.add_column("what it is", style="dim", overflow="fold")
    for name, figure in figures.items():
        ends = "" if figure["low"] is None else f"{figure['low']:.4g} to {figure['high']:.4g}"
        table.add_row(name, f"{figure['mean']:.4g}", ends, *([meaning(name)] if is_wide else []))
    console.print(table)
    for name, rows in found.get("tables", {}).items():
        console.print(_table(name, rows))
    for note in found["notes"]:
        console.print(f"note: {note}", style="dim", markup=False)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> "Table":
    """A table of figures, one row for each part of the data; what is not a number of it is left empty."""
    from rich.table import Table

    table = Table(title=name.replace("_", " "), title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in rows[0]:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*["" if x is None else f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()])
    return table


@contextmanager
def progress() -> "Iterator[Tick]":
    """Show on standard error how far an evaluation is; only where somebody watches a terminal."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(24), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, bars.TaskID] = {}

        def tick(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tick

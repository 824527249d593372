"""sparring demo: the main job on the embedded world, in a few minutes and offline."""

import argparse
from pathlib import Path
from typing import Any

from sparring.cli.parser import Parser, integer
from sparring.core.errors import SettingError


def add_arguments(parser: Parser) -> None:
    """Add where it goes and how much is done."""
    parser.add_argument("--out", default="demo", metavar="FOLDER", help="folder to write (default demo)")
    parser.add_argument("--demonstrations", type=integer, default=200, metavar="N", help="of the expert (default 200)")
    parser.add_argument(
        "--prompts", type=integer, default=300, metavar="N", help="held out to measure on (default 300)"
    )
    parser.add_argument(
        "--seeds", type=integer, default=3, metavar="N", help="how often everything is done (default 3)"
    )
    parser.add_argument("--only-seed", type=integer, default=None, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="show no bars")


def run(args: argparse.Namespace) -> None:
    """Run the demo; show a table, the verdict, and where the page is."""
    for name in ("demonstrations", "prompts", "seeds"):
        if getattr(args, name) < 1:
            raise SettingError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if Path(args.out).is_file():
        raise SettingError(f"--out {args.out} is a file; give a folder")
    from sparring.compare.demo import Plan, run_demo, run_seed

    plan = Plan(out=Path(args.out), seeds=args.seeds, demonstrations=args.demonstrations, prompts=args.prompts)
    if args.only_seed is not None:
        run_seed(plan, args.only_seed, quiet=args.quiet)
        return
    outcome = run_demo(plan, quiet=args.quiet)
    from sparring.models.checkpoint import write_text
    from sparring.report.page import comparison_page

    write_text(plan.out / "report.html", comparison_page(outcome.results, outcome.curves, outcome.samples))
    _show(outcome.results, plan.out)


def _show(results: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [n for n in results["methods"][0] if n != "name"]
    table = Table(title=f"{results['title']}, {results['seeds']} seeds, mean and 95 % interval")
    for name in ("method", *names):
        table.add_column(name)
    for row in results["methods"]:
        table.add_row(row["name"], *[_cell(row[n]) for n in names])
    console = Console(highlight=False)
    console.print(table)
    console.print(results["verdict"])
    console.print(f"{out / 'report.html'}    {out / 'results.json'}")


def _cell(figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return ""
    if figure["low"] is None:
        return f"{figure['mean']:.3f}"
    return f"{figure['mean']:.3f}\n[dim]{figure['low']:.3f} to {figure['high']:.3f}[/dim]"

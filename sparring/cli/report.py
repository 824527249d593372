"""sparring report RUN: one self-contained page with the curves, figures and samples of a run."""

import argparse
from pathlib import Path

from sparring.cli.parser import Parser
from sparring.core.errors import RunError


def add_arguments(parser: Parser) -> None:
    """Add the run, and where its page goes."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument("--out", metavar="FILE", help="the page to write (default: report.html in the run folder)")


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    folder = Path(args.run_folder)
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist; give the folder of a run")
    from rich.console import Console

    from sparring.report.run import run_page

    out = Path(args.out) if args.out else folder / "report.html"
    page = run_page(folder)  # made whole before a file is touched
    part = out.with_name(out.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    Console(highlight=False).print(f"wrote {out}", markup=False)

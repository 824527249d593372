"""sparring report FOLDER: one self-contained page with the curves, figures and samples of a run or a comparison."""

import argparse
import json
from pathlib import Path
from typing import Any

from sparring.cli.parser import Parser
from sparring.core.errors import RunError, SettingError


def add_arguments(parser: Parser) -> None:
    """Add the folder, and where its page goes."""
    parser.add_argument("folder", metavar="FOLDER", help="a run folder, or that of a comparison")
    parser.add_argument("--out", metavar="FILE", help="the page to write (default: report.html in the folder); "
        "figures for papers go beside it, into figures/, if matplotlib is installed")  # fmt: skip
    parser.add_argument("--feedback", action="append", default=[], metavar="JUDGE", help="a judge, as for "
        "sparring evaluate, of what a run's policy said before and after; repeat for a column each")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise RunError(f"{folder} does not exist; give the folder of a run or of a comparison")
    from rich.console import Console

    from sparring.compare.run import PREPARED
    from sparring.report.write import write_run

    page = Path(args.out) if args.out else folder / "report.html"
    is_comparison = (folder / PREPARED).is_file()
    if is_comparison and args.feedback:
        raise SettingError("--feedback scores what one run said before and after; a comparison has its own in the plan")
    said = _comparison(folder, page) if is_comparison else write_run(folder, page, args.feedback)
    Console(highlight=False).print("\n".join(said), markup=False, soft_wrap=True)


def _comparison(folder: Path, page: Path) -> list[str]:
    """Write the page of a comparison from the cells that are done; what failed is known from results.json."""
    from sparring.compare.run import load, write_results
    from sparring.report.write import write_comparison

    before: dict[str, Any] = {}
    if (folder / "results.json").is_file():
        before = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    failed = {(one["name"], one["seed"]): one["error"] for one in before.get("failed", [])}
    work = load(folder)
    return write_comparison(work, write_results(work, failed, before.get("command", "")), page)

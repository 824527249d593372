"""Write the page of a run or of a comparison, and its figures beside it where matplotlib is installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.compare.cells import Comparison
from sparring.compare.results import collect, curves, samples
from sparring.models.checkpoint import write_text
from sparring.report.inputs import Rows
from sparring.report.page import comparison_page
from sparring.report.plot import MISSING, write_figures
from sparring.report.run import run_inputs, run_page

FIGURES = "figures"


def write_comparison(work: Comparison, found: Mapping[str, Any], page: Path) -> list[str]:
    """Write the page of a comparison from its results; returns what was written, in words."""
    lines, shown = curves(work), samples(work, collect(work))
    return _write(page, comparison_page(found, lines, shown), found, lines, shown)


def write_run(run: Path, page: Path, feedback: Sequence[str] = ()) -> list[str]:
    """Write the page of a run folder; returns what was written, in words.

    `feedback` scores what the policy said at the start, on the way and at the end. Raises RunError when it is no run,
    and UserError for a judge that cannot be used.
    """
    return _write(page, run_page(run, feedback), *run_inputs(run))


def _write(
    page: Path, text: str, found: Mapping[str, Any], lines: Mapping[str, Rows], shown: Sequence[Mapping[str, Any]]
) -> list[str]:
    write_text(page, text)
    try:
        files = write_figures(page.parent / FIGURES, found, lines, shown)
    except ImportError:
        return [str(page), MISSING]
    return [str(page), *([f"{page.parent / FIGURES}: {len(files)} files"] if files else [])]

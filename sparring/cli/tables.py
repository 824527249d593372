"""Figures and tables of an evaluation on the terminal, and how far it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from sparring.evaluation.measure import Tick

UNBOUNDED = 400  # columns of what is no terminal: wider than any table
WIDE = 110  # columns of a terminal from which what a figure means fits on its line


def print_table(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table under its name; in a file or a pipe no number is shortened."""
    from rich.console import Console

    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=UNBOUNDED)).print(table(name, rows))


def show(found: Mapping[str, Any]) -> None:
    """Print a line for each figure (mean, 95 % interval and, if there is room, its meaning), then the notes."""
    from rich.console import Console
    from rich.table import Table

    from sparring.evaluation.figures import meaning

    figures = {name: value for name, value in found.items() if isinstance(value, Mapping) and "mean" in value}
    console = Console(highlight=False)
    is_wide = console.width >= WIDE
    shown = Table(box=None, pad_edge=False, header_style="dim")
    shown.add_column("figure", no_wrap=True)
    shown.add_column("mean", justify="right", no_wrap=True)
    shown.add_column("95 % interval", justify="right", no_wrap=True)
    if is_wide:
        shown.add_column("what it is", style="dim", overflow="fold")
    for name, figure in figures.items():
        ends = "" if figure["low"] is None else f"{figure['low']:.4g} to {figure['high']:.4g}"
        shown.add_row(name, f"{figure['mean']:.4g}", ends, *([meaning(name)] if is_wide else []))
    console.print(shown)
    for name, rows in found.get("tables", {}).items():
        console.print(table(name, rows))
    for note in found["notes"]:
        console.print(f"note: {note}", style="dim", markup=False)


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> "Table":
    """A table of figures, one row for each part of the data; what is not a number of it is left empty."""
    from rich.table import Table

    shown = Table(title=name.replace("_", " "), title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in rows[0]:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*["" if x is None else f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()])
    return shown


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

"""Show a run while it goes: a bar with the time left, the speed, and the few figures that matter.

On a terminal it is one live line; elsewhere a plain line now and then. Everything goes to standard error,
so output can still be piped.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

QUIET_SECONDS = 15.0  # between plain lines when nobody watches a terminal


class Progress:
    """A bar of `total` steps or rounds; `shown` are the metrics beside it, in order."""

    def __init__(self, what: str, total: int, shown: Sequence[str], *, quiet: bool) -> None:
        self.what, self.total, self.shown, self.quiet = what, total, shown, quiet
        self._live: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.quiet:
            return self
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        self._console = console
        if console.is_terminal:
            self._live = progress.Progress(
                progress.TextColumn("{task.description}"), progress.BarColumn(24), progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[figures]}"), console=console,
            )  # fmt: skip
            self._live.start()
            self._task = self._live.add_task(self.what, total=self.total, figures="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        """Show how far the run is, and its newest figures."""
        if self.quiet:
            return
        text = "  ".join(f"{name} {figures[name]:.3g}" for name in self.shown if name in figures)
        if self._live is not None:
            self._live.update(self._task, completed=done, figures=text)
        elif time.monotonic() - self._last > QUIET_SECONDS or done == self.total:
            self._last = time.monotonic()
            self._print(f"{self.what} {done}/{self.total}  {text}")

    def say(self, text: str) -> None:
        """Say one sentence above the bar."""
        if not self.quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        # As it is: brackets in a prompt are no markup, and a path that was broken over two lines is no path.
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def note(text: str, *, quiet: bool) -> None:
    """Say one sentence on standard error."""
    if not quiet:
        sys.stderr.write(text + "\n")

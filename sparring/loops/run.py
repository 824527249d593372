"""The run folder: everything needed to understand a run, to go on with it, and to make it again.

    run.yaml        settings, versions, hashes, command
    metrics.jsonl   one row for each step or round
    samples.jsonl   what the policy said on the way
    before_after.jsonl   what it said to the same prompts, at the start and at every checkpoint
    checkpoints/    the whole state of training, the newest few and the best
    model/          the result, as transformers or peft loads it
    README.md       the model card

After a kill the folder is put back to its newest whole checkpoint: rows that were written after it are
removed, so a resumed run writes the same rows again.
"""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sparring.core.errors import Diverged, Interrupted, RunError
from sparring.models import checkpoint

KEPT = 2  # newest checkpoints that stay on disk, beside the best


class Run:
    """One run folder. `clock` is the word its rows count in: step or round."""

    def __init__(self, path: Path, clock: str) -> None:
        self.path, self.clock = path, clock
        self.checkpoints = path / "checkpoints"
        self.metrics, self.samples = path / "metrics.jsonl", path / "samples.jsonl"
        self.before_after = path / "before_after.jsonl"
        self._asked_to_end = False

    @property
    def is_finished(self) -> bool:
        """Whether the model has been written."""
        return (self.path / "model").is_dir()

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        _append(self.metrics, [row])

    def log_samples(self, rows: list[dict[str, Any]]) -> None:
        """Append rows to samples.jsonl."""
        _append(self.samples, rows)

    def log_before_after(self, clock: int, rows: list[dict[str, Any]]) -> None:
        """Append rows to before_after.jsonl; those of the start, at 0, begin the file anew."""
        if clock == 0:
            self.before_after.unlink(missing_ok=True)
        _append(self.before_after, [{self.clock: clock} | row for row in rows])

    def save(self, clock: int, state: dict[str, Any], best: int | None = None) -> Path:
        """Write a checkpoint after step or round `clock`; keep the newest ones and the best."""
        place = checkpoint.save(self.checkpoints, clock, state)
        kept = {self._place(best)} if best is not None else set()
        checkpoint.keep_only(self.checkpoints, kept, KEPT)
        return place

    def restore(self, *, cuts_back: bool) -> tuple[int, dict[str, Any] | None, list[str]]:
        """Find the newest whole checkpoint; the one process that writes files also cuts the logs back to it.

        Returns the clock it was taken at (0 for a fresh start), its state, and what was wrong with newer ones.
        """
        damage = []
        for place in checkpoint.found(self.checkpoints):
            try:
                state = checkpoint.load(place)
            except RunError as error:
                damage.append(str(error))
                continue
            clock = int(place.name.removeprefix("step-"))
            if cuts_back:
                self._cut_back(clock)
            return clock, state, [f"{d}; the run goes on from {place.name}" for d in damage]
        if cuts_back:
            self._cut_back(0)
        return 0, None, [f"{d}; no other is left, so the run starts from its beginning" for d in damage]

    def state_at(self, clock: int) -> dict[str, Any]:
        """Read the checkpoint of one step or round."""
        return checkpoint.load(self._place(clock))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Add to the message of a run that diverged which checkpoint is the last good one."""
        try:
            yield
        except Diverged as error:
            places = checkpoint.found(self.checkpoints)
            last = f"The last good checkpoint is {places[0]}" if places else "No checkpoint had been written yet"
            raise Diverged(f"{error}. {last}; a lower --lr may help") from error

    def read_samples(self) -> list[dict[str, Any]]:
        """All whole rows of samples.jsonl."""
        return _read(self.samples)

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows of metrics.jsonl."""
        return _read(self.metrics)

    def last_row(self) -> dict[str, float]:
        """The figures of the newest row, without its clock; empty when there is none."""
        rows = self.rows()
        return {n: v for n, v in rows[-1].items() if n != self.clock} if rows else {}

    def interrupted(self, clock: int) -> Interrupted:
        """What to raise when the run was asked to end and has been saved after step or round `clock`."""
        return Interrupted(
            f"{self.path}: saved after {self.clock} {clock} and ended, as asked; "
            "the same command with --resume goes on from there"
        )

    def _place(self, clock: int) -> Path:
        return self.checkpoints / f"step-{clock:08d}"

    def _cut_back(self, clock: int) -> None:
        for file in (self.metrics, self.samples, self.before_after):
            if file.exists():
                kept = [r for r in _read(file) if r.get(self.clock, 0) <= clock]
                checkpoint.write_text(file, "".join(json.dumps(r) + "\n" for r in kept))

    def __enter__(self) -> "Run":
        self._before = signal.getsignal(signal.SIGTERM)
        try:
            signal.signal(signal.SIGTERM, self._note)
        except ValueError:
            pass  # not in the main thread: whoever started the thread handles signals
        return self

    def __exit__(self, *_: object) -> None:
        try:
            signal.signal(signal.SIGTERM, self._before)
        except ValueError:
            pass

    @property
    def is_asked_to_end(self) -> bool:
        """Whether SIGTERM has come since the run started."""
        return self._asked_to_end

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True


def _append(file: Path, rows: list[Any]) -> None:
    if not rows:
        return
    with file.open("a") as out:
        out.write("".join(json.dumps(r) + "\n" for r in rows))
        out.flush()
        os.fsync(out.fileno())


def _read(file: Path) -> list[dict[str, Any]]:
    """The whole rows of a log; a last line that a kill cut short is left out."""
    out = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return out

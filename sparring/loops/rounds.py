"""The folder of a run that trains on what it selects, and the order in which it is filled.

    rounds/01/samples.jsonl     prompts with their responses, scores and log-probabilities
    rounds/01/selected.jsonl    the records that were selected, as `sparring data show` reads them
    rounds/01/train/            an ordinary run on these records, from the model before
    rounds/01/figures.json      the figures; once they are there, the round is finished

Every file is written whole or not at all, and follows from those before it, from the settings and from its
place in the run. So after a kill the run goes on with the first file that is missing; metrics.jsonl and
samples.jsonl of the run itself are put together from the rounds.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from sparring.core.errors import RunError
from sparring.core.records import Ranking, Record
from sparring.core.registry import needs
from sparring.core.seeds import derive
from sparring.core.selection import Scored, Selected
from sparring.data.split import prompt_text
from sparring.data.write import as_row
from sparring.loops.card import card
from sparring.loops.clock import Stopwatch
from sparring.loops.collect import as_samples, collect, from_samples, measure
from sparring.loops.job import Job
from sparring.loops.load import Data
from sparring.loops.progress import note
from sparring.loops.run import Run
from sparring.loops.selections import select
from sparring.models.checkpoint import write_folder, write_text
from sparring.models.machine import Machine
from sparring.rollout.store import PROMPTS

CLOCK = "round"
SHOWN = ("score", "score_selected", "kept", "kl", "eval_score")


class Rounds:
    """The rounds of one run, counted from 1."""

    def __init__(self, job: Job, data: Data, machine: Machine, *, quiet: bool) -> None:
        assert job.selection is not None
        self.job, self.data, self.machine, self.quiet = job, data, machine, quiet
        self.total = job.selection.rounds
        self.run = Run(job.run, CLOCK)
        spent = [row["seconds"] for n in range(1, self.total + 1) if (row := self._figures(n))]
        self.clock = Stopwatch(spent=spent[-1] if spent else 0.0)

    def left(self) -> list[int]:
        """List the rounds that are not finished."""
        return [n for n in range(1, self.total + 1) if not self._figures(n)]

    def place(self, number: int) -> Path:
        """Name the folder of one round."""
        return self.job.run / "rounds" / f"{number:02d}"

    def model_after(self, number: int) -> str:
        """Find the newest model that was trained in a round up to `number`; the start when there is none."""
        trained = [self.place(n) / "train" / "model" for n in range(number, 0, -1)]
        return next((str(model.parent) for model in trained if model.is_dir()), self.job.model)

    def prepare(self, number: int) -> bool:
        """Sample and select for one round; returns whether there is anything to train on."""
        chosen, lost = self._select(number)
        if lost:
            self._say(f"round {number}: {lost} selected records have an empty response and were left out")
        if self.machine.is_first and chosen.records:
            _write_rows(self.place(number) / "selected.jsonl", map(as_row, chosen.records))
        self.machine.wait()
        self._end_if_asked(number)
        if not chosen.records:
            self._say(f"round {number}: {_nothing(self._samples(self._sampled_in(number)))}")
        return bool(chosen.records)

    def settings(self, number: int) -> dict[str, Any]:
        """List the settings of the training in one round."""
        job, selection = self.job, self.job.selection
        assert selection is not None
        shared = {**vars(job.model_settings), **vars(job.optimizer), **vars(job.equation)}
        own = {n: getattr(selection, n) for n in ("epochs", "steps", "batch", "save_every")}
        # A sample that was cut at its longest must not be taught to end there, so it is as long as it may be.
        limits = {"max_prompt": job.data_settings.max_prompt, "max_response": selection.max_tokens, "overflow": "cut"}
        fixed = {"held_out": 0.0, "keep_best": "last", "precision": self.machine.precision}
        return {**shared, **own, **limits, **fixed, "seed": derive(job.seed, "train", number) >> 1}

    def finish(self, number: int) -> None:
        """Measure what a round made, and write its figures: after that it is done."""
        sampled = self._sampled_in(number)
        row = _read(self.place(sampled) / "sampling.json") | self._describe(number)
        if (self.place(number) / "selected.jsonl").is_file():
            row |= {"loss": Run(self.place(number) / "train", "step").last_row()["loss"]}
        row |= measure(self.job, self.data, self.machine, self.model_after(number))
        row |= {"seconds": self.clock.lap(0.0)["seconds"]}
        if self.machine.is_first:
            write_text(self.place(number) / "figures.json", json.dumps(row))
            self._put_together()
        self.machine.track(row, number)
        self.machine.wait()
        shown = "  ".join(f"{n} {row[n]:.3g}" for n in SHOWN if n in row)
        self._say(f"{self.job.method} {number}/{self.total}  {shown}")
        self._end_if_asked(number)

    def write_results(self) -> None:
        """Write the card, and last of all the model. Raises RunError when no round trained anything."""
        trained = [n for n in range(1, self.total + 1) if self.model_after(n) != self.job.model]
        if not trained:
            raise RunError(
                f"{self.job.run}: nothing was selected in any of the {self.total} rounds, so nothing was trained; "
                "lower the threshold, raise K, or look at rounds/01/samples.jsonl"
            )
        if not self.machine.is_first:
            return
        self._put_together()
        best = self._best(trained)
        if best != self.total:
            self._say(f"the model is that of round {best}, the best by eval_score")
        text = card(self.job, self._figures(best))
        write_text(self.job.run / "README.md", text)

        def fill(folder: Path) -> None:
            shutil.copytree(Path(self.model_after(best)) / "model", folder, dirs_exist_ok=True)
            write_text(folder / "README.md", text)

        write_folder(self.job.run / "model", fill)

    def _best(self, trained: Sequence[int]) -> int:
        """The round whose model is kept, of those that have one."""
        assert self.job.selection is not None
        if self.job.selection.keep_best == "last":
            return self.total
        return max(trained, key=lambda n: self._figures(n)["eval_score"])

    def _sampled_in(self, number: int) -> int:
        """The round whose samples this one learns from."""
        return number - (number - 1) % self.job.rule.passes

    def _samples(self, number: int) -> list[Scored]:
        """Read the samples of a round, after taking them if they are not there yet."""
        place = self.place(number)
        if not (place / "samples.jsonl").is_file():
            model = self.model_after(number - 1)
            found = collect(self.job, self.data, self.machine, model, number - 1, quiet=self.quiet)
            if self.machine.is_first:
                write_text(place / "sampling.json", json.dumps(dict(found.figures)))
                _write_rows(place / "samples.jsonl", map(as_samples, found.scored))
            self.machine.wait()
            self._end_if_asked(number)
        return [from_samples(row) for row in _read_rows(place / "samples.jsonl")]

    def _earlier(self, number: int) -> list[list[Scored]]:
        """All samples taken before those of a round, the oldest first; none for a rule that asks for none."""
        if "earlier" not in needs(self.job.rule.select):
            return []
        return [self._samples(n) for n in range(1, self._sampled_in(number), self.job.rule.passes)]

    def _select(self, number: int) -> tuple[Selected, int]:
        """Select for a round; returns also how many records cannot be learned from, for a response is empty."""
        scored, earlier = self._samples(self._sampled_in(number)), self._earlier(number)
        chosen = select(self.job.rule, scored, earlier, number=number - 1, seed=self.job.seed)
        whole = tuple(r for r in map(_without_empty, chosen.records) if all(text.strip() for text in r.responses()))
        return Selected(records=whole, figures=chosen.figures), len(chosen.records) - len(whole)

    def _describe(self, number: int) -> dict[str, float]:
        """The figures of a selection: its own, how many records it made, and what they scored."""
        chosen, _ = self._select(number)
        samples = [s for part in [*self._earlier(number), self._samples(self._sampled_in(number))] for s in part]
        known = {(s.where, text): x for s in samples for text, x in zip(s.responses, s.scores, strict=False)}
        scores = [x for r in chosen.records if (x := known.get((r.where, r.responses()[0]))) is not None]
        share = len({r.where for r in chosen.records}) / len({s.where for s in samples})
        row = {**chosen.figures, "kept": float(len(chosen.records)), "kept_prompts": share}
        return row | ({"score_selected": sum(scores) / len(scores)} if scores else {})

    def _figures(self, number: int) -> dict[str, float]:
        """The figures of a finished round; empty for one that is not."""
        file = self.place(number) / "figures.json"
        return _read(file) if file.is_file() else {}

    def _put_together(self) -> None:
        """Write the metrics and samples of the run from those of its rounds."""
        done = [n for n in range(1, self.total + 1) if self._figures(n)]
        _write_rows(self.run.metrics, ({CLOCK: n} | self._figures(n) for n in done))
        taken = [n for n in done if n == self._sampled_in(n)]
        _write_rows(self.run.samples, (row for n in taken for row in self._shown(n)))

    def _shown(self, number: int) -> Iterable[dict[str, Any]]:
        """The first samples of a round as the reports show them."""
        for s in map(from_samples, _read_rows(self.place(number) / "samples.jsonl", PROMPTS)):
            shown = zip(s.responses, s.scores or (0.0,) * len(s.responses), strict=True)
            right = {} if s.reference is None else {"reference": s.reference}
            for text, score in islice(shown, s.joined, None):
                yield {CLOCK: number, "prompt": prompt_text(s.prompt), "response": text, "score": score} | right

    def _end_if_asked(self, number: int) -> None:
        if self.machine.any(self.run.is_asked_to_end) and (number < self.total or not self._figures(number)):
            raise self.run.interrupted(number)

    def _say(self, text: str) -> None:
        note(text, quiet=self.quiet)


def _without_empty(record: Record) -> Record:
    """Leave empty responses out of a ranking that has two others: they need not cost the others' lesson."""
    if not isinstance(record, Ranking) or record.scores is None:
        return record
    kept = [(y, x) for y, x in zip(record.ranked, record.scores, strict=True) if y.strip()]
    return replace(record, ranked=tuple(y for y, _ in kept), scores=tuple(x for _, x in kept)) if kept[1:] else record


def _nothing(scored: Sequence[Scored]) -> str:
    scores = [x for s in scored for x in s.scores]
    found = f" (scores go from {min(scores):.4g} to {max(scores):.4g})" if scores else ""
    return f"no response was selected{found}, so nothing is trained and the model stays as it is"


def _write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(dict(row)) + "\n" for row in rows))


def _read_rows(file: Path, most: int | None = None) -> list[dict[str, Any]]:
    with file.open() as lines:
        return [json.loads(line) for line in islice(lines, most)]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())

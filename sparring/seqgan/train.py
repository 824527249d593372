"""From a request to a finished run folder: the stages in their order, measured, saved, and resumed exactly."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparring.core.errors import Diverged, SettingError
from sparring.loops.parts import sort_settings
from sparring.loops.progress import Progress, note
from sparring.loops.record import check_contents, check_folder, differences, hashes_of, read_record, write_record
from sparring.loops.run import Run
from sparring.loops.summary import show_summary
from sparring.models.machine import Machine
from sparring.seqgan.play import Players, Rules
from sparring.seqgan.results import write_model
from sparring.seqgan.settings import GROUPS, TaskSettings
from sparring.seqgan.task import Say, Task, oracle_task, text_task

SHOWN = ("nll_oracle", "nll_test", "accuracy_d", "reward")
SAMPLES = 8  # sequences in samples.jsonl at each measurement


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything a run needs to be made again."""

    run: Path
    data: str | None
    task: TaskSettings
    rules: Rules
    fields: Mapping[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What run.yaml holds of it."""
        parts = (self.task, *vars(self.rules).values())
        return {
            "method": "seqgan",
            "data": self.data,
            "run": str(self.run),
            "fields": dict(self.fields),
            "where": list(self.where),
            "settings": {name: value for part in parts for name, value in asdict(part).items()},
        }


def train(
    *,
    run: str | Path,
    data: str | None = None,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    command: str = "",
    quiet: bool = False,
) -> Path:
    """Play SeqGAN on a text, or on an oracle when there is none, and write the run folder; returns the folder.

    `settings` go by name; `sparring seqgan --help` lists them. Raises UserError for anything that cannot be used,
    Diverged when a figure is no longer finite, Interrupted when the process was asked to end.
    """
    request = make_request(run=run, data=data, fields=fields, where=where, settings=settings, command=command)
    check_folder(request, resume=resume)
    folder = request.run
    if (folder / "model").is_dir():
        note(f"{folder}: this run is finished; its model is in {folder / 'model'}", quiet=quiet)
        return folder
    machine = Machine(request.rules.loop.device, "fp32")
    if machine.world > 1:
        raise SettingError(f"seqgan plays in one process, and there are {machine.world}; start it without a launcher")
    task = _task(request, lambda text: note(text, quiet=quiet))
    hashes = hashes_of(request)
    if (folder / "run.yaml").is_file():
        before = read_record(folder)
        check_contents(request, before, hashes)
        for sentence in differences(before, machine):
            note(f"warning: {sentence}", quiet=quiet)
    else:
        write_record(request, machine, hashes)
    players = Players(task, request.rules, machine.device)
    total = sum(request.rules.stages().values())
    with Run(folder, "round") as place, Progress("seqgan", total, SHOWN, quiet=quiet) as bar:
        _play(players, request, place, bar)
    write_model(folder, players, task, asdict(request.rules.generator) | asdict(request.task))
    show_summary(folder, quiet=quiet)
    return folder


def make_request(
    *,
    run: str | Path,
    data: str | None,
    fields: Mapping[str, str] | None,
    where: Sequence[str],
    settings: Mapping[str, Any] | None,
    command: str,
) -> Request:
    """Check names, values and combinations. Raises SettingError with the nearest right name for a wrong one."""
    parts = sort_settings("seqgan", settings or {}, GROUPS)
    task, rules = parts.pop("task"), Rules(**parts)
    if rules.game.baseline == "others" and rules.loop.batch == 1:
        raise SettingError("seqgan: baseline others needs other sequences, and batch is 1; raise it, or take none")
    if data is None and (fields or where):
        raise SettingError("seqgan: --fields and --where choose from a file; name it with --data, or leave them out")
    if data is not None and task.vocabulary < 3:
        raise SettingError("seqgan: vocabulary is 2, which an end and an unknown word fill; raise it for a text")
    return Request(
        run=Path(run), data=data, task=task, rules=rules, fields=dict(fields or {}), where=tuple(where), command=command
    )


def _task(request: Request, say: Say) -> Task:
    if request.data is None:
        return oracle_task(request.task, request.rules.loop.seed)
    return text_task(
        request.data, request.task, request.rules.loop.seed, say, fields=request.fields, where=request.where
    )


def _play(players: Players, request: Request, run: Run, bar: Progress) -> None:
    """Go through the stages from where the run stopped."""
    loop = request.rules.loop
    done, state, complaints = run.restore(cuts_back=True)
    for complaint in complaints:
        bar.say(complaint)
    if state is not None:
        players.load(state)
    plan = [(stage, n) for stage, rounds in request.rules.stages().items() for n in range(1, rounds + 1)]
    for number, (stage, index) in enumerate(plan, start=1):
        if number <= done:
            continue
        with run.guarded():
            row: dict[str, Any] = {"round": number, "stage": stage, **players.play(stage, index)}
            is_last = number == len(plan) or plan[number][0] != stage
            if index % loop.eval_every == 0 or is_last:
                row |= _measure(players, run, number)
            _check(row)
        run.log(row)
        bar.show(number, row)
        if index % loop.save_every == 0 or is_last or run.is_asked_to_end:
            run.save(number, players.state())
        if run.is_asked_to_end and number < len(plan):
            raise run.interrupted(number)


def _measure(players: Players, run: Run, number: int) -> dict[str, float]:
    """Measure the generator on what it writes and on what is held out, and keep some of what it wrote."""
    task, writer = players.task, players.writer
    tokens = players.sample(len(task.train), "measured", number)
    real = task.held_out.to(tokens.device)
    figures = {
        "nll_test": writer.nll(real, has_end=task.has_end),
        "entropy": writer.entropy(tokens[: len(real)], has_end=task.has_end),
    }
    if task.oracle is not None:
        figures["nll_oracle"] = task.oracle.to(tokens.device).nll(tokens, has_end=False)
    shown, scores = tokens[:SAMPLES], players.score(tokens[:SAMPLES])
    run.log_samples(
        [
            {"round": number, "prompt": "", "response": task.text(line), "score": round(score, 6)}
            for line, score in zip(shown.tolist(), scores.tolist(), strict=True)
        ]
    )
    return figures


def _check(row: Mapping[str, Any]) -> None:
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise Diverged(f"{', '.join(bad)} not finite in round {row['round']}")

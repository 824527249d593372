"""sparring.train: from names to a finished run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import SettingError
from sparring.loops import offline, online
from sparring.loops.begin import WARM_UP, fine_tuning
from sparring.loops.build import build_offline, build_online
from sparring.loops.job import Job, make_job
from sparring.loops.judges import load_feedback
from sparring.loops.load import Data, load_data, load_model
from sparring.loops.progress import Progress, note
from sparring.loops.record import (
    check_contents,
    check_folder,
    differences,
    hashes_of,
    precision_before,
    read_record,
    write_record,
)
from sparring.loops.results import write_results
from sparring.loops.rounds import Rounds
from sparring.loops.run import Run
from sparring.loops.summary import show_summary
from sparring.models.folders import resolve
from sparring.models.machine import Machine
from sparring.models.reference import hash_weights


def train(
    method: str,
    *,
    model: str,
    data: str,
    run: str | Path,
    eval_data: str | None = None,
    feedback: Sequence[Any] = (),
    negatives: str | None = None,
    base: str | None = None,
    pretrain: str | None = None,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    negatives_where: Sequence[str] = (),
    policy: str | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    command: str = "",
    quiet: bool = False,
) -> Path:
    """Train `model` on `data` with a method and write the run folder; returns the folder.

    `feedback` holds judges by name, or one Python function of (response), (prompt, response) or (prompt, response,
    reference). `settings` are the method's knobs and the settings of its loop, by name; `sparring train METHOD --help`
    lists them. `base` is the model before fine-tuning: whom a judge that learns along meets before it meets the policy.
    With `resume` the run goes on from its newest checkpoint with the settings it was started with; a run
    that was never started is started. Raises UserError for anything that cannot be used, before anything
    is written; Diverged when training had to be stopped; Interrupted when the process was asked to end.
    """
    folder = Path(run)
    job = make_job(
        method, model=model, data=data, run=folder, policy=policy, eval_data=eval_data, feedback=feedback,
        negatives=negatives, base=base, pretrain=pretrain, fields=fields, where=where, negatives_where=negatives_where,
        settings=settings, command=command,
    )  # fmt: skip
    # A run that was ended before its first round has nothing else yet.
    check_folder(job, resume=resume, may_hold={WARM_UP})
    if (folder / "model").is_dir():
        note(f"{folder}: this run is finished; its model is in {folder / 'model'}", quiet=quiet)
        return folder
    if job.base is not None:
        resolve(job.base)  # a base that is not there is refused before anything is fine-tuned
    if job.selection is not None:
        return _select_and_train(job, quiet=quiet)
    return _execute(job, _start(job, quiet=quiet), quiet=quiet)


def _start(job: Job, *, quiet: bool) -> str:
    """Name the model that the run starts from: the one asked for, or that one after the recipe's fine-tuning."""
    asked = fine_tuning(job)
    return job.model if asked is None else str(train(WARM_UP, **asked, resume=True, quiet=quiet))


def _select_and_train(job: Job, *, quiet: bool) -> Path:
    """Sample, select and train, again and again; each training is a run of its own, inside this one."""
    machine = _machine(job)
    quiet = quiet or not machine.is_first
    trunk = load_model(job, machine)
    data = load_data(job, trunk, lambda text: note(text, quiet=quiet))
    hashes = _hashes(job, machine, hash_weights(trunk.lm.state_dict()), quiet=quiet)
    if job.feedback:
        load_feedback(job, trunk, data, machine)  # a judge that is not there is refused before anything is written
    del trunk  # sampling and training load their own
    machine.wait()
    if machine.is_first and not (job.run / "run.yaml").is_file():
        write_record(job, machine, hashes)
    work = Rounds(job, data, machine, quiet=quiet)
    with machine.tracking(job.settings()), work.run:
        for number in work.left():
            if work.prepare(number):
                place = work.place(number)
                train(
                    job.equation.name, model=work.model_after(number - 1), data=str(place / "selected.jsonl"),
                    run=place / "train", resume=True, settings=work.settings(number),
                    command=f"round {number} of {job.run}", quiet=quiet,
                )  # fmt: skip
            work.finish(number)
    work.write_results()
    if machine.is_first:
        show_summary(job.run, quiet=quiet)
    machine.wait()
    return job.run


def _machine(job: Job) -> Machine:
    return Machine(
        job.model_settings.device, precision_before(job.run) or job.model_settings.precision,
        tracker=job.run_settings.tracker, folder=job.run,
    )  # fmt: skip


def _hashes(job: Job, machine: Machine, weights: str, *, quiet: bool) -> dict[str, str]:
    """Hash what the run is made from; refuse a resumed run for which it is not the same."""
    hashes = hashes_of(job, weights)
    if (job.run / "run.yaml").is_file():
        before = read_record(job.run)
        check_contents(job, before, hashes)
        for sentence in differences(before, machine):
            note(f"warning: {sentence}", quiet=quiet)
    return hashes


def _execute(job: Job, start: str, *, quiet: bool) -> Path:
    machine = _machine(job)
    quiet = quiet or not machine.is_first
    trunk = load_model(job, machine, start)
    data = load_data(job, trunk, lambda text: note(text, quiet=quiet))
    _check_batch(job, machine, data, quiet=quiet)
    weights = hash_weights(trunk.lm.state_dict())
    hashes = _hashes(job, machine, weights, quiet=quiet)
    if job.online is None:
        work = build_offline(job, trunk, data, machine, start=weights, quiet=quiet)
    else:
        work = build_online(job, trunk, data, machine)
    machine.wait()  # no process may find a run.yaml that another one is only now writing
    if machine.is_first and not (job.run / "run.yaml").is_file():
        write_record(job, machine, hashes)
    with machine.tracking(job.settings()):
        figures = _run(job, work, quiet=quiet)
    if machine.is_first:
        write_results(job, work, figures)
        show_summary(job.run, quiet=quiet)
    machine.wait()
    return job.run


def _run(job: Job, work: offline.Offline | online.Online, *, quiet: bool) -> dict[str, float]:
    """Go through the loop, with a bar; returns the last figures."""
    if isinstance(work, offline.Offline):
        total = offline.total_steps(len(work.rows), work.settings)
        with Run(job.run, "step") as run, Progress(job.method, total, offline.SHOWN, quiet=quiet) as bar:
            return offline.train(work, run, bar)
    total = work.warm_up_rounds + work.settings.rounds
    with Run(job.run, "round") as run, Progress(job.method, total, online.SHOWN, quiet=quiet) as bar:
        return online.train(work, run, bar)


def _check_batch(job: Job, machine: Machine, data: Data, *, quiet: bool) -> None:
    """Refuse a batch that leaves a process without work; say it when one is larger than the data."""
    chosen = job.online or job.offline
    assert chosen is not None
    if chosen.batch < machine.world:
        raise SettingError(f"batch is {chosen.batch}, but there are {machine.world} processes to share it; raise it")
    if chosen.batch > len(data.train):
        note(
            f"warning: batch is {chosen.batch}, but there are only {len(data.train)} rows to train on, so a batch "
            "holds some of them more than once",
            quiet=quiet,
        )

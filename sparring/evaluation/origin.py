"""What a run folder says about the model in it: where it started, what it has seen, who judged it.

A figure is worth something only on what training has not used. The run folder knows what that was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import RunError, UserError
from sparring.core.records import Record
from sparring.data.formats import recognise, to_records
from sparring.data.read import read_rows
from sparring.data.split import shared_prompts, split
from sparring.feedback.expression import leaves


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A run folder and what its run.yaml holds."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def start(self) -> str:
        """The model that the run started from."""
        return str(self.content.get("model", ""))

    @property
    def judges(self) -> list[str]:
        """The feedback that the run was trained on, as it was written."""
        return [str(f) for f in self.content.get("feedback") or ()]


def origin_of(path: str) -> Origin | None:
    """Find the run that a path lies in: the folder itself, or the one above (`RUN/model`, `RUN/judge`).

    Raises RunError for a run.yaml that cannot be read.
    """
    import yaml

    here = Path(path).expanduser()
    if not here.is_dir():
        return None
    for folder in (here, here.resolve().parent):
        file = folder / "run.yaml"
        if not file.is_file():
            continue
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{file}: not readable as YAML; {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, dict) or "model" not in content:
            raise RunError(f"{file}: this does not describe a run; name the folder that --run was given")
        return Origin(folder=folder.resolve(), content=content)
    return None


def ancestry(path: str) -> list[Origin]:
    """List the run of a model, the run that it started from, and so on, the newest first."""
    found: list[Origin] = []
    origin = origin_of(path)
    while origin is not None and origin.folder not in [o.folder for o in found]:
        found.append(origin)
        origin = origin_of(origin.start)
    return found


def judge_notes(spec: str, runs: Sequence[Origin]) -> list[str]:
    """Say of every judge in a sum that its score is no held-out figure, if a run was trained against it."""
    return [note for name in leaves([spec]) for run in runs if (note := _judge_note(name, run))]


def _judge_note(name: str, run: Origin) -> str:
    theirs = origin_of(name)
    if theirs is not None and theirs.folder == run.folder:
        return f"{name} was trained in {run.folder.name} itself, so its score is no held-out figure"
    known = {_place(judge) for judge in leaves(run.judges)}
    if _place(name) in known:
        return f"{run.folder.name} was trained to score well by {name}, so its score is no held-out figure"
    return ""


def _place(name: str) -> str:
    """A judge's name, or where it is if it is a folder, so that two spellings of one path are one."""
    return str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name


Seen = Sequence[Record] | None
"""What a run was trained on; None when its data cannot be read here."""


def seen_by(run: Origin) -> Seen:
    """Read what a run was trained on."""
    try:
        return _trained_on(run.content)
    except (UserError, KeyError, TypeError, AttributeError):
        return None


def data_notes(records: Sequence[Record], runs: Mapping[str, Seen]) -> list[str]:
    """Say of each run, by its name, how many prompts of the evaluation it was trained on, if any."""
    notes = []
    for name, seen in runs.items():
        if seen is None:
            notes.append(f"whether {name} was trained on these prompts is unknown: its data cannot be read here")
        elif shared := shared_prompts(seen, records):
            notes.append(f"{name} was trained on {len(shared)} of these prompts, so figures measure memory too")
    return notes


def _trained_on(content: Mapping[str, Any]) -> Sequence[Record]:
    """Read the training side of a run's data again, as the run did."""
    rows = read_rows(str(content["data"]), where=content.get("where") or ())
    fields = content.get("fields") or {}
    records = to_records(rows, recognise(rows, fields=fields).kind, fields=fields)
    if content.get("eval_data"):
        return records
    settings = content["settings"]
    return split(records, settings["held_out"], settings["seed"])[0]

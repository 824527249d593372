"""What run.yaml holds: the request, and what the run was made on; and whether a resumed run is still the same one."""

import importlib.metadata
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import yaml

from sparring.core.errors import RunError
from sparring.core.version import VERSION
from sparring.data.read import fingerprint
from sparring.feedback.expression import named_leaves
from sparring.feedback.saved import hash_judge
from sparring.models.checkpoint import write_text
from sparring.models.folders import hash_files, resolve
from sparring.models.machine import Machine

FILES = ("eval_data", "negatives", "pretrain")
"""Files that a run may have beside its data."""

SAME = ("method", "policy", "feedback", "base", "fields", "where", "negatives_where")
"""What a resumed run must be asked for as before, beside its settings; files may move, their contents may not."""


@runtime_checkable
class Request(Protocol):
    """What a run is asked to do."""

    @property
    def run(self) -> Path:
        """The run folder."""
        ...

    @property
    def data(self) -> str | None:
        """The file it learns from; None when it makes its own."""
        ...

    @property
    def command(self) -> str:
        """The words it was started with."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All that run.yaml holds of it."""
        ...


def read_record(run: Path) -> dict[str, Any]:
    """Read run.yaml. Raises RunError when the folder holds no run or a damaged one."""
    file = run / "run.yaml"
    if not file.is_file():
        raise RunError(f"{run}: there is no run here to resume (no run.yaml); leave --resume out to start one")
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: not readable as YAML; {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or "method" not in content:
        raise RunError(f"{file}: this does not describe a run")
    return content


def write_record(job: Request, machine: Machine, hashes: Mapping[str, str]) -> None:
    """Write run.yaml, which makes the folder a run."""
    made = {"hashes": dict(hashes), "versions": versions(), "machine": _machine(machine)}
    content = {**job.to_dict(), "command": job.command, **made}
    write_text(job.run / "run.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """List what figures may depend on beside the settings."""
    return {
        "sparring": VERSION,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
    }


def hashes_of(job: Request, model: str | None = None) -> dict[str, str]:
    """Hash all that a run is made from, judges as "judge NAME"; `model` is the hash of its first weights, if any."""
    files = {"data": job.data, **{name: getattr(job, name, None) for name in FILES}}
    found = {name: fingerprint(place) for name, place in files.items() if place is not None}
    base = getattr(job, "base", None)
    weights = {"model": model, "base": base and hash_files(resolve(base))}
    judges = {f"judge {name}": hash_judge(name) for name in named_leaves(getattr(job, "feedback", ()))}
    return {name: value for name, value in (weights | judges).items() if value} | found


def check_folder(job: Request, *, resume: bool, may_hold: Collection[str] = ()) -> None:
    """Refuse a folder that holds something else, and a resumed run that is asked for differently.

    `may_hold` names what a run that was ended early may have left before its run.yaml.
    """
    if resume and (job.run / "run.yaml").is_file():
        check_request(job, read_record(job.run))
        return
    if job.run.exists() and not job.run.is_dir():
        raise RunError(f"{job.run}: this is a file; a run is a folder")
    found = {p.name for p in job.run.iterdir() if not p.name.endswith(".part")} if job.run.is_dir() else set()
    if found and not resume:
        raise RunError(f"{job.run}: the folder is not empty; choose another --run, or add --resume to go on with it")
    if found - set(may_hold):
        raise RunError(f"{job.run}: there is no run here to resume (no run.yaml), but {sorted(found)[0]} is; "
                       "choose another --run")  # fmt: skip


def check_request(job: Request, before: Mapping[str, Any]) -> None:
    """Raise RunError when a run is resumed with another method, feedback, choice of rows or setting."""
    now = job.to_dict()
    old, new = before.get("settings") or {}, now["settings"]
    changed = [(n, before.get(n), now.get(n)) for n in SAME if before.get(n) != now.get(n)]
    changed += [(n, old.get(n), new.get(n)) for n in {**new, **old} if old.get(n) != new.get(n)]
    changed += [(n, before.get(n), now.get(n)) for n in ("data", *FILES) if bool(before.get(n)) != bool(now.get(n))]
    for name, was, is_now in changed:
        raise RunError(f"{job.run}: the run was started with {name} {was!r}, not {is_now!r}; resume it unchanged")


def check_contents(job: Request, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Raise RunError, naming the file, when data, models or judges are not what they were when the run was started."""
    was = before.get("hashes") or {}
    for name, value in now.items():
        if name in was and was[name] != value:
            what, _, judge = name.partition(" ")
            place = judge or getattr(job, name)
            raise RunError(
                f"{place}: the {what.replace('_', ' ')} changed since {job.run} was started, so the run cannot go on "
                "exactly; put the old contents back, or start a new run"
            )


def differences(before: Mapping[str, Any], machine: Machine) -> list[str]:
    """Say what is different about the machine of a resumed run, in sentences; the last digits may differ, too."""
    was, now = before.get("machine") or {}, _machine(machine)
    return [
        f"the run was started with {name} {was[name]}, now it is {now[name]}: results may differ in the last digits"
        for name in ("device", "processes", "threads")
        if name in was and was[name] != now[name]
    ]


def precision_before(run: Path) -> str | None:
    """The number format that a run was started with; a new measurement could come out otherwise."""
    if not (run / "run.yaml").is_file():
        return None
    return (read_record(run).get("machine") or {}).get("precision")


def _machine(machine: Machine) -> dict[str, Any]:
    return {
        "device": str(machine.device),
        "precision": machine.precision,
        "processes": machine.world,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }

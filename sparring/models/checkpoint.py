"""State on disk that is whole or not there: written beside its place, flushed, then renamed.

A checkpoint is a folder with `state.pt` (tensors and plain values only) and `manifest.json` (its hash).
Reading goes from the newest to the oldest and skips what is damaged, saying so.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparring.core.errors import RunError
from sparring.models.folders import hash_file

STATE = "state.pt"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside its place, then rename it; an older folder of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    for rest in (beside, old):
        shutil.rmtree(rest, ignore_errors=True)
    beside.mkdir()
    fill(beside)
    if path.exists():
        os.replace(path, old)
    os.replace(beside, path)
    shutil.rmtree(old, ignore_errors=True)


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write one checkpoint under `folder` and return its path. Raises RunError when the disk does not take it."""

    def fill(part: Path) -> None:
        with (part / STATE).open("wb") as file:  # straight to disk: as bytes in memory it would be there twice
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        manifest = {"step": step, "sha256": hash_file(part / STATE)}
        write_text(part / "manifest.json", json.dumps(manifest))

    place = folder / f"step-{step:08d}"
    try:
        write_folder(place, fill)
    except RuntimeError as error:  # a full disk is "unexpected pos" to torch
        raise RunError(f"{place}: a checkpoint could not be written ({error}); if the disk is full, free some space, "
                       "and go on with --resume") from error  # fmt: skip
    return place


def load(place: Path) -> dict[str, Any]:
    """Read one checkpoint into the machine's memory. Raises RunError when it is damaged."""
    try:
        manifest = json.loads((place / "manifest.json").read_text())
        whole = hash_file(place / STATE) == manifest["sha256"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise RunError(f"{place}: this checkpoint is damaged ({type(error).__name__})") from error
    if not whole:
        raise RunError(f"{place}: this checkpoint is damaged (state.pt is not what manifest.json says)")
    return torch.load(place / STATE, map_location="cpu", weights_only=True)


def found(folder: Path) -> list[Path]:
    """List the checkpoints under `folder`, newest first."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def keep_only(folder: Path, wanted: set[Path], newest: int) -> None:
    """Delete all but the newest checkpoints and those that are wanted for another reason."""
    for place in found(folder)[newest:]:
        if place not in wanted:
            shutil.rmtree(place, ignore_errors=True)

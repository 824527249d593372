"""What a finished run leaves: both networks, the words, and how to read them back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparring.core.errors import ModelError
from sparring.core.seeds import generator
from sparring.models.checkpoint import write_folder, write_text
from sparring.seqgan.generator import Generator
from sparring.seqgan.play import Players
from sparring.seqgan.task import Task


def write_model(run: Path, players: Players, task: Task, settings: Mapping[str, Any]) -> None:
    """Write model/: generator.safetensors, discriminator.safetensors, and what is needed to build them."""

    def fill(place: Path) -> None:
        for name, network in (("generator", players.writer), ("discriminator", players.judge)):
            save_file({n: w.cpu().contiguous() for n, w in network.state_dict().items()}, place / f"{name}.safetensors")
        known = dict(settings) | {"vocabulary": task.vocabulary, "words": list(task.words)}
        write_text(place / "config.json", json.dumps(known, indent=1, ensure_ascii=False))

    write_folder(run / "model", fill)


def load_generator(run: Path) -> tuple[Generator, dict[str, Any]]:
    """Read the generator of a finished run, and what it was built from. Raises ModelError when there is none."""
    place = run / "model"
    if not (place / "generator.safetensors").is_file():
        raise ModelError(f"{place}: there is no SeqGAN generator here; name the folder of a finished run")
    known = json.loads((place / "config.json").read_text())
    made = Generator(known["vocabulary"], known["embedding"], known["hidden"], spread=0.0, draw=generator(0, "empty"))
    made.load_state_dict(load_file(place / "generator.safetensors"))
    return made, known


def write(run: Path, rows: int, seed: int) -> list[str]:
    """Let the generator of a finished run write sequences: words of a text, numbers otherwise."""
    made, known = load_generator(run)
    words = tuple(known["words"])
    empty = torch.empty(0, known["length"], dtype=torch.long)
    task = Task(train=empty, held_out=empty, vocabulary=known["vocabulary"], words=words)
    tokens = made.sample(rows, known["length"], generator(seed, "write"), has_end=task.has_end)
    return [task.text(line) for line in tokens.tolist()]

"""The embedded world on disk: its corpus, demonstrations and prompts as files, and a base model that knows it.

The base model is pre-trained on the spot with the ordinary offline loop, as supervised fine-tuning on what
people write, and kept in the cache under a hash of everything it was made from.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.core.version import VERSION
from sparring.data.demo.grammar import NOUN_TOPIC, words
from sparring.data.demo.world import demonstrations, pretraining_corpus, prompts
from sparring.loops.train import train
from sparring.models.backbone import save_trunk, tiny_model
from sparring.models.checkpoint import write_folder, write_text
from sparring.models.reference import cache_folder


@dataclass(frozen=True, kw_only=True)
class Base:
    """The tiny model and how long it is taught: about a minute on one core."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 160
    reviews: int = 8000
    epochs: float = 6.0
    lr: float = 8e-3
    batch: int = 64


def write_demonstrations(path: Path, count: int, seed: int) -> str:
    """Write what the expert shows, one demonstration to a line."""
    found = demonstrations(count, seed)
    return _write(path, ({"prompt": d.prompt, "response": f" {d.response}"} for d in found))


def write_prompts(path: Path, count: int) -> str:
    """Write held-out prompts, the same for every method and seed."""
    return _write(path, ({"prompt": p.prompt} for p in prompts(count, 0)))


def base_model(base: Base, *, quiet: bool = False) -> Path:
    """Find the pre-trained model in the cache, or pre-train it now; returns a run folder."""
    reviews = [_halves(review) for review in pretraining_corpus(base.reviews, 0)]
    content = "".join(json.dumps(row) + "\n" for row in reviews)
    key = hashlib.sha256(f"{VERSION}/{asdict(base)}/{content}".encode()).hexdigest()[:16]
    home = cache_folder() / f"world-{key}"
    run = home / "base"
    if (run / "model").is_dir():
        return run
    write_text(home / "reviews.jsonl", content)
    if not (home / "raw").is_dir():
        trunk = tiny_model(
            words(), width=base.width, layers=base.layers, heads=base.heads, context=base.context, seed=0
        )
        write_folder(home / "raw", lambda place: save_trunk(trunk, place))
    settings: dict[str, Any] = {
        "epochs": base.epochs, "lr": base.lr, "batch": base.batch, "held_out": 0.02, "eval_every": 200,
        "save_every": 200, "precision": "fp32", "micro_tokens": 1024,
    }  # fmt: skip
    return train(
        "sft", model=str(home / "raw"), data=str(home / "reviews.jsonl"), run=run, settings=settings, resume=True,
        quiet=quiet, command="sparring demo",
    )  # fmt: skip


def _halves(review: str) -> dict[str, str]:
    """Split a review after its subject, as prompts end there."""
    tokens = review.split()
    end = next(i for i, word in enumerate(tokens) if word in NOUN_TOPIC) + 1
    return {"prompt": " ".join(tokens[:end]), "response": " " + " ".join(tokens[end:])}


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> str:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)

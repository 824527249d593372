"""Reference log-probabilities of a data file, computed once and kept on disk.

They depend on the model and the rows only, so the file is named by a hash of both and any later run on the
same pair finds it. A run that uses it needs no reference model in memory at all.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.data.batch import Batch, Row, collate
from sparring.models.checkpoint import write_bytes
from sparring.models.machine import Machine
from sparring.models.roles import Networks
from sparring.models.signals import compute
from sparring.models.update import micro_batches


class StoredReference:
    """The log-probability of every response token of a data set under the reference, in nats."""

    def __init__(self, known: dict[int, Float[Tensor, " n"]]) -> None:
        self._known = known

    def of(self, rows: Sequence[Row], batch: Batch) -> Float[Tensor, "B K T"]:
        """Look up the rows of a batch, in its shape."""
        flat = torch.cat([self._known[r.index] for r in rows]).to(batch.mask.device)
        return torch.zeros(batch.mask.shape, device=flat.device).masked_scatter(batch.mask, flat)


def store_reference(
    rows: Sequence[Row],
    networks: Networks,
    machine: Machine,
    *,
    model: str,
    cache: Path,
    micro_tokens: int,
    tick: Callable[[int], None] | None = None,
) -> StoredReference:
    """Read the log-probabilities of `rows` from the cache, or compute and keep them.

    `model` is the hash of the reference's weights. Row indices must be unique.
    """
    from safetensors.torch import load, save

    place = cache / f"reference-{_key(rows, model, machine.precision)}.safetensors"
    if place.is_file():
        flat = load(place.read_bytes())["logps"]
    else:
        found: dict[int, Tensor] = {}
        for part in micro_batches([r.tokens for r in rows], micro_tokens):
            chosen = [rows[i] for i in part]
            batch = collate(chosen).to(machine.device)
            with machine.computing():
                logps = compute(["ref_token_logps"], batch, networks)["ref_token_logps"]
            found |= {r.index: logps[b][batch.mask[b]].cpu() for b, r in enumerate(chosen)}
            if tick is not None:
                tick(len(found))
        flat = torch.cat([found[r.index] for r in rows])
        if machine.is_first:
            write_bytes(place, save({"logps": flat.contiguous()}))
    sizes = [sum(map(len, r.responses)) for r in rows]
    return StoredReference(dict(zip([r.index for r in rows], flat.split(sizes), strict=True)))


def hash_weights(named: dict[str, Tensor]) -> str:
    """Hash weights by their names and values."""
    total = hashlib.sha256()
    for name in sorted(named):
        total.update(name.encode())
        total.update(named[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def cache_folder() -> Path:
    """Where files that can be made again are kept: $SPARRING_CACHE, or sparring in the user's cache."""
    own = os.environ.get("SPARRING_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparring"


def _key(rows: Sequence[Row], model: str, precision: str) -> str:
    total = hashlib.sha256(f"{model}/{precision}".encode())
    for row in rows:
        total.update(repr((row.prompt, row.responses)).encode())
    return total.hexdigest()[:24]

"""Train and held-out records, split by prompt: a prompt that was trained on measures nothing.

Which side a prompt falls on depends on the seed and on the set of prompts, not on their order in the
file. Rows with an empty prompt share no prompt, so each different one of them stands for itself.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from sparring.core.errors import SettingError
from sparring.core.records import Record, Text
from sparring.core.seeds import rng

R = TypeVar("R", bound=Record)


def split(records: Sequence[R], held_out: float, seed: int) -> tuple[list[R], list[R]]:
    """Split records into train and held-out ones, in their order, by a share of the prompts in [0, 1).

    A share above zero holds out at least one prompt, but the train side always keeps at least one, so
    a single prompt is all trained on.
    """
    if not 0 <= held_out < 1:
        raise SettingError(f"held_out must be at least 0 and below 1, got {held_out}")
    keys = [_key(r) for r in records]
    prompts = sorted(set(keys))
    wanted = max(1, round(held_out * len(prompts))) if held_out else 0
    order = rng(seed, "split").permutation(len(prompts))
    kept_out = {prompts[i] for i in order[: max(0, min(wanted, len(prompts) - 1))]}
    train = [r for r, key in zip(records, keys, strict=True) if key not in kept_out]
    return train, [r for r, key in zip(records, keys, strict=True) if key in kept_out]


def duplicates(records: Iterable[Record]) -> int:
    """Count the records whose prompt and responses have occurred before."""
    contents = [(prompt_text(r.prompt), r.responses()) for r in records]
    return len(contents) - len(set(contents))


def shared_prompts(a: Iterable[Record], b: Iterable[Record]) -> tuple[str, ...]:
    """List the prompts, other than the empty one, that occur in both sets of records, sorted."""
    left, right = ({prompt_text(r.prompt) for r in side} for side in (a, b))
    return tuple(sorted((left & right) - {""}))


def prompt_text(prompt: Text) -> str:
    """Write a prompt as plain text for people and for comparing; a conversation becomes lines of role: content."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m.role}: {m.content}" for m in prompt)


def _key(record: Record) -> tuple[str, ...]:
    text = prompt_text(record.prompt)
    return (text,) if text else ("", *record.responses())

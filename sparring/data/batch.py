"""Tokens to tensors. Every kind of data becomes the same shape: B prompts with K responses each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from sparring.core.records import Reference

SAID = {"tags": "tag", "references": "reference", "where": "where"}  # fields of a batch that hold one of each row


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record as token ids: the prompt, its K responses, and what the data says about them.

    A response includes the end-of-text token that ended it; one that was cut has none. `other_prompt` asks
    for the opposite, where a method compares the two. `where` names the record in its file, `tag` what its
    prompt is for, `reference` what is right; `index` is its place in the data set.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    margin: float | None = None
    label: float | None = None
    scores: tuple[float, ...] | None = None
    other_prompt: tuple[int, ...] | None = None
    tag: str = ""
    reference: Reference = None
    where: str = ""
    index: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens a shared-prompt forward spends on this row."""
        responses = sum(map(len, self.responses))
        return len(self.prompt) + responses + (0 if self.other_prompt is None else len(self.other_prompt) + responses)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token ids, and which of them are real. Prompts are padded on the left, responses on the right.

    Masks are built from lengths, never from token ids: the padding id may be any id, also one that
    occurs in the text. A response that a shorter ranking does not have is masked throughout. `allowed` has a
    bit for each token of the vocabulary where a policy was free to draw only some; None means all.
    """

    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    response_ids: Int[Tensor, "B K T"]
    mask: Bool[Tensor, "B K T"]
    margin: Float[Tensor, " B"] | None = None
    label: Float[Tensor, " B"] | None = None
    ratings: Float[Tensor, "B K"] | None = None
    other_prompt_ids: Int[Tensor, "B Q"] | None = None
    other_prompt_mask: Bool[Tensor, "B Q"] | None = None
    tags: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    where: tuple[str, ...] = ()
    allowed: UInt8[Tensor, "B K T W"] | None = None

    @property
    def exists(self) -> Bool[Tensor, "B K"]:
        """Which responses there are."""
        return self.mask.any(-1)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to a device."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def asking_for_the_opposite(self) -> "Batch":
        """The same responses after the other prompts."""
        assert self.other_prompt_ids is not None and self.other_prompt_mask is not None
        return replace(self, prompt_ids=self.other_prompt_ids, prompt_mask=self.other_prompt_mask)

    def rows(self, start: int, stop: int) -> "Batch":
        """Take some of the prompts, with all their responses."""
        part = {f.name: v[start:stop] for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(self, **part)

    def answering(self, rows: Sequence[Row]) -> "Batch":
        """Note which rows' prompts the responses answer, and what the data says about those in words."""
        said: dict[str, Any] = {name: tuple(getattr(row, field) for row in rows) for name, field in SAID.items()}
        return replace(self, **said)

    def take(self, chosen: Int[Tensor, " n"]) -> "Batch":
        """Take the prompts of these numbers, with all their responses."""
        part = {f.name: v[chosen] for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        said = {name: tuple(words[i] for i in chosen.tolist()) for name in SAID if (words := getattr(self, name))}
        return replace(self, **part, **said)


def collate(rows: Sequence[Row], *, pad: int = 0) -> Batch:
    """Pad rows to the longest prompt, the most responses and the longest response among them."""
    K = max(1, max(len(r.responses) for r in rows))
    T = max(1, max((len(y) for r in rows for y in r.responses), default=1))
    prompt_ids, prompt_mask = _on_the_right([r.prompt for r in rows], pad)
    others = [r.other_prompt for r in rows if r.other_prompt is not None]
    other_ids, other_mask = _on_the_right(others, pad) if len(others) == len(rows) else (None, None)
    response_ids = torch.full((len(rows), K, T), pad)
    mask = torch.zeros(len(rows), K, T, dtype=torch.bool)
    for b, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            response_ids[b, k, : len(response)] = torch.tensor(response, dtype=torch.long)
            mask[b, k, : len(response)] = True
    return Batch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        mask=mask,
        margin=_optional([r.margin for r in rows], 0.0),
        label=_optional([r.label for r in rows], 1.0),
        ratings=_ratings(rows, K),
        other_prompt_ids=other_ids,
        other_prompt_mask=other_mask,
    ).answering(rows)


def _on_the_right(prompts: Sequence[tuple[int, ...]], pad: int) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Put prompts at the right end of a rectangle."""
    P = max(1, max(map(len, prompts)))
    ids, mask = torch.full((len(prompts), P), pad), torch.zeros(len(prompts), P, dtype=torch.bool)
    for b, prompt in enumerate(prompts):
        if prompt:
            ids[b, P - len(prompt) :] = torch.tensor(prompt)
            mask[b, P - len(prompt) :] = True
    return ids, mask


def _optional(values: list[float | None], default: float) -> Float[Tensor, " B"] | None:
    """A column that some rows have; None when no row has it, so that an equation can tell."""
    if all(v is None for v in values):
        return None
    return torch.tensor([default if v is None else v for v in values])


def _ratings(rows: Sequence[Row], K: int) -> Float[Tensor, "B K"] | None:
    """The marks that some rows have; in a row without any, a response is worth one more than the next."""
    if all(r.scores is None for r in rows):
        return None
    given = [r.scores or tuple(float(len(r.responses) - 1 - k) for k in range(len(r.responses))) for r in rows]
    return torch.tensor([[*marks, *[0.0] * (K - len(marks))] for marks in given])

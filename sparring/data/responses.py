"""Responses to prompts, as tokens and as text: what feedback is handed, and what evaluation measures."""

from dataclasses import dataclass
from typing import Any

from sparring.data.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Responses:
    """K responses to each of B prompts.

    `prompts` are rendered as the policy saw them; `texts` hold no end-of-text token. A response that a
    shorter row does not have is the empty text, and masked throughout in `batch`.
    """

    batch: Batch
    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.prompts)


def read_out(batch: Batch, tokenizer: Any) -> Responses:
    """Decode a batch. A response is read as what it adds to its prompt, so that spaces at the seam survive."""
    prompts, texts = [], []
    for b in range(len(batch)):
        prompt = batch.prompt_ids[b][batch.prompt_mask[b]].tolist()
        start = tokenizer.decode(prompt, skip_special_tokens=True)
        prompts.append(start)
        row = []
        for k in range(batch.mask.shape[1]):
            response = batch.response_ids[b, k][batch.mask[b, k]].tolist()
            whole = tokenizer.decode(prompt + response, skip_special_tokens=True)
            alone = tokenizer.decode(response, skip_special_tokens=True)
            row.append(whole[len(start) :] if whole.startswith(start) else alone)
        texts.append(tuple(row))
    return Responses(batch=batch, prompts=tuple(prompts), texts=tuple(texts))

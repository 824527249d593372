"""Records to rows of token ids: chat template, special tokens, end of text. And responses back to text.

Which tokens belong to the response is found by rendering twice: the prompt alone, and the prompt with
its response. What comes after the first in the second is the response; no template's tags are looked
for. A prompt is encoded exactly as it is when the policy is asked to go on from it. Where the two
renderings differ at the seam (a token that spans it), the response is encoded for itself, in such a way
that prompt and response decode to the same text as the whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sparring.core.errors import DataError, ModelError
from sparring.core.records import Preference, Prompt, Ranking, Rating, Record, Text, right
from sparring.data.batch import Row

CHUNK = 1000  # records tokenised in one call; more would only hold more text in memory at once
# Texts to stand before a response in place of its prompt. Llama's first tokenizers put a marker (read: a space) at
# the start of every text, so a response cannot be encoded from nothing; after one of these it can.
ANCHORS = ("\n", "a", "0", ".", "~")
Ids = tuple[int, ...]


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it all."""

    # Not members at run time: transformers makes them on demand, which the check of a protocol does not see.
    if TYPE_CHECKING:
        eos_token_id: int | None
        bos_token_id: int | None
        chat_template: str | None

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> Mapping[str, list[list[int]]]:
        """Encode texts; the ids are under "input_ids"."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Turn ids into text."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool = False, tokenize: bool = True
    ) -> str:
        """Render a conversation as text (tokenize=False)."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """A record as the tokenizer will see it: its prompt, and the prompt with each response."""

    prompt: str
    wholes: tuple[str, ...]
    is_chat: bool


def encode(records: Sequence[Record], tokenizer: Tokenizer) -> list[Row]:
    """Turn records into rows of ids, nothing cut; an index is a record's place.

    Every response ends with the end-of-text token, once. A rating becomes the row's one score. Raises
    DataError for a conversation that the tokenizer's template cannot render, and for a response without
    a token; ModelError when the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer names no end-of-text token, so no response could end; set its eos_token")
    head, rows = _head(tokenizer), []
    for begin in range(0, len(records), CHUNK):
        part = records[begin : begin + CHUNK]
        rendered = [_render(r, tokenizer) for r in part]
        texts = list(dict.fromkeys(t for r in rendered for t in (r.prompt, *r.wholes)))
        ids = dict(zip(texts, _ids(texts, tokenizer), strict=True))
        for i, (record, seen) in enumerate(zip(part, rendered, strict=True), begin):
            rows.append(_row(record, seen, ids, head, tokenizer, i))
    return rows


def encode_prompts(prompts: Sequence[Text], tokenizer: Tokenizer) -> list[Ids]:
    """Encode prompts as the policy is asked to go on from them, at least one token each."""
    return [row.prompt for row in encode([Prompt(prompt=p, where="prompt") for p in prompts], tokenizer)]


def decode(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Turn the ids of a response into its text, without special tokens, keeping a leading space."""
    # Some decoders strip the space before the first word, so the response is decoded behind another text.
    anchor = list(_ids([ANCHORS[1]], tokenizer)[0])
    before = tokenizer.decode(anchor, skip_special_tokens=True)
    whole = tokenizer.decode([*anchor, *ids], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    return tokenizer.decode(list(ids), skip_special_tokens=True)


def _ids(texts: list[str], tokenizer: Tokenizer) -> list[Ids]:
    """Encode texts without any token that the tokenizer would add of itself."""
    return [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _head(tokenizer: Tokenizer) -> Ids:
    """Find what the tokenizer puts before every text, such as a begin-of-text token; what it puts after is left."""
    bare, full = _ids(["a"], tokenizer)[0], tuple(tokenizer(["a"])["input_ids"][0])
    starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
    return full[: starts[0]] if starts and bare else ()


def _render(record: Record, tokenizer: Tokenizer) -> _Rendered:
    if isinstance(record.prompt, str):
        wholes = tuple(record.prompt + y for y in record.responses())
        return _Rendered(prompt=record.prompt, wholes=wholes, is_chat=False)
    if not tokenizer.chat_template:
        raise DataError(
            f"{record.where}: the prompt is a conversation, but the tokenizer has no chat template; take an "
            "instruction-tuned model, add chat_template.jinja to the model's folder, or give prompts as plain text"
        )
    prompt = _template(record, None, tokenizer)
    wholes = tuple(_template(record, y, tokenizer) for y in record.responses())
    for whole in wholes:
        if not whole.startswith(prompt):
            raise DataError(
                f"{record.where}: the chat template renders the conversation differently once it is answered, so the "
                f"response cannot be told from it; change the template (it opens the answer with {prompt[-30:]!r})"
            )
    return _Rendered(prompt=prompt, wholes=wholes, is_chat=True)


def _template(record: Record, response: str | None, tokenizer: Tokenizer) -> str:
    """Render a conversation, with an answer to train on or with the opening of one to come."""
    assert not isinstance(record.prompt, str)
    turns = [{"role": m.role, "content": m.content} for m in record.prompt]
    if response is not None:
        turns.append({"role": "assistant", "content": response})
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=response is None, tokenize=False)
    # A template is a program that came with the model: it may raise anything.
    except Exception as error:
        roles = ", ".join(t["role"] for t in turns)
        reason = str(error).strip() or type(error).__name__
        raise DataError(
            f"{record.where}: the chat template refuses the conversation ({reason}); its turns are from {roles}"
        ) from error


def _row(record: Record, seen: _Rendered, ids: dict[str, Ids], head: Ids, tokenizer: Tokenizer, index: int) -> Row:
    prompt = ids[seen.prompt]
    responses = []
    for whole in seen.wholes:
        response = _after(prompt, seen.prompt, whole, ids[whole], tokenizer)
        if not any(token != tokenizer.eos_token_id for token in response):
            raise DataError(f"{record.where}: a response has no token to train on; leave the row out")
        responses.append(_ended(response, tokenizer, is_chat=seen.is_chat))
    if not seen.is_chat and prompt[: len(head)] != head:  # a prompt may already hold what the tokenizer would add
        prompt = head + prompt
    scores = record.scores if isinstance(record, Ranking) else (record.rating,) if isinstance(record, Rating) else None
    return Row(
        prompt=prompt or _start(tokenizer),
        responses=tuple(responses),
        margin=record.margin if isinstance(record, Preference) else None,
        label=record.label if isinstance(record, Preference) else None,
        scores=scores,
        tag=record.tag,
        reference=right(record),
        where=record.where,
        index=index,
    )


def _start(tokenizer: Tokenizer) -> Ids:
    """Give an empty prompt the one token that the first response token is predicted from."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    assert token is not None, "checked on entry"
    return (token,)


def _after(prompt: Ids, prompt_text: str, whole_text: str, whole: Ids, tokenizer: Tokenizer) -> Ids:
    """Take the tokens of the whole that come after the prompt's, or encode the response for itself."""
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    wanted, first = tokenizer.decode(list(whole)), None
    for response in _separately(whole_text[len(prompt_text) :], tokenizer):
        if tokenizer.decode([*prompt, *response]) == wanted:
            return response
        first = response if first is None else first
    # No exact one, so the tokenizer itself loses something (characters that it does not know).
    assert first is not None, "a text can always be encoded"
    return first


def _separately(response: str, tokenizer: Tokenizer) -> Iterator[Ids]:
    """Encode a response behind each of the anchors that allow it, then from nothing."""
    for anchor in ANCHORS:
        before, both = _ids([anchor, anchor + response], tokenizer)
        if both[: len(before)] == before:
            yield both[len(before) :]
    yield _ids([response], tokenizer)[0]


def _ended(response: Ids, tokenizer: Tokenizer, *, is_chat: bool) -> Ids:
    """End a response with the end-of-text token, exactly once.

    A chat template may render white space after the token that ends the turn. It is not part of the
    response: sampling stops before it.
    """
    eos = tokenizer.eos_token_id
    assert eos is not None, "checked on entry"
    end = len(response)
    while is_chat and end and not tokenizer.decode([response[end - 1]]).strip():
        end -= 1
    if end < len(response) and end and _is_special(response[end - 1], tokenizer):
        response = response[:end]
    while response and response[-1] == eos:
        response = response[:-1]
    return (*response, eos)


def _is_special(token: int, tokenizer: Tokenizer) -> bool:
    return token == tokenizer.eos_token_id or not tokenizer.decode([token], skip_special_tokens=True)

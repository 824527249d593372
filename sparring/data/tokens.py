"""Rows that fit: records as token ids within the limits, and a count of everything that was cut for it.

Prompts lose their beginning, for what comes last matters most to the response. Responses are never cut
silently: the user chooses between stopping, dropping the row and cutting. A response that was cut has
no end-of-text token, because the text did not end there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring.core.errors import DataError, SettingError, did_you_mean
from sparring.core.records import Record
from sparring.data.batch import Row
from sparring.data.encode import Tokenizer, encode

OVERFLOWS = ("error", "drop", "cut")


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What it took to make rows fit. Counts are rows, but for `responses` and `responses_cut`.

    `squeezed` counts the prompts, among those cut, that were within their own limit and had to make
    room for their response in the model's positions. `all_cut` counts rows none of whose responses
    ends, `made_equal` those whose responses differed before they were cut and do not any more.
    """

    rows: int
    responses: int
    dropped: int
    prompts_cut: int
    squeezed: int
    responses_cut: int
    all_cut: int
    made_equal: int
    max_prompt: int
    max_response: int

    def sentences(self) -> list[str]:
        """Say in words what was cut or dropped; empty when nothing was."""
        said = [
            (self.dropped, f"rows were dropped: a response is longer than {self.max_response:,} tokens", self.rows),
            (self.prompts_cut, f"prompts lost their beginning to keep to {self.max_prompt:,} tokens", self.rows),
            (self.responses_cut, f"responses were cut to {self.max_response:,} tokens and do not end", self.responses),
            (self.all_cut, "rows have no response that ends, so they teach nothing about stopping", self.rows),
            (self.made_equal, "rows have equal responses since they were cut, so no comparison learns", self.rows),
        ]
        words = [f"{count:,} of {total:,} {what}." for count, what, total in said if count]
        if self.squeezed:
            room = "because the model has no positions for more beside the response"
            words.append(f"{self.squeezed:,} of the {self.prompts_cut:,} prompts were cut further {room}.")
        return words


def prepare(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    *,
    max_prompt: int,
    max_response: int,
    overflow: str,
    context: int | None,
    room: int = 0,
    flag: str = "--max-response",
) -> tuple[list[Row], Truncation]:
    """Encode records and make them fit; lengths are in tokens, the end-of-text token included.

    `context` is how many positions the model has (None: no limit), `room` how many of them a response
    that is yet to be sampled may need. `overflow` says what happens to a response that is too long:
    "error", "drop" its row, or "cut"; `flag` is what a user gives to allow longer ones. Raises DataError
    naming the first row that is too long, and when no row is left.
    """
    if overflow not in OVERFLOWS:
        raise SettingError(f"overflow is {overflow!r}; {did_you_mean(overflow, OVERFLOWS)}")
    if context is not None and room >= context:
        raise SettingError(f"the model has {context} positions; a response of {room} tokens leaves none for its prompt")
    if not records:
        raise DataError("there is not one record to train on")
    limit = max_response if context is None else min(max_response, context - 1)
    rows = encode(records, tokenizer)
    long = {row.index for row in rows if any(len(y) > limit for y in row.responses)}
    if long and overflow == "error":
        raise _too_long(rows, long, limit, max_response, flag)
    kept = [row for row in rows if row.index not in long] if overflow == "drop" else rows
    if not kept:
        raise DataError(f"all {len(rows):,} rows have a response longer than {limit} tokens, so no row is left")
    bos = tokenizer.bos_token_id
    fitted = [_fit(row, _prompt_limit(row, limit, max_prompt, context, room), limit, bos) for row in kept]
    return fitted, _count(rows, kept, fitted, max_prompt, limit)


def _prompt_limit(row: Row, limit: int, max_prompt: int, context: int | None, room: int) -> int:
    if context is None:
        return max_prompt
    longest = max((min(len(y), limit) for y in row.responses), default=0)
    return min(max_prompt, context - max(longest, room))


def _fit(row: Row, max_prompt: int, max_response: int, bos: int | None) -> Row:
    """Cut the prompt on the left, behind its begin-of-text token if it has one, and responses on the right."""
    prompt = row.prompt
    if len(prompt) > max_prompt:
        head = prompt[:1] if prompt[0] == bos and max_prompt > 1 else ()
        prompt = head + prompt[len(prompt) - max_prompt + len(head) :]
    return replace(row, prompt=prompt, responses=tuple(y[:max_response] for y in row.responses))


def _count(rows: list[Row], kept: list[Row], fitted: list[Row], max_prompt: int, max_response: int) -> Truncation:
    pairs = list(zip(kept, fitted, strict=True))
    shorter = [[len(a) > len(b) for a, b in zip(old.responses, new.responses, strict=True)] for old, new in pairs]
    return Truncation(
        rows=len(rows),
        responses=sum(len(row.responses) for row in rows),
        dropped=len(rows) - len(kept),
        prompts_cut=sum(len(new.prompt) < len(old.prompt) for old, new in pairs),
        squeezed=sum(len(new.prompt) < min(len(old.prompt), max_prompt) for old, new in pairs),
        responses_cut=sum(map(sum, shorter)),
        all_cut=sum(bool(cuts) and all(cuts) for cuts in shorter),
        made_equal=sum(len(set(new.responses)) == 1 < len(set(old.responses)) for old, new in pairs),
        max_prompt=max_prompt,
        max_response=max_response,
    )


def _too_long(rows: list[Row], long: set[int], limit: int, max_response: int, flag: str) -> DataError:
    first = next(row for row in rows if row.index in long)
    longest = max(len(y) for row in rows for y in row.responses)
    found = f"a response of {max(map(len, first.responses)):,} tokens, longer than {limit:,}"
    many = f"{len(long):,} of {len(rows):,} rows have one, the longest has {longest:,}"
    if limit < max_response:
        cure = "the model has no positions for more: take another model, or"
    else:
        cure = f"give {flag} {longest}, or"
    return DataError(f"{first.where}: {found} ({many}); {cure} --overflow drop (leave rows out) or cut (shorten them)")

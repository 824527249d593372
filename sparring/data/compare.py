"""Preferences as questions: which of two responses is better, A or B? Pure functions of text.

A question is itself a preference, between two letters: the prompt holds both responses in a fixed template, the
chosen response is the letter of the better one.
"""

from collections.abc import Sequence

from sparring.core.errors import DataError
from sparring.core.records import Preference, Record, Text
from sparring.core.seeds import rng
from sparring.data.encode import Tokenizer
from sparring.data.split import prompt_text

TEMPLATE = "[PROMPT] {prompt}\n[RESPONSE A] {first}\n[RESPONSE B] {second}\n[BETTER RESPONSE]"
LETTERS = (" A", " B")


def question(prompt: Text, first: str, second: str) -> str:
    """Ask which of two responses is better; white space at their ends would tell who wrote them, so it goes."""
    return TEMPLATE.format(prompt=prompt_text(prompt).strip(), first=first.strip(), second=second.strip())


def questions(records: Sequence[Record], seed: int, name: str) -> list[Record]:
    """Ask about every preference once, in an order that is drawn from the seed and the place of the record.

    `name` tells the streams of several data sets apart. The label goes along, a margin has no meaning here.
    """
    is_flipped = rng(seed, "order of responses", name).random(len(records)) < 0.5
    return [_question(r, is_flipped=bool(f)) for r, f in zip(records, is_flipped, strict=True)]


def cramped(records: Sequence[Record], tokenizer: Tokenizer, max_prompt: int) -> int:
    """Count the preferences whose two responses are too long for one prompt, so that a part of the first is cut."""
    asked = [question("", r.chosen, r.rejected) for r in records if isinstance(r, Preference)]
    return sum(len(ids) > max_prompt for ids in tokenizer(asked)["input_ids"]) if asked else 0


def _question(record: Record, *, is_flipped: bool) -> Preference:
    if not isinstance(record, Preference):
        raise DataError(f"{record.where}: a {record.kind} is no choice between two responses")
    pair = (record.rejected, record.chosen) if is_flipped else (record.chosen, record.rejected)
    right, wrong = LETTERS[is_flipped], LETTERS[not is_flipped]
    return Preference(
        prompt=question(record.prompt, *pair), chosen=right, rejected=wrong, label=record.label, tag=record.tag,
        where=record.where,
    )  # fmt: skip

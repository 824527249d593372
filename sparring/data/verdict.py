"""Marked responses with their mark in words behind them, for a model that learns to write both."""

from collections.abc import Sequence

from sparring.core.errors import DataError
from sparring.core.records import Demonstration, Rating, Record

TEMPLATE = "{response}\n[VERDICT] {word}"
WORDS = ("bad", "good")


def verdicts(records: Sequence[Record], seed: int, name: str) -> list[Record]:
    """Put the verdict behind every response; nothing is left to chance, so `seed` and `name` are not used."""
    return [_with_verdict(record) for record in records]


def _with_verdict(record: Record) -> Demonstration:
    if not isinstance(record, Rating):
        raise DataError(f"{record.where}: a {record.kind} has no mark to put into words")
    text = TEMPLATE.format(response=record.response, word=WORDS[record.is_good])
    return Demonstration(prompt=record.prompt, response=text, tag=record.tag, where=record.where)

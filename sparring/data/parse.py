"""A raw row and the columns of its roles to one record, with every field checked.

A conversation may stand wherever a text may: its last turn is the response, the turns before it are the
prompt. A prompt column beside whole conversations repeats their beginning, so the conversation counts.
"""

from collections.abc import Callable, Mapping

from sparring.core.errors import DataError
from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking, Rating, Record, Text
from sparring.data.read import RawRow
from sparring.data.values import (
    check_conversation,
    check_number,
    check_response,
    conversation_of,
    list_of,
    text_of,
    value_of,
    wrong,
)

TRANSCRIPT = "\n\nAssistant:"  # how hh-rlhf marks the turns in a text that holds a whole conversation


def _prompt(row: RawRow, columns: Mapping[str, str]) -> Text | None:
    """Read the prompt, joined with its input by a blank line; None when there is no column for it."""
    column = columns.get("prompt")
    if column is None:
        return None
    if isinstance(row.values.get(column), list):
        return conversation_of(row, column)
    text = text_of(row, column)
    extra = text_of(row, columns["input"]) if row.values.get(columns.get("input", "")) is not None else ""
    return f"{text}\n\n{extra}" if extra.strip() else text


def _response(row: RawRow, column: str, value: object) -> tuple[tuple[Message, ...] | None, str]:
    """Read a response: the turns before it (None for a plain text, which has none), and its text."""
    if not isinstance(value, list):
        return None, check_response(row, column, value)
    turns = check_conversation(row, column, value)
    if turns[-1].role != "assistant":
        found = f"ends with a turn from {turns[-1].role!r}"
        raise wrong(row, column, found, "the last turn must be the assistant's, for it is the response")
    return turns[:-1], check_response(row, f"{column}[{len(turns) - 1}]", turns[-1].content)


def _join(row: RawRow, given: Text | None, turns: tuple[Message, ...] | None) -> Text:
    """Make one prompt of the prompt column, if there is one, and the turns that stood before the response."""
    if turns is None:
        if given is None:
            raise _promptless(row)
        return given
    if isinstance(given, tuple):
        return turns if turns[: len(given)] == given else given + turns
    if given is not None and not turns:
        return (Message(role="user", content=given),)
    if not turns:
        raise _turnless(row)
    return turns


def _promptless(row: RawRow) -> DataError:
    return DataError(
        f"{row.where}: no prompt; the fields here are {', '.join(row.values)}; name it by --fields prompt=..."
    )


def _turnless(row: RawRow) -> DataError:
    return DataError(f"{row.where}: the conversation has no turn before the response, so there is no prompt")


def _parse_prompt(row: RawRow, columns: Mapping[str, str]) -> Prompt:
    given, right = _prompt(row, columns), None
    if "messages" in columns:
        turns = conversation_of(row, columns["messages"])
        if turns[-1].role == "assistant":
            turns, right = turns[:-1], turns[-1].content
        given = _join(row, given, turns)
    if given is None:
        raise _promptless(row)
    if "rating" not in columns:  # a response that was only rated need not be right
        answer = row.values.get(columns.get("response", ""))
        right = answer if isinstance(answer, str) and answer.strip() else right
    return Prompt(prompt=given, reference=right, where=row.where)


def _parse_demonstration(row: RawRow, columns: Mapping[str, str]) -> Demonstration:
    # A response column beside messages is an extract of them; without messages it is all there is.
    column = columns.get("messages") or columns["response"]
    value = list_of(row, column) if "messages" in columns else value_of(row, column)
    turns, response = _response(row, column, value)
    given = _prompt(row, columns)
    unprompted = turns is None and "prompt" not in columns
    prompt = "" if unprompted else _join(row, given, turns)
    return Demonstration(prompt=prompt, response=response, where=row.where)


def _parse_rating(row: RawRow, columns: Mapping[str, str]) -> Rating:
    shown, column = _parse_demonstration(row, columns), columns["rating"]
    rating = check_number(row, column, value_of(row, column), may_be_bool=True)
    return Rating(prompt=shown.prompt, response=shown.response, rating=rating, where=row.where)


def _parse_preference(row: RawRow, columns: Mapping[str, str]) -> Preference:
    (turns, chosen), (others, rejected) = (
        _response(row, columns[role], value_of(row, columns[role])) for role in ("chosen", "rejected")
    )
    if turns != others:
        raise DataError(f"{row.where}: chosen and rejected differ before their last turn; they must answer one prompt")
    given = _prompt(row, columns)
    if given is None and turns is None:
        given, chosen, rejected = _split_transcripts(row, columns, chosen, rejected)
    numbers = {}
    for role in ("margin", "label"):
        value = row.values.get(columns.get(role, ""))
        numbers[role] = None if value is None else check_number(row, columns[role], value)
    if numbers["label"] is not None and not 0 <= numbers["label"] <= 1:
        raise wrong(row, columns["label"], f"is {numbers['label']}", "a probability lies between 0 and 1")
    if row.values.get(columns.get("tie", "")) is not None and check_number(
        row, columns["tie"], row.values[columns["tie"]], may_be_bool=True
    ):
        numbers["label"] = 0.5  # nobody said which of the two is better
    return Preference(
        prompt=_join(row, given, turns),
        chosen=chosen,
        rejected=rejected,
        margin=numbers["margin"],
        label=numbers["label"],
        where=row.where,
    )


def _split_transcripts(row: RawRow, columns: Mapping[str, str], a: str, b: str) -> tuple[str, str, str]:
    """Split two texts of whole conversations, as in hh-rlhf, after the last mark they share."""
    start = a.rfind(TRANSCRIPT)
    while start >= 0 and not b.startswith(a[: start + len(TRANSCRIPT)]):
        start = a.rfind(TRANSCRIPT, 0, start)
    if start < 0:
        raise _promptless(row)
    end = start + len(TRANSCRIPT)
    if "\n\nHuman:" in a[end:] + b[end:]:
        raise DataError(f"{row.where}: chosen and rejected differ before their last turn; they must answer one prompt")
    return (
        a[:end],
        check_response(row, columns["chosen"], a[end:]),
        check_response(row, columns["rejected"], b[end:]),
    )


def _parse_ranking(row: RawRow, columns: Mapping[str, str]) -> Ranking:
    column = columns.get("ranked") or columns["responses"]
    answers = [_response(row, f"{column}[{i}]", v) for i, v in enumerate(list_of(row, column))]
    if len(answers) < 2:
        raise wrong(row, column, f"holds {len(answers)} response(s)", "a ranking needs at least two; leave the row out")
    if any(turns != answers[0][0] for turns, _ in answers):
        raise DataError(f"{row.where}: the responses differ before their last turn; they must answer one prompt")
    prompt, ranked = _join(row, _prompt(row, columns), answers[0][0]), tuple(text for _, text in answers)
    if "scores" not in columns:
        return Ranking(prompt=prompt, ranked=ranked, where=row.where)
    scores = _scores(row, columns["scores"], len(ranked))
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # stable: ties keep the order of the file
    best_first = tuple(ranked[i] for i in order), tuple(scores[i] for i in order)
    return Ranking(prompt=prompt, ranked=best_first[0], scores=best_first[1], where=row.where)


def _scores(row: RawRow, column: str, needed: int) -> list[float]:
    values = list_of(row, column)
    if len(values) != needed:
        raise wrong(row, column, f"holds {len(values)} scores for {needed} responses", "give one for each")
    return [check_number(row, f"{column}[{i}]", v) for i, v in enumerate(values)]


PARSERS: dict[str, Callable[[RawRow, Mapping[str, str]], Record]] = {
    "ranking": _parse_ranking,
    "preference": _parse_preference,
    "rating": _parse_rating,
    "demonstration": _parse_demonstration,
    "prompt": _parse_prompt,
}

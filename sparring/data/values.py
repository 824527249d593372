"""What a field of a raw row may hold: text, a number, a list, a conversation. One error for each thing it may not.

Every error names the row's place, the field, what stood there and what is needed.
"""

import json
import math
from dataclasses import replace

from sparring.core.errors import DataError
from sparring.core.records import Message, Reference
from sparring.data.read import RawRow

# ShareGPT's names for the turns, in the words that chat templates know; other roles stay as they are.
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
LARGEST = 1e30  # beyond this a 32-bit number is close to infinity
# How much better a rater found the chosen response: Llama 2's numbers for the words (arXiv:2307.09288, table 27).
MARGINS: dict[str, tuple[float, float, float, float]] = {
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}
DEGREES = ("significantly better", "better", "slightly better", "negligibly better")
NEGLIGIBLE = ("unsure", "negligibly better or unsure", "negligibly better/unsure", "negligibly better / unsure")
SHOWN = 40  # characters of a wrong value that an error repeats


def value_of(row: RawRow, column: str) -> object:
    """Take a field that must be there and not be null."""
    if column not in row.values:
        raise DataError(f"{row.where}: no field {column!r}; the fields here are {', '.join(row.values) or 'none'}")
    value = row.values[column]
    if value is None:
        raise wrong(row, column, "is empty" if not row.is_typed else "is null", "give a value or leave the row out")
    return value


def text_of(row: RawRow, column: str) -> str:
    """Take a text; it may be empty."""
    if not row.is_typed and row.values.get(column, "") is None:
        return ""  # a table cannot tell an empty text from none
    return check_text(row, column, value_of(row, column))


def check_text(row: RawRow, column: str, value: object) -> str:
    """Refuse a value that is not text, or text that no encoding can write."""
    if not isinstance(value, str):
        raise wrong(
            row, column, f"is {describe(value)} where text is needed", "put it in quotes, or name another field"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise wrong(row, column, f"holds half a character ({error.reason})", "write it whole") from error
    return value


def check_response(row: RawRow, column: str, value: object) -> str:
    """Refuse a response without a visible character: it would teach nothing but to stop."""
    text = check_text(row, column, value)
    if not text.strip():
        raise wrong(
            row, column, "is an empty response" if not text else "is a response of white space", "leave the row out"
        )
    return text


def check_number(row: RawRow, column: str, value: object, *, may_be_bool: bool = False) -> float:
    """Refuse a value that is not a finite number; a table's cell may be written as one."""
    if not row.is_typed and isinstance(value, str):
        value = _parsed(value)
    if (isinstance(value, bool) and not may_be_bool) or not isinstance(value, int | float):
        raise wrong(
            row, column, f"is {describe(value)} where a number is needed", "write it as a number, without quotes"
        )
    if abs(value) > LARGEST or math.isnan(value):
        raise wrong(row, column, f"is {describe(value)}", "give a finite number or leave the row out")
    return float(value)


def margin_in_numbers(row: RawRow, column: str, table: str) -> RawRow:
    """Put the number of a table of MARGINS in the place of a margin in words; numbers stay as they are."""
    value = row.values.get(column)
    if not isinstance(value, str) or not any(letter.isalpha() for letter in value):
        return row
    words = " ".join(value.lower().replace("_", " ").split())
    degree = DEGREES[-1] if words in NEGLIGIBLE else words
    if degree not in DEGREES:
        raise wrong(row, column, f"is {describe(value)}", f"give a number, or {', '.join(DEGREES)} or unsure")
    return replace(row, values={**row.values, column: MARGINS[table][DEGREES.index(degree)]})


def tag_of(row: RawRow, column: str) -> str:
    """Take what a prompt is for; empty where the row does not say."""
    value = row.values.get(column)
    return "" if value is None else check_text(row, column, value)


def reference_of(row: RawRow, column: str) -> Reference:
    """Take what is right: a text, a number as it is written, or a list of these; None where the row does not say."""
    value = row.values.get(column)
    if value is None:
        return None
    several = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in several):
        raise wrong(row, column, f"is {describe(value)}", "write what is right as text, or a list of texts")
    texts = tuple(check_text(row, column, str(one)) for one in several)
    return texts if isinstance(value, list) else texts[0]


def list_of(row: RawRow, column: str) -> list[object]:
    """Take a list; a table's cell may hold one written as JSON."""
    value = value_of(row, column)
    if not row.is_typed and isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list):
        raise wrong(row, column, f"is {describe(value)} where a list is needed", "write it as [...]")
    return value


def conversation_of(row: RawRow, column: str) -> tuple[Message, ...]:
    """Take the turns of a conversation, of the form role/content or from/value; at least one."""
    return check_conversation(row, column, list_of(row, column))


def check_conversation(row: RawRow, column: str, turns: list[object]) -> tuple[Message, ...]:
    """Refuse a conversation without a turn, or with a turn that lacks its role or its content."""
    if not turns:
        raise wrong(row, column, "is a conversation without a turn", "leave the row out")
    return tuple(_message(row, f"{column}[{i}]", turn) for i, turn in enumerate(turns))


def is_conversation(value: object) -> bool:
    """Tell whether a value has the form of a conversation: a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def describe(value: object) -> str:
    """Say what a wrong value is, in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    shown = value if len(str(value)) <= SHOWN else f"{str(value)[:SHOWN]}..."
    return f"the text {shown!r}" if isinstance(value, str) else f"the number {shown}"


def wrong(row: RawRow, column: str, found: str, cure: str) -> DataError:
    """Word an error about one field."""
    return DataError(f"{row.where}: field {column!r} {found}; {cure}")


def _message(row: RawRow, place: str, turn: object) -> Message:
    if not isinstance(turn, dict):
        raise wrong(row, place, f"is {describe(turn)}", "a turn must be an object with role and content")
    for role, content in (("role", "content"), ("from", "value")):
        if role in turn and content in turn:
            name = check_text(row, f"{place}.{role}", turn[role])
            return Message(role=ROLES.get(name, name), content=check_text(row, f"{place}.{content}", turn[content]))
    found = ", ".join(map(str, turn)) or "nothing"
    raise wrong(row, place, f"has the keys {found}", "a turn needs role and content (or from and value)")


def _parsed(cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        return cell

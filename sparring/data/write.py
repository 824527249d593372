"""Records to the rows of a file that reads back as the same records."""

from typing import Any

from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking, Rating, Record, Text


def as_row(record: Record) -> dict[str, Any]:
    """Write a record in the field's own column names; what the data does not say has no column."""
    row: dict[str, Any] = {"prompt": as_prompt(record.prompt)}
    match record:
        case Demonstration(response=response):
            row |= {"response": response}
        case Preference():
            row |= {"chosen": record.chosen, "rejected": record.rejected}
            row |= {"soft_label": record.label, "margin": record.margin}
        case Ranking():
            row |= {"ranked": list(record.ranked), "scores": None if record.scores is None else list(record.scores)}
        case Rating(response=response, rating=rating):
            row |= {"response": response, "rating": rating}
        case Prompt():
            pass
    return {name: value for name, value in row.items() if value is not None}


def as_prompt(prompt: Text) -> Any:
    """Write a prompt: text as it is, a conversation as a list of messages."""
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


def from_prompt(value: Any) -> Text:
    """Read what `as_prompt` wrote."""
    return value if isinstance(value, str) else tuple(Message(role=m["role"], content=m["content"]) for m in value)

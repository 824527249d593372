"""What people hand us: one frozen dataclass for each kind of data. Text only; tokens come later.

Everything is a prompt with K responses: a demonstration has one, a preference two with the chosen
first, a ranking K best first, a prompt none yet. A `tag` says what a prompt is for, such as safety, in the
words of the data; it is empty where the data has none. A `reference` is what the data holds for right, for a
judge that looks at it: one text, or several of which each is right.
"""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation; the role is system, user, assistant or what the chat template knows."""

    role: str
    content: str


GOOD = 0.5
"""A response whose mark is above this is a good one, for methods that know only good and bad."""

Text = str | tuple[Message, ...]
"""A prompt: plain text, or the turns of a conversation that the tokenizer's chat template renders."""

Reference = str | tuple[str, ...] | None
"""What is right as an answer to a prompt; None where the data does not say."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt, and a response to imitate."""

    kind: ClassVar[str] = "demonstration"
    prompt: Text
    response: str
    tag: str = ""
    reference: Reference = None
    where: str = ""

    def responses(self) -> tuple[str, ...]:
        """The one response."""
        return (self.response,)


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A prompt, and two responses of which one was chosen.

    `margin` is how much better the chosen one was rated, in reward units; `label` is the probability
    that the chosen one is really better. None means that the data does not say.
    """

    kind: ClassVar[str] = "preference"
    prompt: Text
    chosen: str
    rejected: str
    margin: float | None = None
    label: float | None = None
    tag: str = ""
    reference: Reference = None
    where: str = ""

    def responses(self) -> tuple[str, ...]:
        """The chosen response, then the rejected one."""
        return (self.chosen, self.rejected)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A prompt, and responses ordered best first; `scores`, when known, fall from first to last."""

    kind: ClassVar[str] = "ranking"
    prompt: Text
    ranked: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    tag: str = ""
    reference: Reference = None
    where: str = ""

    def responses(self) -> tuple[str, ...]:
        """All responses, best first."""
        return self.ranked


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A prompt, and one response with a mark; 1 and 0 stand for good and bad when the mark is a yes or no."""

    kind: ClassVar[str] = "rating"
    prompt: Text
    response: str
    rating: float
    tag: str = ""
    reference: Reference = None
    where: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the mark is that of a good response."""
        return self.rating > GOOD

    def responses(self) -> tuple[str, ...]:
        """The one response."""
        return (self.response,)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt alone: the policy answers it itself."""

    kind: ClassVar[str] = "prompt"
    prompt: Text
    tag: str = ""
    reference: Reference = None
    where: str = ""

    def responses(self) -> tuple[str, ...]:
        """Nothing yet."""
        return ()


Record = Demonstration | Preference | Ranking | Rating | Prompt

KINDS: dict[str, type[Record]] = {c.kind: c for c in (Demonstration, Preference, Ranking, Rating, Prompt)}


def right(record: Record) -> Reference:
    """Say what is right as an answer to a prompt: what the data calls so, else the response that it shows."""
    if record.reference is None and isinstance(record, Demonstration):
        return record.response
    return record.reference


def read_reference(value: Any) -> Reference:
    """Read what is right back from JSON, which makes a list of a tuple."""
    return tuple(value) if isinstance(value, list) else value

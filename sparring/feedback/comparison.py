"""Judges that read two responses at once and say which is better: a trained ranker, or a function of your own.

A function takes (prompt, first, second) and returns a number: above zero when the first is better, below when the
second is, zero when they are equal. Every pair is shown in both orders, for a judge may like a place more than a
response.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import FeedbackError
from sparring.core.records import Text
from sparring.data.split import prompt_text
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import in_both_orders
from sparring.feedback.rule import find_function, reads_reference, required_of
from sparring.models.roles import Network

Pair = tuple[Text, str, str]
"""A prompt and two responses to it."""

Comparison = Callable[[Sequence[Pair]], Float[Tensor, "n 2"]]
"""How much better the first response of each pair is: when it is shown first, and when it is shown second."""

PARTS = 3  # of what a function is shown: prompt, first, second


def as_comparison(judge: Any) -> Comparison | None:
    """Make a comparison of a function, or of the name of one; None when it is a judge of another kind.

    Raises FeedbackError when the function is named and cannot be found.
    """
    is_named = isinstance(judge, str) and ".py:" in judge and "(" not in judge
    function = find_function(judge) if is_named else judge
    if isinstance(function, str | Feedback) or len(required_of(function) or ()) != PARTS or reads_reference(function):
        return None
    name = judge if isinstance(judge, str) else str(getattr(function, "__name__", "judge"))
    return lambda pairs: _ask(name, function, pairs)


def comparison_by(ranker: Network, micro_tokens: int) -> Comparison:
    """Make a comparison of a trained pairwise ranker; its numbers are log-odds."""
    return lambda pairs: in_both_orders(ranker, pairs, micro_tokens)


def _ask(name: str, function: Callable[..., Any], pairs: Sequence[Pair]) -> Float[Tensor, "n 2"]:
    said = []
    for prompt, a, b in pairs:
        text = prompt_text(prompt)
        said.append([_number(name, function(text, a, b)), -_number(name, function(text, b, a))])
    return torch.tensor(said, dtype=torch.float64).reshape(-1, 2)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise FeedbackError(f"judge {name} returned {value!r}; above 0 means the first is better, below 0 the second")
    return number

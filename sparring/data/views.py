"""How a method is shown its records, by the word that it registered with."""

from collections.abc import Callable, Mapping, Sequence

from sparring.core.records import Record
from sparring.data.compare import questions
from sparring.data.verdict import verdicts

COMPARISON = "comparison"
VIEWS: Mapping[str, Callable[[Sequence[Record], int, str], Sequence[Record]]] = {
    "responses": lambda records, seed, name: records,
    COMPARISON: questions,
    "verdict": verdicts,
}

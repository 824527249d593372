"""Two responses read as one text, so that a judge has the first in sight when it reads the second."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from sparring.data.batch import Row
from sparring.feedback.reward_model import score_texts
from sparring.models.roles import Network


def together(first: Row, second: Row) -> Row:
    """Write the second response, after its prompt, behind the first one, after its own."""
    return Row(prompt=(*first.prompt, *first.responses[0], *second.prompt), responses=second.responses)


def ahead(network: Network, pairs: Sequence[tuple[Row, Row]]) -> Float[Tensor, " n"]:
    """Say how far the first response of each pair is ahead of the second: half the difference of both orders.

    So it is 0 for equals and changes its sign when the two change places, whatever the network thinks of an order.
    """
    rows = [together(b, a) for a, b in pairs] + [together(a, b) for a, b in pairs]
    first, second = score_texts(network, rows).chunk(2)
    return (first - second) / 2

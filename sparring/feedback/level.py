"""Where a judge that adds up log-ratios has its zero: where the policy's own tokens are worth nothing on average.

Else a policy whose tokens are all a little likelier than the base's is paid for every further one: before this was so,
responses grew from 18 to 59 words, of 64 tokens at most (docs/log.md). Judges of other kinds have no such level.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sparring.data.batch import Row
from sparring.feedback.reward_model import score_texts
from sparring.models.heads import RatioHead
from sparring.models.machine import Machine
from sparring.models.roles import Network

Parts = Callable[[Sequence[tuple[Row, Row]]], list[tuple[int, int]]]


@torch.no_grad()
def centre(network: Network, rows: Sequence[Row], parts: Parts, machine: Machine) -> None:
    """Move the level to what a token of these responses is worth on average; `parts` says what fits in one pass.

    Their last tokens do not count: an end, which fine-tuning makes far likelier, comes once, however long the response
    is. Counted as one of its tokens it would be worth most to the shortest.
    """
    head, total = network.head, 0.0
    if not isinstance(head, RatioHead):
        return
    rows = [replace(row, responses=(row.responses[0][:-1],)) for row in rows if len(row.responses[0]) > 1]
    if not rows:
        return
    for start, stop in parts([(row, row) for row in rows]):
        with machine.computing():
            total += float((score_texts(network, rows[start:stop]) - head.bias).sum())
    head.level += total * head.length**0.5 / sum(len(row.responses[0]) for row in rows)


def level_of(network: Network) -> float:
    """Say where the level is; 0 for a judge without one."""
    return network.head.level if isinstance(network.head, RatioHead) else 0.0


def set_level(network: Network, level: float) -> None:
    """Put the level back."""
    if isinstance(network.head, RatioHead):
        network.head.level = level

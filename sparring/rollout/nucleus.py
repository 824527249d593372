"""Which tokens may be drawn: the likeliest ones, by this policy or by an earlier one.

Top-k and top-p cut the policy's own distribution when it answers, and leave what it learns as it is. A nucleus of
an earlier policy (NLPO) belongs to the policy itself: what lies outside has no probability, in sampling and in
training alike. So the choice is kept with the responses, one bit for each token of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparring.models.cache import Past
from sparring.models.decode import Decoder
from sparring.models.roles import Network

FIRST_LOOK = 128  # likeliest tokens that top-p looks at first


def cut(
    probs: Float[Tensor, "rows V"], *, top_k: int = 0, top_p: float = 1.0
) -> tuple[Float[Tensor, "rows n"], Int[Tensor, "rows n"]]:
    """Leave what top-k and top-p leave, likeliest first: probabilities (zero for the rest) and token ids.

    Sorting the whole vocabulary costs more than the model does; so for top-p a few are sorted, and more only
    when those few do not hold enough.
    """
    V = probs.shape[-1]
    width = min(top_k or FIRST_LOOK, V)
    while True:
        kept, ids = probs.topk(width, -1)
        before = kept.cumsum(-1) - kept
        total = kept.sum(-1, keepdim=True) if top_k else 1.0
        inside = before < top_p * total
        if width == V or top_k or not bool(inside[:, -1].any()):
            return kept.where(inside, 0.0), ids
        width = min(8 * width, V)


def nucleus(probs: Float[Tensor, "rows V"], share: float, least: int) -> Bool[Tensor, "rows V"]:
    """Find the fewest tokens that together hold a share of the probability, and at least the `least` likeliest."""
    kept, ids = cut(probs, top_p=share)
    inside = torch.zeros_like(probs, dtype=torch.bool).scatter_(-1, ids, kept > 0)
    return inside.scatter_(-1, probs.topk(min(least, probs.shape[-1]), -1).indices, True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Masker:
    """An earlier policy whose nucleus holds all that may be drawn."""

    network: Network
    share: float
    least: int = 1


class MaskingDecoder:
    """The masker reading along with the policy, row by row. Networks may be two adapters on one trunk."""

    def __init__(
        self, masker: Masker, policy: Network, prompts: Sequence[tuple[int, ...]], K: int, room: int, past: Past
    ) -> None:
        self.masker, self.policy = masker, policy
        with self._speaking():
            self.decoder = Decoder(masker.network.trunk, prompts, K, room, past)

    def allowed(self, temperature: float) -> Bool[Tensor, "rows V"]:
        """Say for each row which tokens may come next."""
        with self._speaking():
            logits = self.decoder.logits()
        return nucleus((logits / temperature).softmax(-1), self.masker.share, self.masker.least)

    def keep(self, going: Bool[Tensor, " rows"]) -> None:
        """Let only these rows go on."""
        self.decoder.keep(going)

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Read one more token in each row."""
        with self._speaking():
            self.decoder.advance(tokens)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Switch the masker's adapter on, and afterwards the policy's again: switching one on switches none back."""
        with self.masker.network.trunk.using(self.masker.network.adapter):
            yield
        with self.policy.trunk.using(self.policy.adapter):
            pass

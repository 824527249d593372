"""How near a response is to the demonstration of its prompt, in the eyes of the model that the run starts from.

    r(x, y) = cos( phi(y) - m,  phi(y*) - m )

phi(y) is the mean of the states after each token of y, y* the demonstration, m the mean phi of all demonstrations.

Nothing is learnt, so nobody can be fooled by memory, and nobody learns what the demonstrations share. The states of a
language model point nearly the same way for all texts; taking their mean off is what makes the cosine tell them apart.

Source: RLSR, arXiv:2510.14200, which takes a model made for embeddings.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparring.core.errors import FeedbackError
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.models.roles import Network
from sparring.models.signals import mean_states

AT_ONCE = 64  # demonstrations in one pass


class Similarity:
    """Knows the states of every demonstration; a prompt with several is answered well when one of them is near."""

    def __init__(self, network: Network, demonstrations: Sequence[Row]) -> None:
        self.network = network
        device = network.trunk.device
        parts = [demonstrations[i : i + AT_ONCE] for i in range(0, len(demonstrations), AT_ONCE)]
        found = torch.cat([mean_states(network, collate(part).to(device))[:, 0] for part in parts])
        self.centre = found.mean(0)
        self._near: dict[tuple[int, ...], list[Tensor]] = {}
        for row, state in zip(demonstrations, found - self.centre, strict=True):
            self._near.setdefault(row.prompt, []).append(state)

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response, from -1 to 1. Raises FeedbackError for a prompt that has no demonstration."""
        batch = responses.batch
        states = mean_states(self.network, batch) - self.centre
        out = torch.zeros(batch.mask.shape[:2], device=states.device)
        for b in range(len(batch)):
            shown = self._near.get(tuple(batch.prompt_ids[b][batch.prompt_mask[b]].tolist()))
            if shown is None:
                raise FeedbackError(f"similarity: there is no demonstration for the prompt {responses.prompts[b]!r}")
            out[b] = torch.stack([cosine_similarity(states[b], one[None], dim=-1) for one in shown]).amax(0)
        return out.where(batch.exists, 0.0)

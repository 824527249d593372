"""Feedback from a trained reward model: a language model with a scalar head, read after the last token.

    r(x, y) = s(x, y) - E[s(x, good response)]

The mean is one number for all prompts, measured when the training ended, as Stiennon et al. 2020 and InstructGPT
have it; texts that ask for E[r] = 0 at every prompt describe what nobody does.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import ModelError
from sparring.data.batch import Batch, Row, collate
from sparring.data.responses import Responses
from sparring.models.roles import Network
from sparring.models.scorers import load_level, load_scorer
from sparring.models.signals import score
from sparring.models.trunk import Trunk


class RewardModel:
    """Scores by a frozen model whose tokenizer must be the policy's, since it reads the policy's tokens.

    `mean` is the score that counts as 0.
    """

    def __init__(self, network: Network, mean: float = 0.0, micro_tokens: int = 8192) -> None:
        self.network, self.mean, self.micro_tokens = network, mean, micro_tokens

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score each response, in the units of the model."""
        scores = score_in_parts(self.network, responses.batch, self.micro_tokens)
        return (scores - self.mean).where(responses.batch.exists, 0.0)


def load_reward_model(path: str, policy: Trunk, *, device: str) -> RewardModel:
    """Load a reward model folder. Raises ModelError when its tokenizer differs from the policy's."""
    network = load_scorer(path, device=device, low=policy.low)
    if network.trunk.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ModelError(
            f"{path}: its tokenizer is not the policy's, so it would read other words; train one from {policy.source}"
        )
    return RewardModel(network, load_level(path))


@torch.no_grad()
def score_in_parts(
    network: Network, batch: Batch, limit: int, by: Callable[[Network, Batch], Tensor] = score
) -> Float[Tensor, "B K *T"]:
    """Score a batch in parts of about `limit` tokens; `by` is what scores a part."""
    width = batch.prompt_ids.shape[1] + batch.mask.shape[1] * batch.mask.shape[2]
    size = max(1, limit // width)
    parts = [by(network, batch.rows(i, i + size)) for i in range(0, len(batch), size)]
    return torch.cat(parts)


def score_texts(
    network: Network, rows: Sequence[Row], by: Callable[[Network, Batch], Tensor] = score
) -> Float[Tensor, "..."]:
    """Score rows of one response each, with a gradient. Rows of one prompt share it, and equal rows are read once.

    `by` is what scores a batch: whole responses, or every prefix of them.
    """
    prompts: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for row in rows:
        known = prompts.setdefault(row.prompt, {})
        known.setdefault(row.responses[0], len(known))
    batch = collate([Row(prompt=prompt, responses=tuple(known)) for prompt, known in prompts.items()])
    places = {prompt: b for b, prompt in enumerate(prompts)}
    found = by(network, batch.to(network.trunk.device))
    b = [places[row.prompt] for row in rows]
    return found[b, [prompts[row.prompt][row.responses[0]] for row in rows]]

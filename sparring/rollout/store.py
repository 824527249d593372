"""Sampled responses as rows of samples.jsonl, for people to look at."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparring.data.responses import Responses
from sparring.rollout.sample import Rollout

PROMPTS = 32  # prompts of one round that are written down, with all their responses: enough for a mean to be told


def sample_rows(
    responses: Responses, scores: Float[Tensor, "B K"], rollout: Rollout, clock: str, number: int
) -> list[dict[str, Any]]:
    """Write down the first responses of a round: prompt, response, score, why it stopped, and what is right."""
    right = responses.batch.references or (None,) * len(responses)
    return [
        {
            clock: number,
            "prompt": responses.prompts[b],
            "response": responses.texts[b][k],
            "score": float(scores[b, k]),
            "stop": rollout.stops[b][k].name.lower(),
        }
        | ({} if right[b] is None else {"reference": right[b]})
        for b in range(min(PROMPTS, len(responses)))
        for k in range(scores.shape[1])
    ]

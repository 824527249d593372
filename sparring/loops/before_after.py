"""What the policy says to the same few prompts, with the same chances, at the start and at every checkpoint.

The rows of RUN/before_after.jsonl. Two policies that are the same say the same, so what differs was learnt.
"""

from collections.abc import Sequence
from typing import Any

from sparring.core.seeds import derive
from sparring.data.batch import Row
from sparring.data.responses import read_out
from sparring.models.roles import Network
from sparring.rollout.sample import Sampling, sample

PROMPTS = 10


def say_again(policy: Network, rows: Sequence[Row], how: Sampling, seed: int) -> list[dict[str, Any]]:
    """Respond to the first prompts of `rows` once each: prompt, response, its tokens, and why it stopped."""
    asked = [row.prompt for row in rows[:PROMPTS]]
    rollout = sample(policy, asked, 1, how, seed=derive(seed, "before and after"), keys=list(range(len(asked))))
    said = read_out(rollout.batch, policy.trunk.tokenizer)
    return [
        {
            "prompt": said.prompts[b],
            "response": said.texts[b][0],
            "tokens": int(rollout.batch.mask[b, 0].sum()),
            "stop": rollout.stops[b][0].name.lower(),
        }
        for b in range(len(asked))
    ]

"""Draw responses to the prompts of an evaluation."""

from collections.abc import Sequence
from dataclasses import replace

from sparring.core.records import Prompt, Record, right
from sparring.data.tokens import prepare
from sparring.evaluation.plan import Plan
from sparring.models.roles import Network
from sparring.rollout.sample import Rollout, sample


def draw(policy: Network, records: Sequence[Record], plan: Plan, notes: list[str]) -> Rollout:
    """Draw responses to the prompt of every record, and note what had to be cut for it."""
    asked = [Prompt(prompt=r.prompt, tag=r.tag, reference=right(r), where=r.where) for r in records]
    rows, truncation = prepare(
        asked, policy.trunk.tokenizer, max_prompt=plan.max_prompt, max_response=plan.how.max_tokens,
        overflow="error", context=policy.trunk.context, room=plan.how.max_tokens,
    )  # fmt: skip
    notes += [f"before sampling, {sentence}" for sentence in truncation.sentences()]
    number = plan.K * plan.best_of
    what, total, drawn = f"sampling from {policy.trunk.source}", len(rows) * number * plan.how.max_tokens, 0

    def count(tokens: int) -> None:
        nonlocal drawn
        drawn = min(drawn + tokens, total - 1)
        plan.tick(what, drawn, total)

    rollout = sample(policy, [row.prompt for row in rows], number, plan.how, seed=plan.seed, tick=count)
    plan.tick(what, total, total)
    return replace(rollout, batch=rollout.batch.answering(rows))

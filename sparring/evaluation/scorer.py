"""A reward model or a pairwise ranker measured: how it ranks the data's own responses, how far it can be trusted."""

from collections.abc import Sequence

from sparring.core.errors import SettingError
from sparring.core.records import Preference, Record
from sparring.evaluation.given import ordered, ranker_rewards, scorer_rewards
from sparring.evaluation.load import given_rows
from sparring.evaluation.plan import Plan
from sparring.evaluation.trust import Found
from sparring.models.backbone import load_trunk
from sparring.models.roles import Network
from sparring.models.scorers import load_level, load_scorer


def measure_scorer(model: str, records: Sequence[Record], plan: Plan, notes: list[str], *, is_ranker: bool) -> Found:
    """Compare the order of the data's responses with what the model says of them.

    Raises SettingError when the data has no order, and for what only a model that writes could do.
    """
    pairs = [r for r in ordered(records) if isinstance(r, Preference) or not is_ranker]
    if not pairs:
        what = "compares two responses; give it preferences" if is_ranker else "scores; give it preferences or rankings"
        raise SettingError(f"{model} writes no text, it {what}, or name it as --feedback")
    if asked := plan.asks_for_text():
        raise SettingError(f"{model} is a reward model: it writes nothing for {', '.join(asked)}")
    what = "pairwise ranker" if is_ranker else "reward model"
    notes.append(f"this is a {what}: it was measured by how it ranks the data's own responses")
    if is_ranker:
        trunk = load_trunk(model, device=plan.device)
        rows = given_rows(pairs, trunk, plan, [])
        return ranker_rewards(pairs, rows, Network(trunk=trunk), micro_tokens=plan.micro_tokens)
    scorer = load_scorer(model, device=plan.device)
    rows = given_rows(pairs, scorer.trunk, plan, notes)
    mean = load_level(model)
    if mean:  # a discriminator has none: what its 0 means, it has learnt
        notes.append(f"its mean score of good responses when it was trained, {mean:.4g}, is taken off")
    return scorer_rewards(rows, scorer, mean, micro_tokens=plan.micro_tokens)

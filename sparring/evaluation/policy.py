"""A language model measured: its responses, who wins, what raters and judges say of them, and what it has unlearnt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sparring.core.best_of import kl_bound
from sparring.core.errors import FeedbackError, SettingError
from sparring.core.records import Record
from sparring.data.responses import Responses, read_out
from sparring.data.split import prompt_text
from sparring.data.write import as_prompt
from sparring.evaluation.against import compare, find_rival
from sparring.evaluation.alpaca_eval import write_alpaca_eval
from sparring.evaluation.draw import draw
from sparring.evaluation.given import data_perplexity, implied_rewards, ordered, references, wanted
from sparring.evaluation.harness import Tasks, check_installed, harness_figures
from sparring.evaluation.intervals import Estimate, share_of
from sparring.evaluation.load import different, given_rows, load_comparisons, load_judge, load_judges, load_start
from sparring.evaluation.measure import distance, measure, select
from sparring.evaluation.memory import memory_figures
from sparring.evaluation.origin import Origin
from sparring.evaluation.overlap import overlap_figures
from sparring.evaluation.overoptimisation import best_of_table
from sparring.evaluation.plan import Plan, judge_name
from sparring.evaluation.rubric import Marks, rubric_figures, tier_of
from sparring.evaluation.trust import Found, Tables
from sparring.feedback.comparison import Comparison
from sparring.feedback.protocol import Feedback
from sparring.models.backbone import load_trunk
from sparring.models.checkpoint import write_text
from sparring.models.roles import Network
from sparring.models.trunk import Trunk
from sparring.rollout.sample import Rollout


def measure_policy(
    model: str, records: Sequence[Record], runs: Sequence[Origin], plan: Plan, notes: list[str], known: Sequence[Record]
) -> tuple[dict[str, Estimate], list[dict[str, Any]], Tables]:
    """Sample responses and compute all that the plan asks for; `known` may have been learnt by heart.

    Gives the figures, a few samples and the tables.
    """
    trunk = load_trunk(model, device=plan.device)
    policy = Network(trunk=trunk)
    judges, comparisons = load_judges(trunk, runs, plan, notes), load_comparisons(plan)
    if plan.harness:
        check_installed()
    start = load_start(runs, trunk, plan, notes)
    rollout, tables = _responses(policy, records, judges, plan, notes)
    mine = read_out(rollout.batch, trunk.tokenizer)
    scores = {name: judge.score(mine) for name, judge in judges.items()}
    found = measure(
        rollout, trunk.tokenizer, scores=scores, start=start, temperature=plan.how.temperature,
        is_selected=plan.judge is not None, micro_tokens=plan.micro_tokens, tick=plan.tick,
    )  # fmt: skip
    if plan.how.temperature == 0:
        notes.append("no KL: it is an average over the policy's samples, and temperature 0 draws none")
    found |= _distance(rollout, plan)
    if heart := [text for record in known for text in record.responses()]:
        found |= memory_figures(mine.texts, heart)
    if plan.overlap:
        found |= _overlap(mine, records, notes)
    if plan.harmless is not None:
        found |= _harmless(mine, load_judge(plan.harmless, trunk, device=plan.device))
    for more, its in (
        _measure_data(records, runs, policy, start, plan, notes),
        _rubric(mine, records, trunk, start, plan, notes),
        _harness(trunk, start, plan),
    ):
        found, tables = found | more, tables | its
    if plan.against is not None:
        wins, tables["against"] = _against(model, mine, judges, comparisons, records, trunk, plan, notes)
        found = wins | found
    elif plan.alpaca_eval is not None:
        write_alpaca_eval(plan.alpaca_eval, model, different(records), mine.texts)
    if plan.answers is not None:
        _write_answers(plan.answers, records, mine)
    return found, _samples(mine, scores, plan.shown), tables


def _responses(
    policy: Network, records: Sequence[Record], judges: Mapping[str, Feedback], plan: Plan, notes: list[str]
) -> tuple[Rollout, Tables]:
    """Draw what is measured, say what its best of n are worth, and let the judge pick where there is one."""
    picker = None if plan.judge is None else load_judge(plan.judge, policy.trunk, device=plan.device)
    rollout = draw(policy, different(records), plan, notes)
    drawn = read_out(rollout.batch, policy.trunk.tokenizer)
    tables = best_of_table(drawn, picker, judges)
    if picker is None:
        return rollout, tables
    notes.append(_best_of_note(plan))
    return select(rollout, picker.score(drawn), plan.best_of), tables


def _distance(rollout: Rollout, plan: Plan) -> dict[str, Estimate]:
    """The KL from the second model, if there is one and the responses are the policy's own draws."""
    if plan.reference is None or plan.how.temperature == 0 or plan.judge is not None:
        return {}
    reference = Network(trunk=load_trunk(plan.reference, device=plan.device))
    away = distance(rollout, reference, temperature=plan.how.temperature, micro_tokens=plan.micro_tokens)
    return {"kl_reference": away["kl"]}


def _measure_data(
    records: Sequence[Record],
    runs: Sequence[Origin],
    policy: Network,
    start: Network | None,
    plan: Plan,
    notes: list[str],
) -> Found:
    """The figures about the data's own responses, if it has any that tell something."""
    found: dict[str, Estimate] = {}
    tables: Tables = {}
    if good := wanted(records):
        rows = given_rows(good, policy.trunk, plan, notes)
        found["data_perplexity"] = data_perplexity(rows, policy, micro_tokens=plan.micro_tokens, tick=plan.tick)
    if (pairs := ordered(records)) and start is not None:
        rows = given_rows(pairs, policy.trunk, plan, notes)
        run = runs[0].content if runs and plan.base is None else None  # a reward is measured from the run's own start
        implied, tables = implied_rewards(rows, policy, start, run=run, micro_tokens=plan.micro_tokens, tick=plan.tick)
        found |= implied
    return found, tables


def _overlap(mine: Responses, records: Sequence[Record], notes: list[str]) -> dict[str, Estimate]:
    """Compare responses with those of the data, of which a prompt's first one counts."""
    known = references(records)
    pairs = [
        (row, known[text])
        for row, record in zip(mine.texts, different(records), strict=True)
        if (text := prompt_text(record.prompt)) in known
    ]
    if not pairs:
        raise SettingError("the data has no responses that --overlap could compare with")
    return overlap_figures([row for row, _ in pairs], [reference for _, reference in pairs], notes)


def _harmless(mine: Responses, judge: Feedback) -> dict[str, Estimate]:
    """The share of responses above 0; a prompt with several responses counts once."""
    above = (judge.score(mine) > 0).double().mean(-1)
    return {"harmless": share_of(float(above.sum()), len(above))}


def _rubric(
    mine: Responses, records: Sequence[Record], trunk: Trunk, start: Network | None, plan: Plan, notes: list[str]
) -> Found:
    """Let a judge say the tier of every response, and of the start's to the same prompts."""
    if plan.rubric is None:
        return {}, {}
    judge, name = load_judge(plan.rubric, trunk, device=plan.device), judge_name(plan.rubric)
    base = None
    if start is None:
        notes.append("no improvement: the model that it would be measured from is unknown; name one with --base")
    else:
        theirs = draw(start, different(records), replace(plan, best_of=1, judge=None), [])
        base = _marks(read_out(theirs.batch, trunk.tokenizer), judge, name)
    return rubric_figures(_marks(mine, judge, name), base)


def _marks(responses: Responses, judge: Feedback, name: str) -> Marks:
    try:
        return [
            {str(k): tier_of(round(x, 6), name) for k, x in enumerate(row)} for row in judge.score(responses).tolist()
        ]
    except FeedbackError as error:
        raise FeedbackError(f"{error}; a judge for --rubric gives nothing else") from error


def _harness(trunk: Trunk, start: Network | None, plan: Plan) -> Found:
    if not plan.harness:
        return {}, {}
    tasks = Tasks(names=plan.harness, limit=plan.prompts)
    return harness_figures(trunk, None if start is None else start.trunk, tasks)


def _against(
    model: str,
    mine: Responses,
    judges: Mapping[str, Feedback],
    comparisons: Mapping[str, Comparison],
    records: Sequence[Record],
    trunk: Trunk,
    plan: Plan,
    notes: list[str],
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Say who wins against the rival, also in AlpacaEval's files where they are wanted."""
    assert plan.against is not None
    rival = find_rival(plan.against, records, trunk, plan, notes)
    wins, rows = compare(mine, rival, judges, comparisons)
    if plan.alpaca_eval is not None:
        write_alpaca_eval(plan.alpaca_eval, model, different(records), mine.texts, plan.against, rival, wins)
    return wins, rows


def _write_answers(file: str, records: Sequence[Record], mine: Responses) -> None:
    """Write every response beside its prompt, for people to mark, or to be named as --against."""
    rows = [
        json.dumps({"prompt": as_prompt(record.prompt), "response": text}, ensure_ascii=False)
        for record, texts in zip(different(records), mine.texts, strict=True)
        for text in texts
    ]
    write_text(Path(file).expanduser(), "\n".join(rows) + "\n")


def _best_of_note(plan: Plan) -> str:
    n, judge = plan.best_of, judge_name(plan.judge or "")
    bound = f"log n - (n-1)/n = {kl_bound(n):.2f} nats"
    said = f"best of {n} by {judge}: no KL is measured; picking adds at most {bound} to it"
    is_named_twice = judge in map(judge_name, plan.feedback)
    return said + (f"; {judge} picked, so its own score is no independent figure" if is_named_twice else "")


def _samples(mine: Responses, scores: Mapping[str, Tensor], shown: int) -> list[dict[str, Any]]:
    """Keep the responses to some prompts with their scores."""
    few = {name: found[:shown].tolist() for name, found in scores.items()}
    return [
        {"prompt": prompt, "response": text, "scores": {name: found[b][k] for name, found in few.items()}}
        for b, (prompt, texts) in enumerate(zip(mine.prompts[:shown], mine.texts[:shown], strict=True))
        for k, text in enumerate(texts)
    ]

"""The way of a run: how far from its start it was, what its own judge said there, and what the yardstick says.

A run writes down what its policy said in some rounds (samples.jsonl, as often as `save_every`), and its distance from
its start in all of them. Its judge scored the samples then; here the yardstick of the comparison, which no method
learnt from, scores the same texts. Both together tell whether the policy became better or only its judge happier.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.core.records import read_reference
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses
from sparring.evaluation.load import load_judge
from sparring.loops.run import Run
from sparring.models.backbone import load_trunk
from sparring.models.machine import Machine
from sparring.models.trunk import Trunk

CLOCK = "round"


def trail(run: Path, judge: str) -> list[dict[str, float]]:
    """Give a row for each round of a run whose distance and samples are known: round, kl, proxy, gold, samples.

    `kl` is in nats from the run's own start, `proxy` the mean score by the run's judge, `gold` that by `judge`. A
    method that asks no judge has no proxy; one that samples nothing, no row. Raises FeedbackError when the judge
    cannot score the texts.
    """
    folder = Run(run, CLOCK)
    known = {row[CLOCK]: row for row in folder.rows() if CLOCK in row and "kl" in row}
    said: dict[int, list[Mapping[str, Any]]] = {}
    for row in folder.read_samples():
        if row.get(CLOCK) in known:
            said.setdefault(row[CLOCK], []).append(row)
    if not said:
        return []
    device = Machine("auto", "fp32").device
    trunk = load_trunk(str(run), device=str(device))
    scorer = load_judge(judge, trunk, device=str(device))
    found = []
    for number, rows in sorted(said.items()):
        proxy = {"proxy": fmean(row["score"] for row in rows)} if "score" in known[number] else {}
        gold = float(scorer.score(_responses(rows, trunk)).double().mean())
        found.append({CLOCK: number, "kl": known[number]["kl"], **proxy, "gold": gold, "samples": len(rows)})
    return found


def _responses(rows: Sequence[Mapping[str, Any]], trunk: Trunk) -> Responses:
    """Put logged texts before a judge as they were written; prompts were logged as the policy saw them."""

    def ids(text: str) -> tuple[int, ...]:
        found = trunk.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(found) or (trunk.tokenizer.eos_token_id,)

    encoded = [
        Row(
            prompt=ids(row["prompt"]), responses=(ids(row["response"]),), reference=read_reference(row.get("reference"))
        )
        for row in rows
    ]
    return Responses(
        batch=collate(encoded).to(trunk.device),
        prompts=tuple(row["prompt"] for row in rows),
        texts=tuple((row["response"],) for row in rows),
    )

"""A rival's responses to the same prompts, and who wins by every judge: another model, a file, or the data's own.

Wherever they come from, responses are judged and read as the policy's own are, by its tokenizer. A judge that scores
finds the higher score better; a pairwise ranker is shown both responses, in both orders, and its log-odds averaged, so
that one which only ever likes the first finds all of them equal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparring.core.errors import SettingError
from sparring.core.records import Demonstration, Record, Text, right
from sparring.core.seeds import derive
from sparring.data.batch import collate
from sparring.data.formats import recognise, to_records
from sparring.data.read import read_rows
from sparring.data.responses import Responses, read_out
from sparring.data.split import prompt_text
from sparring.evaluation.draw import draw
from sparring.evaluation.given import references
from sparring.evaluation.intervals import Estimate
from sparring.evaluation.load import different, given_rows
from sparring.evaluation.plan import Plan, Reading
from sparring.evaluation.wins import Pairs, log_words, shares, win_figures
from sparring.feedback.comparison import Comparison
from sparring.feedback.protocol import Feedback
from sparring.models.backbone import load_trunk
from sparring.models.roles import Network
from sparring.models.trunk import Trunk

REFERENCES = "references"
"""What --against says for the data's own responses."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Responses to some of the prompts that are evaluated: which of them, and as they were written."""

    places: tuple[int, ...]
    prompts: tuple[Text, ...]
    responses: Responses


def find_rival(against: str, records: Sequence[Record], trunk: Trunk, plan: Plan, notes: list[str]) -> Rival:
    """Read or sample what a rival answers to every different prompt of the records.

    `against` is "references", a file or a model. Prompts that a file does not answer are left out and counted in the
    notes. Raises SettingError when none is left, and what loading and sampling raise.
    """
    asked = different(records)
    if against != REFERENCES and not Path(against).expanduser().is_file():
        responses = _model_answers(against, asked, trunk, plan, notes)
        return Rival(places=tuple(range(len(asked))), prompts=tuple(r.prompt for r in asked), responses=responses)
    known = references(_file(against, records))
    places = [i for i, r in enumerate(asked) if prompt_text(r.prompt) in known]
    if not places:
        raise SettingError(f"{against} has no response to any of the prompts, so there is nothing to win against")
    if len(places) < len(asked):
        notes.append(f"{against} answers {len(places)} of the {len(asked)} prompts; win rates are over those")
    met = [asked[i] for i in places]
    texts = [(known[prompt_text(r.prompt)],) for r in met]
    return Rival(
        places=tuple(places), prompts=tuple(r.prompt for r in met),
        responses=encoded(met, texts, trunk, plan, against, notes),
    )  # fmt: skip


def compare(
    mine: Responses, rival: Rival, judges: Mapping[str, Feedback], comparisons: Mapping[str, Comparison]
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Find the win rates by every judge, and a row each of what they are made of."""
    chosen = torch.tensor(rival.places, device=mine.batch.mask.device)
    own = Responses(
        batch=mine.batch.take(chosen),
        prompts=tuple(mine.prompts[i] for i in rival.places),
        texts=tuple(mine.texts[i] for i in rival.places),
    )
    longer = _log_words(own)[:, :, None] - _log_words(rival.responses)[:, None]
    found: dict[str, Estimate] = {}
    rows: list[dict[str, Any]] = []
    judged = {name: by_score(own, rival.responses, judge) for name, judge in judges.items()}
    for name, shown in comparisons.items():
        judged[name] = by_ranker(own, rival, lambda pairs, shown=shown: shown(pairs).mean(-1).tolist())
    for name, won in judged.items():
        found |= win_figures(name, won, longer.reshape(len(own), -1))
        rows.append({"judge": name, **shares(won), "prompts": len(own)})
    return found, rows


def by_score(mine: Responses, theirs: Responses, judge: Feedback) -> Pairs:
    """Compare each of a prompt's own responses with each of the rival's by their scores."""
    a, b = judge.score(mine).double()[:, :, None], judge.score(theirs).double()[:, None]
    return ((a > b).double() + (a == b).double() / 2).flatten(1).cpu().numpy()


def by_ranker(mine: Responses, rival: Rival, log_odds: Callable[[list[tuple[Text, str, str]]], list[float]]) -> Pairs:
    """Compare the same pairs by the log-odds that the first of two is better; none at all is a tie."""
    theirs = rival.responses.texts
    pairs = [(x, a, b) for x, own, other in zip(rival.prompts, mine.texts, theirs, strict=True)
             for a in own for b in other]  # fmt: skip
    odds = np.array(log_odds(pairs))
    return ((1 + np.sign(odds)) / 2).reshape(len(mine), -1)


def _log_words(responses: Responses) -> Pairs:
    return np.array([[log_words(text) for text in texts] for texts in responses.texts])


def _file(against: str, records: Sequence[Record]) -> Sequence[Record]:
    if against == REFERENCES:
        return records
    rows = read_rows(against)
    return to_records(rows, recognise(rows).kind)


def _model_answers(model: str, asked: Sequence[Record], trunk: Trunk, plan: Plan, notes: list[str]) -> Responses:
    """Sample as many responses as the policy gave, with draws of their own: shared ones would make ties."""
    other = load_trunk(model, device=plan.device)
    how = replace(plan, best_of=1, judge=None, seed=derive(plan.seed, "against"))
    rollout = draw(Network(trunk=other), asked, how, [])
    found = read_out(rollout.batch, other.tokenizer)
    if other.tokenizer.get_vocab() == trunk.tokenizer.get_vocab():
        return found
    notes.append(f"{model} has another tokenizer: its responses are judged as text that ends, also where it did not")
    return encoded(asked, found.texts, trunk, plan, model, notes)


def encoded(
    asked: Sequence[Record], texts: Sequence[Sequence[str]], trunk: Trunk, plan: Reading, whose: str, notes: list[str]
) -> Responses:
    """Read texts by the policy's tokenizer, as if the data held them; an empty one is the end of text alone."""
    said = [
        # Data must not hold an empty response, but a model may give one; what stands for it here is taken out below.
        Demonstration(prompt=r.prompt, response=text if text.strip() else " -", tag=r.tag, where=r.where)
        for r, row in zip(asked, texts, strict=True)
        for text in row
    ]
    rows, K = given_rows(said, trunk, plan, notes, whose=f"{whose}'s"), len(texts[0])
    joined = [
        replace(rows[b * K], responses=tuple(r.responses[0] for r in rows[b * K : b * K + K]), reference=right(record))
        for b, record in enumerate(asked)
    ]
    return read_out(collate(joined).to(trunk.device), trunk.tokenizer)

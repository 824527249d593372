"""What a finished run leaves behind: the judge, the card, and last of all the model, which says that it is finished.

A reward model is finished by measuring where its scores stand: the mean score of responses that are as they should
be (the chosen, the best of a ranking), kept with it and taken off whenever it is used as feedback.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sparring.core.seeds import rng
from sparring.data.batch import collate
from sparring.feedback.bag_of_words import BagOfWords
from sparring.feedback.combine import learners
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.expression import BAG_OF_WORDS
from sparring.loops.card import card
from sparring.loops.job import Job
from sparring.loops.offline import Offline
from sparring.loops.online import Online
from sparring.models.backbone import save_trunk
from sparring.models.checkpoint import write_folder, write_text
from sparring.models.roles import Networks
from sparring.models.scorers import save_level, save_scorer
from sparring.models.signals import score
from sparring.models.update import micro_batches

MEASURED = 2000  # rows at most; the standard error of their mean is a fortieth of the scores' spread


def write_results(job: Job, work: Offline | Online, figures: Mapping[str, float]) -> None:
    """Write all that a run ends with; whatever is interrupted here is written again when the run is resumed."""
    level = _level(work, job.seed) if isinstance(work, Offline) and work.networks.scorer is not None else None
    text = card(job, figures, "" if level is None else level.sentence())
    write_text(job.run / "README.md", text)
    if isinstance(work, Online):
        _write_judge(job, work)

    def fill(folder: Path) -> None:
        _save(work.networks, folder)
        if level is not None:
            save_level(folder, level.mean, {"rows": level.rows, "of": level.of})
        write_text(folder / "README.md", text)

    write_folder(job.run / "model", fill)


@dataclass(frozen=True, kw_only=True)
class Level:
    """The mean score of a reward model over the best responses of some rows."""

    mean: float
    rows: int
    of: str

    def sentence(self) -> str:
        """Say it for the model card."""
        return f"mean score of the best responses of {self.rows} {self.of} rows: {self.mean:.4g}, taken off as feedback"


def _level(work: Offline, seed: int) -> Level:
    """Measure the mean score where the model has not learnt, or, when nothing is held out, where it has."""
    rows, of = (work.held_out, "held-out") if work.held_out else (work.rows, "training")
    chosen = [rows[i] for i in rng(seed, "level").permutation(len(rows))[:MEASURED]]
    best = [replace(row, responses=row.responses[:1], scores=None) for row in chosen]
    scorer, total = work.networks.scorer, 0.0
    assert scorer is not None
    with torch.no_grad(), work.machine.computing():
        for part in micro_batches([row.tokens for row in best], work.micro_tokens):
            batch = collate([best[i] for i in part]).to(work.machine.device)
            total += float(score(scorer, batch).double().sum())
    return Level(mean=total / len(best), rows=len(best), of=of)


def _save(networks: Networks, folder: Path) -> None:
    if networks.scorer is not None:
        save_scorer(networks.scorer, folder)
    else:
        save_trunk(networks.policy.trunk, folder)


def _write_judge(job: Job, work: Online) -> None:
    """Keep the judge beside the model: it is a reward model that later runs, and best-of-n, can use."""
    tokenizer = work.networks.policy.trunk.tokenizer
    for judge in learners(work.feedback):
        # 4-bit weights cannot be merged with an adapter exactly, so such a judge stays in the checkpoints.
        # One that reads two responses at once is no scorer of one either.
        if isinstance(judge, Discriminator):
            if judge.network.trunk.adapter != "qlora" and judge.settings.judge_sees != "pair":
                write_folder(job.run / "judge", functools.partial(save_scorer, judge.network))
        elif isinstance(judge, BagOfWords):
            write_folder(job.run / BAG_OF_WORDS, functools.partial(judge.save, tokenizer))

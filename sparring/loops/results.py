"""What a finished run leaves behind: the judge, the card, and last of all the model, which says that it is finished."""

from collections.abc import Mapping
from pathlib import Path

from sparring.feedback.combine import learners
from sparring.feedback.discriminator import Discriminator
from sparring.loops.card import card
from sparring.loops.job import Job
from sparring.loops.offline import Offline
from sparring.loops.online import Online
from sparring.models.backbone import save_trunk
from sparring.models.checkpoint import write_folder, write_text
from sparring.models.scorers import save_scorer
from sparring.models.signals import Networks


def write_results(job: Job, work: Offline | Online, figures: Mapping[str, float]) -> None:
    """Write all that a run ends with; whatever is interrupted here is written again when the run is resumed."""
    text = card(job, figures)
    write_text(job.run / "README.md", text)
    if isinstance(work, Online):
        _write_judge(job, work)

    def fill(folder: Path) -> None:
        _save(work.networks, folder)
        write_text(folder / "README.md", text)

    write_folder(job.run / "model", fill)


def _save(networks: Networks, folder: Path) -> None:
    if networks.scorer is not None:
        save_scorer(networks.scorer, folder)
    else:
        save_trunk(networks.policy.trunk, folder)


def _write_judge(job: Job, work: Online) -> None:
    """Keep the judge beside the model: it is a reward model that later runs, and best-of-n, can use."""
    for judge in learners(work.feedback):
        # 4-bit weights cannot be merged with an adapter exactly, so such a judge stays in the checkpoints.
        if isinstance(judge, Discriminator) and judge.network.trunk.adapter != "qlora":
            network = judge.network
            write_folder(job.run / "judge", lambda place, network=network: save_scorer(network, place))

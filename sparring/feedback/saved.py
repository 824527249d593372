"""Judges on disk: a folder holds a reward model (a discriminator is one), or the words of a bag-of-words judge."""

from pathlib import Path

from sparring.feedback.bag_of_words import FILE, load_bag_of_words
from sparring.feedback.expression import BAG_OF_WORDS
from sparring.feedback.protocol import Feedback
from sparring.feedback.reward_model import load_reward_model
from sparring.models.folders import hash_file, hash_files, resolve
from sparring.models.trunk import Trunk

LEFT = ("judge", BAG_OF_WORDS)
"""Where a run leaves the judges that learnt along with it."""


def load_saved(path: str, policy: Trunk, *, device: str) -> Feedback:
    """Load the judge that a folder holds; a run folder means the one that it left.

    Raises ModelError when the judge is damaged or reads other tokens than the policy.
    """
    folder = _place(path)
    if (folder / FILE).is_file():
        return load_bag_of_words(str(folder), policy)
    return load_reward_model(str(folder), policy, device=device)


def hash_judge(name: str) -> str | None:
    """Hash what scores depend on: a saved judge's weights or words, a rule's file; None for what is on no disk here."""
    if Path(name).expanduser().is_dir():
        folder = _place(name)
        return hash_file(folder / FILE) if (folder / FILE).is_file() else hash_files(resolve(str(folder)))
    rule = Path(name.rpartition(":")[0]).expanduser()
    return hash_file(rule) if rule.is_file() else None


def _place(path: str) -> Path:
    """The folder that a judge is in: the one named, or what a run left there."""
    folder = Path(path).expanduser()
    left = [folder / name for name in LEFT if (folder / "run.yaml").is_file() and (folder / name).is_dir()]
    return left[0] if left else folder

"""Scorers on disk: a body and a scalar head, as the sequence classifier that everybody loads.

One that is held against another model is a language model, and is kept as one: `ratio.json` beside its weights names
the other, which is not copied, and holds the numbers of its head.

A reward model learns only differences, so the level of its scores means nothing until it is fixed. `score.json`
beside the weights holds the mean score of good responses, one number for all prompts, which is taken off whenever
the model is used as feedback.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.core.errors import ModelError
from sparring.models.backbone import blank_classifier, load_tokenizer, load_trunk, load_weights, narrow_all
from sparring.models.folders import check_folder, resolve, whole_path
from sparring.models.forward import probe
from sparring.models.heads import RatioHead
from sparring.models.roles import Network
from sparring.models.trunk import BARE, Trunk, narrow

READS = "sparring_reads"
LEVEL = "score.json"
RATIO = "ratio.json"


def save_scorer(network: Network, folder: Path) -> None:
    """Write body and scalar head as a sequence classifier with one label, which transformers loads by itself.

    What the head reads is noted in config.json; transformers knows only the last token, so a head that reads the
    mean scores there as it does here only when we load it. LoRA weights are merged, in a copy. Raises ModelError
    for 4-bit weights, which cannot be merged exactly.
    """
    trunk, adapter, head = network.trunk, network.adapter, network.head
    assert head is not None, "a scorer has a scalar head"
    if trunk.adapter == "qlora":
        raise ModelError("a judge on 4-bit weights cannot be saved as a model of its own; train it with --adapter lora")
    lm = trunk.lm if adapter is None else trunk.merged(adapter)
    if isinstance(head, RatioHead):
        assert network.against is not None
        lm.save_pretrained(folder)
        trunk.tokenizer.save_pretrained(folder)
        other = network.against.trunk
        said = {"against": other.base if network.against.adapter == BARE else whole_path(other.source)} | head.state()
        (folder / RATIO).write_text(json.dumps(said, indent=1) + "\n")
        return
    scorer = blank_classifier(trunk)
    scorer.base_model.load_state_dict(lm.base_model.state_dict())
    scorer.score.load_state_dict({"weight": head.weight.detach().clone()})
    setattr(scorer.config, READS, network.reads)
    scorer.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)


def load_scorer(path: str, *, device: str = "cpu", low: torch.dtype | None = None) -> Network:
    """Load a sequence classifier with one label as a frozen role, its linear maps held in `low` if that is given.

    Raises ModelError for a folder that holds no such model, or not all of its weights, and where the model that it is
    held against is gone.
    """
    folder = resolve(path)
    check_folder(folder, path)
    if (Path(folder) / RATIO).is_file():
        return _load_ratio(folder, device=device, low=low)
    tokenizer = load_tokenizer(path)
    try:
        scorer = load_weights("AutoModelForSequenceClassification", folder, path, {"dtype": torch.float32})
    except ModelError as error:
        raise ModelError(f"{error}; a reward model is made by `sparring train reward_model`") from error
    head = getattr(scorer, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(f"{path}: {type(scorer).__name__} does not read a score after the last token; it is no scorer")
    if head.out_features != 1:
        raise ModelError(f"{path}: the classifier has {head.out_features} labels; a reward model has one")
    scorer.to(device).eval().requires_grad_(False)
    trunk = Trunk(lm=scorer, tokenizer=tokenizer, source=path, base=folder)
    probe(trunk)
    narrow(scorer.base_model, low)
    return Network(trunk=trunk, head=head, reads=getattr(scorer.config, READS, "last"))


def _load_ratio(folder: str, *, device: str, low: torch.dtype | None) -> Network:
    """Load a model that is held against another, and that other one."""
    file = Path(folder) / RATIO
    try:
        said = json.loads(file.read_text())
        other = str(said["against"])
        head = RatioHead(*(float(said[name]) for name in ("length", "level", "bias"))).to(device).requires_grad_(False)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: against, length, level and bias are needed, and not all are there") from error
    try:
        against = frozen_model(other, device=device, low=low)
    except ModelError as error:
        raise ModelError(f"{file}: the model that this one is held against cannot be loaded ({error})") from error
    own = frozen_model(folder, device=device, low=low)
    return Network(trunk=own.trunk, head=head, against=against)


def frozen_model(path: str, *, device: str, low: torch.dtype | None, trust_remote_code: bool = False) -> Network:
    """Load a language model as a role that is never trained, its linear maps held in `low` if that is given."""
    trunk = load_trunk(path, device=device, trust_remote_code=trust_remote_code)
    trunk.lm.requires_grad_(False)
    narrow_all(trunk, low)
    return Network(trunk=trunk)


def save_level(folder: Path, mean: float, said: dict[str, Any]) -> None:
    """Write the score that counts as 0, and `said`, how it was measured, beside the weights."""
    (folder / LEVEL).write_text(json.dumps({"mean": mean} | said, indent=1) + "\n")


def load_level(path: str) -> float:
    """Read the score that counts as 0; it is 0 for a scorer that has none of its own, such as a discriminator.

    Raises ModelError when the file is damaged.
    """
    file = Path(resolve(path)) / LEVEL
    if not file.is_file():
        return 0.0
    try:
        mean = float(json.loads(file.read_text())["mean"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f'{file}: does not hold the mean score of the model; write {{"mean": 0.0}}') from error
    if not math.isfinite(mean):
        raise ModelError(f"{file}: the mean score is {mean}; a finite number is needed")
    return mean

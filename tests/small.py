"""A model with random weights and files with a few texts: enough for every loop, in a fraction of a second."""

import atexit
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from sparring.compare.cells import log_of, run_cell
from sparring.compare.run import load
from sparring.core.errors import UserError
from sparring.core.registry import SELECTIONS, Recipe
from sparring.loops.train import train
from sparring.methods import find, load_all
from sparring.models.backbone import save_trunk, tiny_model
from sparring.models.machine import Machine

load_all()
WORDS = [a + b for a in "bdgkm" for b in "aeiou"]
TIMING = {"seconds", "tokens_per_second"}
COMMON = {"batch": 4, "save_every": 2, "lr": 1e-2, "precision": "fp32", "device": "cpu"}
OFFLINE = {**COMMON, "steps": 4, "eval_every": 2}
ONLINE = {
    **COMMON,
    "rounds": 4,
    "K": 2,
    "max_tokens": 6,
    "watch": "warn",
    "epochs": 1,
    "minibatches": 1,
    "kl_target": 0.0,
}
SELECTING = {**COMMON, "rounds": 2, "K": 4, "max_tokens": 6, "steps": 3}
JUDGE = {"judge_warmup": 5, "judge_batch": 6, "judge_lr": 1e-2, "judge_steps": 1, "gate": 0.95, "judge_held_out": 0.2}


def model_and_data(place: Path) -> Path:
    """Write model/, texts.jsonl (demonstrations) and pairs.jsonl (preferences) into a folder."""
    save_trunk(tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=0), place / "model")
    draw = random.Random(0)

    def text(low, high):
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    write(place / "texts.jsonl", [{"prompt": text(1, 3), "response": " " + text(1, 5)} for _ in range(24)])
    pairs = [{"prompt": text(1, 3), "chosen": " " + text(1, 5), "rejected": " " + text(1, 5)} for _ in range(24)]
    write(place / "pairs.jsonl", pairs)
    return place


@functools.cache
def world() -> Path:
    """The folder of this test process."""
    place = Path(tempfile.mkdtemp(prefix="small-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return model_and_data(place)


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def machine() -> Machine:
    return Machine("cpu", "fp32")


def quick(method, run, *, data="", feedback=(), resume=False, model="", settings=None, quiet=True, **more):
    """Train the small model; returns the run folder."""
    found = find(method)
    is_online = isinstance(found, Recipe) or found.data == "prompt"
    adversarial = "discriminator" in str(feedback) or (isinstance(found, Recipe) and not feedback)
    base = ONLINE | (JUDGE if adversarial else {}) if is_online else OFFLINE
    base = SELECTING if method in SELECTIONS else base
    file = data or world() / ("pairs.jsonl" if method in ("dpo", "reward_model") else "texts.jsonl")
    return train(
        method, model=str(model or world() / "model"), data=str(file), run=run, feedback=feedback, resume=resume,
        settings=base | (settings or {}), quiet=quiet, **more,
    )  # fmt: skip


def rows(run):
    """The rows of metrics.jsonl, without what depends on the clock on the wall."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in row.items() if n not in TIMING} for row in found]


def weights(run, part="model"):
    return load_file(run / part / "model.safetensors")


def same(a, b):
    """Whether two sets of weights are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def apart(a, b):
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


class Here:
    """A cell that runs in this process instead of one of its own; its last words go where theirs would."""

    def __init__(self, out, name, seed):
        work = load(out)
        self.code = 0
        try:
            run_cell(work, name, seed)
        except UserError as error:
            self.code = 2
            log = log_of(work.lines[name].place(out, seed))
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"some words\nerror: {error}\n")

    def poll(self):
        return self.code

    def terminate(self): ...

    def wait(self):
        return self.code

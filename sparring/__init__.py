"""Sparring: align language models from demonstrations, preferences, rewards, or a discriminator that learns along.

Everything is a prompt with K responses; a method is one equation; adversarial training is the same
equation with feedback that learns. `import sparring` loads nothing heavy: torch comes with the first
name that is used.

    sparring.train("rlgaf", model="gpt2", data="reviews.jsonl", run="runs/rlgaf")
    sparring.sample("runs/rlgaf", ["The film was"], K=4)
    sparring.score("runs/rlgaf/judge", ["The film was"], [[" fine.", " awful."]])
    sparring.evaluate("runs/rlgaf", data="held_out.jsonl", feedback=["vader"])
    sparring.methods.get("dpo")(beta=0.1).loss(token_logps=..., ref_token_logps=..., mask=...)
"""

import importlib
from typing import TYPE_CHECKING

from sparring.core.version import VERSION as __version__

if TYPE_CHECKING:
    from sparring import methods
    from sparring.evaluation.score import score
    from sparring.evaluation.suite import evaluate
    from sparring.loops.train import train
    from sparring.rollout.answer import sample

__all__ = ["__version__", "evaluate", "methods", "sample", "score", "train"]

HOMES = {
    "train": "sparring.loops.train",
    "evaluate": "sparring.evaluation.suite",
    "sample": "sparring.rollout.answer",
    "score": "sparring.evaluation.score",
}


def __getattr__(name: str) -> object:
    if name == "methods":
        return importlib.import_module("sparring.methods")
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'sparring' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__

"""What an evaluation is asked to do, before anything is loaded for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparring.core.errors import SettingError
from sparring.evaluation.measure import Tick
from sparring.feedback.protocol import Feedback
from sparring.rollout.sample import Sampling

Judge = str | Feedback | Callable[..., Any]
"""A judge by name (or a weighted sum, or a folder), as an object, or as a function of the text."""


@runtime_checkable
class Reading(Protocol):
    """Whatever says how long a prompt and a response may be, in tokens."""

    @property
    def max_prompt(self) -> int:
        """The longest prompt."""
        ...

    @property
    def max_response(self) -> int:
        """The longest response."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a prompt and a response may be, in tokens."""

    max_prompt: int
    max_response: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an evaluation is done; sizes are in tokens. Raises SettingError for what does not fit together."""

    feedback: tuple[Judge, ...]
    judge: Judge | None
    best_of: int
    against: str | None
    overlap: bool
    rubric: Judge | None = None
    harmless: Judge | None = None
    harness: tuple[str, ...] = ()
    answers: str | None = None
    alpaca_eval: str | None = None
    base: str | None
    reference: str | None
    prompts: int
    shown: int
    K: int
    how: Sampling
    seed: int
    max_prompt: int
    max_response: int
    micro_tokens: int
    device: str
    tick: Tick

    def __post_init__(self) -> None:
        if self.prompts < 0:
            raise SettingError(f"prompts must be at least 1, or 0 for all, got {self.prompts}")
        for name in ("best_of", "shown", "K", "max_prompt", "max_response", "micro_tokens"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.best_of > 1 and self.judge is None:
            raise SettingError(f"best_of {self.best_of} needs a judge that picks, for example --judge runs/NAME/judge")
        if self.best_of == 1 and self.judge is not None:
            raise SettingError("a judge picks among several responses; say of how many with --best-of, for example 4")
        if self.against is not None and not self.feedback:
            raise SettingError(f"who wins against {self.against} is for a judge to say; name one with --feedback")

    def to_dict(self) -> dict[str, Any]:
        """Give what eval.json holds of it: all that the figures depend on."""
        return {
            "feedback": [judge_name(f) for f in self.feedback],
            "judge": None if self.judge is None else judge_name(self.judge),
            "best_of": self.best_of, "against": self.against, "overlap": self.overlap,
            "rubric": None if self.rubric is None else judge_name(self.rubric),
            "harmless": None if self.harmless is None else judge_name(self.harmless), "harness": list(self.harness),
            "base": self.base, "reference": self.reference, "prompts": self.prompts, "K": self.K,
            "max_tokens": self.how.max_tokens, "temperature": self.how.temperature, "seed": self.seed,
            "max_prompt": self.max_prompt, "max_response": self.max_response,
        }  # fmt: skip

    def asks_for_text(self) -> list[str]:
        """List the flags that only a model that writes can answer to."""
        asked = {"--feedback": self.feedback, "--judge": self.judge, "--against": self.against}
        asked |= {"--rubric": self.rubric, "--harmless": self.harmless, "--harness": self.harness}
        asked |= {"--answers": self.answers, "--alpaca-eval": self.alpaca_eval}
        return [flag for flag, value in asked.items() if value]


def judge_name(judge: Judge) -> str:
    """Name a judge as it was named, or by its function or class."""
    return judge if isinstance(judge, str) else str(getattr(judge, "__name__", type(judge).__name__.lower()))


def model_name(model: str) -> str:
    """Name a model for a table: the run's folder, the model's, or the last part of a hub id."""
    path = Path(model).expanduser()
    path = path.resolve() if path.exists() else path
    return file_name(path.parent.name if path.name == "model" and path.parent.name else path.stem or "model")


def file_name(text: str) -> str:
    """Make a name of which a file can be called."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "judge"

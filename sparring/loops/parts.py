"""Which classes of settings a run has a use for, and which of them knows a setting that was given flat, by name."""

from collections.abc import Collection, Mapping
from typing import Any

from sparring.core.errors import SettingError, did_you_mean
from sparring.core.registry import Recipe, Selection, knobs, needs, welcomes
from sparring.feedback.expression import BAG_OF_WORDS, DISCRIMINATOR
from sparring.loops.settings import (
    DataSettings,
    DiscriminatorSettings,
    HindsightSettings,
    JudgeSettings,
    MarginSettings,
    ModelSettings,
    NucleusSettings,
    OfflineSettings,
    OnlineSettings,
    OptimizerSettings,
    PretrainSettings,
    RecipeSettings,
    RelaxedSettings,
    RewardSettings,
    RunSettings,
    ScorerSettings,
    SelectionSettings,
    WordsSettings,
)

# Which settings there are, by the part of a job that holds them.
ALWAYS: dict[str, type | None] = {
    "model_settings": ModelSettings,
    "run_settings": RunSettings,
    "data_settings": DataSettings,
    "optimizer": OptimizerSettings,
}
ONLINE: dict[str, type | None] = {
    "online": OnlineSettings,
    "reward": RewardSettings,
    "mix": PretrainSettings,
    "nucleus": NucleusSettings,
    "offline": None,
}
OFFLINE: dict[str, type | None] = dict.fromkeys(ONLINE) | {"offline": OfflineSettings}


def classes_of(found: Any, equation: Any, learning: Collection[str]) -> dict[str, type | None]:
    """Name the classes of settings that a run has a use for, each by its place in the job.

    `learning` names the judges that learn along.
    """
    loop = ONLINE if equation.data == "prompt" else OFFLINE
    if isinstance(found, Selection):
        loop = OFFLINE | {"offline": None, "rule": found.rule, "selection": SelectionSettings}
    starts_with_sft = isinstance(found, Recipe) and found.data == "demonstration"
    return {"equation": equation} | ALWAYS | loop | {
        "relaxed": RelaxedSettings if "relaxed_scores" in needs(equation.loss) else None,
        "judge": JudgeSettings if learning else None,
        "discriminator": DiscriminatorSettings if DISCRIMINATOR in learning else None,
        "words": WordsSettings if BAG_OF_WORDS in learning else None,
        "recipe": RecipeSettings if starts_with_sft else None,
        "scorer": ScorerSettings if trains_scorer(equation) else None,
        "margin": MarginSettings if "margin" in welcomes(equation.loss) else None,
        "hindsight": HindsightSettings if "other_token_logps" in needs(equation.loss) else None,
    }  # fmt: skip


def trains_scorer(equation: Any) -> bool:
    """Whether what is trained gives scores (a reward model) and not text."""
    return "scores" in needs(equation.loss) and "token_logps" not in needs(equation.loss)


def sort_settings(method: str, given: Mapping[str, Any], classes: Mapping[str, type | None]) -> dict[str, Any]:
    """Give every setting to the class that knows it."""
    known = {k.name: part for part, cls in classes.items() if cls is not None for k in knobs(cls)}
    for name in given:
        if name not in known:
            raise SettingError(f"{method} has no setting {name!r}; {did_you_mean(name, known)}")
    return {
        part: None if cls is None else cls(**{n: v for n, v in given.items() if known[n] == part})
        for part, cls in classes.items()
    }

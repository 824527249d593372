"""What a run is asked to do, checked before anything is loaded; it is what run.yaml holds.

Settings come flat, by name, and are sorted into the classes that know their defaults and ranges: the
method's own knobs, and those of `loops/settings.py` that the method has a use for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sparring import methods
from sparring.core.errors import SettingError, did_you_mean
from sparring.core.registry import Recipe, Selection
from sparring.feedback.expression import DISCRIMINATOR, SIMILARITY, learners_of, needs_demonstrations
from sparring.loops.parts import classes_of, sort_settings
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
from sparring.loops.together import RATIO, check_together

DEMONSTRATION = "demonstration"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a run needs to be made again.

    `method` is the name, `equation` the method that trains the policy, `rule` what selects its data, if anything does.
    """

    method: str
    model: str
    data: str
    run: Path
    equation: Any
    kind: str
    rule: Any = None
    recipe: RecipeSettings | None
    selection: SelectionSettings | None = None
    online: OnlineSettings | None
    reward: RewardSettings | None
    mix: PretrainSettings | None
    nucleus: NucleusSettings | None
    offline: OfflineSettings | None
    judge: JudgeSettings | None
    relaxed: RelaxedSettings | None
    discriminator: DiscriminatorSettings | None
    words: WordsSettings | None
    scorer: ScorerSettings | None = None
    margin: MarginSettings | None = None
    hindsight: HindsightSettings | None = None
    model_settings: ModelSettings
    data_settings: DataSettings
    optimizer: OptimizerSettings
    run_settings: RunSettings
    policy: str | None = None
    eval_data: str | None = None
    feedback: tuple[Any, ...] = ()
    negatives: str | None = None
    base: str | None = None
    pretrain: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    negatives_where: tuple[str, ...] = ()
    command: str = ""

    @property
    def seed(self) -> int:
        """The one seed of the run."""
        chosen = self.online or self.offline or self.selection
        assert chosen is not None
        return chosen.seed

    @property
    def room(self) -> int:
        """How many tokens a sampled response may need; 0 for a method that samples none."""
        sampling = self.online or self.selection
        return sampling.max_tokens if sampling else 0

    @property
    def has_held_out(self) -> bool:
        """Whether anything is kept from training to measure on."""
        return self.eval_data is not None or self.data_settings.held_out > 0

    @property
    def trains_scorer(self) -> bool:
        """Whether what is trained gives scores (a reward model) and not text."""
        return self.scorer is not None

    @property
    def compares(self) -> bool:
        """Whether the judge reads how much likelier a response is to it than to the model before fine-tuning."""
        return self.discriminator is not None and self.discriminator.judge_reads == RATIO

    @property
    def opponent(self) -> str | None:
        """Who answers while the judge warms up, in place of the policy: the base, where the judge does not read it."""
        return None if self.compares else self.base

    def judges(self) -> list[str]:
        """The feedback by name; a Python function goes by its own."""
        return [f if isinstance(f, str) else getattr(f, "__qualname__", type(f).__qualname__) for f in self.feedback]

    def settings(self) -> dict[str, Any]:
        """All settings by name, defaults included."""
        parts = [getattr(self, f.name) for f in fields(self)]
        known = [part for part in parts if is_dataclass(part) and not isinstance(part, type)]
        return {name: value for part in known for name, value in asdict(part).items()}

    def to_dict(self) -> dict[str, Any]:
        """What run.yaml holds of the job, ready to be read back."""
        return {
            "method": self.method,
            "model": self.model,
            "data": self.data,
            "run": str(self.run),
            "policy": self.policy,
            "eval_data": self.eval_data,
            "feedback": self.judges(),
            "negatives": self.negatives,
            "base": self.base,
            "pretrain": self.pretrain,
            "fields": dict(self.fields),
            "where": list(self.where),
            "negatives_where": list(self.negatives_where),
            "settings": self.settings(),
        }


def make_job(
    method: str,
    *,
    model: str,
    data: str,
    run: str | Path,
    policy: str | None = None,
    eval_data: str | None = None,
    feedback: Sequence[Any] = (),
    negatives: str | None = None,
    base: str | None = None,
    pretrain: str | None = None,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    negatives_where: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    command: str = "",
) -> Job:
    """Check names, values and combinations. Raises SettingError with the nearest right name for a wrong one."""
    found = methods.find(method)
    recipe = found if isinstance(found, Recipe) else None
    selects = found if isinstance(found, Selection) else None
    equation = _equation(found, policy)
    is_online = equation.data == "prompt"
    specs = _judges(found, feedback, is_online=is_online)
    learning = learners_of(specs)
    if negatives is not None and not learning:
        raise SettingError("--negatives are shown to a judge that learns along, and this run has none")
    if base is not None and not learning:
        raise SettingError("a --base is whom a judge that learns along meets first, and this run has none")
    if pretrain is not None and not is_online:
        raise SettingError(f"--pretrain text is mixed into the updates on own samples, and {method} takes none")
    classes = classes_of(found, equation, learning)
    made_of, given = recipe or selects, dict(settings or {})
    chosen = dict(made_of.defaults.get(equation.name, {}) if made_of else {})
    if recipe and base is not None:
        chosen |= _brought(recipe, learning, given)
    chosen |= given
    parts = sort_settings(method, chosen, classes)
    kind = DEMONSTRATION if needs_demonstrations(specs) else selects.data if selects else equation.data
    job = Job(
        method=method, model=str(model), data=str(data), run=Path(run), kind=kind, eval_data=eval_data,
        policy=equation.name if made_of else None, feedback=specs, negatives=negatives, base=base, pretrain=pretrain,
        fields=dict(fields or {}), where=tuple(where), negatives_where=tuple(negatives_where), command=command, **parts,
    )  # fmt: skip
    check_together(job)
    return job


def _brought(recipe: Recipe, learning: set[str], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a base brings along, where the judge is a language model that reads single responses."""
    if DISCRIMINATOR not in learning or given.get("judge_sees", "one") != "one":
        return {}
    return recipe.with_ratio if given.get("judge_reads") == RATIO else recipe.with_base


def _judges(found: Any, feedback: Sequence[Any], *, is_online: bool) -> tuple[Any, ...]:
    """Find the judges of a run: those that were named, or the one that a recipe brings along."""
    is_judged = found.needs_feedback if isinstance(found, Selection) else is_online
    if not is_judged and feedback:
        source = "demonstrations" if isinstance(found, Selection) else "a file"
        raise SettingError(f"{found.name} learns from {source} and has no use for --feedback; leave it out")
    own = (found.feedback,) if isinstance(found, Recipe) and found.feedback else ()
    specs = tuple(feedback) or own
    if is_judged and not specs:
        raise SettingError(
            f"{found.name} learns from scores; name a judge with --feedback, for example --feedback length"
        )
    if not is_online and (learning := learners_of(specs)):
        raise SettingError(
            f"{found.name} has no {min(learning)} that learns along; name a trained one by its folder, RUN/judge"
        )
    if not is_online and needs_demonstrations(specs):
        raise SettingError(f"{found.name} samples for prompts; {SIMILARITY} compares with demonstrations, as rlsr does")
    return specs


def _equation(found: type | Recipe | Selection, policy: str | None) -> Any:
    if not isinstance(found, Recipe | Selection):
        if policy is not None:
            raise SettingError(f"--policy belongs to recipes such as rlgaf; {found.name} is an equation of its own")  # type: ignore[attr-defined]
        return found
    name = policy or found.policies[0]
    if name not in found.policies:
        raise SettingError(f"{found.name} has no policy {name!r}; {did_you_mean(name, found.policies)}")
    return methods.get(name)

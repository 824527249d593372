"""What a run is asked to do, checked before anything is loaded; it is what run.yaml holds.

Settings come flat, by name, and are sorted into the classes that know their defaults and ranges: the
method's own knobs, and those of `loops/settings.py` that the method has a use for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparring import methods
from sparring.core.errors import RunError, SettingError, did_you_mean
from sparring.core.registry import Recipe, knobs, needs
from sparring.loops.settings import (
    DataSettings,
    DiscriminatorSettings,
    ModelSettings,
    OfflineSettings,
    OnlineSettings,
    OptimizerSettings,
    RecipeSettings,
)

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a run needs to be made again. `method` is the name, `equation` the method that trains the policy."""

    method: str
    model: str
    data: str
    run: Path
    equation: Any
    kind: str
    model_settings: ModelSettings
    data_settings: DataSettings
    optimizer: OptimizerSettings
    offline: OfflineSettings | None
    online: OnlineSettings | None
    discriminator: DiscriminatorSettings | None
    recipe: RecipeSettings | None
    policy: str | None = None
    eval_data: str | None = None
    feedback: tuple[Any, ...] = ()
    negatives: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    negatives_where: tuple[str, ...] = ()
    command: str = ""

    @property
    def seed(self) -> int:
        """The one seed of the run."""
        chosen = self.online or self.offline
        assert chosen is not None
        return chosen.seed

    @property
    def trains_scorer(self) -> bool:
        """Whether what is trained gives scores (a reward model) and not text."""
        return "scores" in needs(self.equation.loss) and "token_logps" not in needs(self.equation.loss)

    def settings(self) -> dict[str, Any]:
        """All settings by name, defaults included."""
        parts = [self.equation, self.recipe, self.online, self.offline, self.discriminator]
        parts += [self.model_settings, self.data_settings, self.optimizer]
        return {name: value for part in parts if part is not None for name, value in asdict(part).items()}

    def to_dict(self) -> dict[str, Any]:
        """What run.yaml holds of the job, ready to be read back."""
        return {
            "method": self.method,
            "model": self.model,
            "data": self.data,
            "run": str(self.run),
            "policy": self.policy,
            "eval_data": self.eval_data,
            "feedback": [f if isinstance(f, str) else getattr(f, "__qualname__", repr(f)) for f in self.feedback],
            "negatives": self.negatives,
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
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    negatives_where: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    command: str = "",
) -> Job:
    """Check names, values and combinations. Raises SettingError with the nearest right name for a wrong one."""
    found = methods.find(method)
    recipe = found if isinstance(found, Recipe) else None
    equation = _equation(found, policy)
    is_online = equation.data == "prompt"
    if not is_online and feedback:
        raise SettingError(f"{method} learns from a file and has no use for --feedback; leave it out")
    specs = tuple(feedback) or ((recipe.feedback,) if recipe else ())
    if is_online and not specs:
        raise SettingError(f"{method} learns from scores; name a judge with --feedback, for example --feedback length")
    is_adversarial = any(isinstance(s, str) and DISCRIMINATOR in s for s in specs)
    if negatives is not None and not is_adversarial:
        raise SettingError("--negatives are shown to a discriminator, and this run has none")
    classes: dict[str, type | None] = {
        "equation": equation,
        "model_settings": ModelSettings,
        "data_settings": DataSettings,
        "optimizer": OptimizerSettings,
        "offline": None if is_online else OfflineSettings,
        "online": OnlineSettings if is_online else None,
        "discriminator": DiscriminatorSettings if is_adversarial else None,
        "recipe": RecipeSettings if recipe else None,
    }
    chosen = dict(recipe.defaults if recipe else {}) | dict(settings or {})
    parts = _sort(method, chosen, classes)
    kind = DEMONSTRATION if is_adversarial else equation.data
    return Job(
        method=method, model=str(model), data=str(data), run=Path(run), kind=kind, eval_data=eval_data,
        policy=equation.name if recipe else None, feedback=specs, negatives=negatives, fields=dict(fields or {}),
        where=tuple(where), negatives_where=tuple(negatives_where), command=command, **parts,
    )  # fmt: skip


DEMONSTRATION = "demonstration"


def write_yaml(job: Job, extra: Mapping[str, Any]) -> str:
    """Give the text of run.yaml: the job, and what is known about the run that was made."""
    import yaml

    return yaml.safe_dump({**job.to_dict(), "command": job.command, **extra}, sort_keys=False, allow_unicode=True)


def read_yaml(run: Path) -> dict[str, Any]:
    """Read run.yaml. Raises RunError when the folder holds no run or a damaged one."""
    import yaml

    file = run / "run.yaml"
    if not file.is_file():
        raise RunError(f"{run}: there is no run here to resume (no run.yaml); leave --resume out to start one")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise RunError(f"{file}: not readable as YAML; {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or "method" not in content:
        raise RunError(f"{file}: this does not describe a run")
    return content


def _equation(found: type | Recipe, policy: str | None) -> Any:
    if not isinstance(found, Recipe):
        if policy is not None:
            raise SettingError(f"--policy belongs to recipes such as rlgaf; {found.name} is an equation of its own")  # type: ignore[attr-defined]
        return found
    name = policy or found.policies[0]
    if name not in found.policies:
        raise SettingError(f"{found.name} has no policy {name!r}; {did_you_mean(name, found.policies)}")
    return methods.get(name)


def _sort(method: str, given: Mapping[str, Any], classes: Mapping[str, type | None]) -> dict[str, Any]:
    """Give every setting to the class that knows it."""
    known = {k.name: part for part, cls in classes.items() if cls is not None for k in knobs(cls)}
    for name in given:
        if name not in known:
            raise SettingError(f"{method} has no setting {name!r}; {did_you_mean(name, known)}")
    return {
        part: None if cls is None else cls(**{n: v for n, v in given.items() if known[n] == part})
        for part, cls in classes.items()
    }

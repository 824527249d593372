"""Which flags `sparring train METHOD` has: made from the registry and from loops/settings.py.

Nothing here holds a default, and no flag leaves a trace unless the user gives it.
"""

import argparse
from collections.abc import Mapping
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any

from sparring import methods
from sparring.cli.main import COMMANDS
from sparring.cli.parser import Parser, add_knob, one_of, plain
from sparring.core.errors import DataError, RunError, SettingError, did_you_mean
from sparring.core.registry import Recipe, Selection, knobs, needs, welcomes
from sparring.feedback.expression import BAG_OF_WORDS, DISCRIMINATOR, learners_of
from sparring.loops import settings
from sparring.loops.parts import trains_scorer

VALUES = (
    "method", "model", "data", "run", "eval_data", "feedback", "negatives", "base", "pretrain", "fields", "where",
    "negatives_where", "policy", "settings",
)  # fmt: skip
"""What a --config file may say, besides what run.yaml records about the run that was made."""

LISTS = ("feedback", "where", "negatives_where")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Flags that stand together in the help: one class of knobs, and the defaults that differ from its own."""

    title: str
    about: str
    cls: type
    defaults: Mapping[str, Any]

    def knobs(self) -> tuple[Field[Any], ...]:
        """List the settings behind the flags."""
        return knobs(self.cls)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What decides which flags there are: the method, its policy if it is a recipe, what goes along, and a --config."""

    name: str
    found: type | Recipe | Selection
    policy: str | None
    feedback: tuple[str, ...]
    pretrain: str | None
    nucleus: str | None
    config: Mapping[str, Any]

    @property
    def is_online(self) -> bool:
        """Whether it learns from its own samples, round by round."""
        if isinstance(self.found, Selection):
            return False
        return self.policy is not None or getattr(self.found, "data", "") == "prompt"

    @property
    def is_judged(self) -> bool:
        """Whether it has a use for feedback."""
        return self.found.needs_feedback if isinstance(self.found, Selection) else self.is_online

    @property
    def needs_feedback(self) -> bool:
        """Whether feedback must be named: no recipe brings one."""
        return self.is_judged and not (isinstance(self.found, Recipe) and self.found.feedback)

    @property
    def mixes_text(self) -> bool:
        """Whether updates take other text too: some is named, or the recipe is made for it."""
        return self.is_online and (self.pretrain is not None or "pretrain_weight" in self.defaults)

    @property
    def masks(self) -> bool:
        """Whether an earlier policy bounds what may be drawn."""
        return self.is_online and (self.nucleus is not None or "nucleus" in self.defaults)

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Defaults of a recipe or selection that differ from those of its policy and loop."""
        return {} if isinstance(self.found, type) else self.found.defaults.get(self.policy or "", {})

    @property
    def learning(self) -> set[str]:
        """Name the judges that learn along."""
        own = [self.found.feedback] if isinstance(self.found, Recipe) and self.found.feedback else []
        return learners_of(self.feedback or own) if self.is_online else set()

    def groups(self) -> list[Group]:
        """List the flags by group, the method's own knobs first."""
        equation = self.found if isinstance(self.found, type) else methods.get(self.policy or "")
        shown: list[tuple[str, type]] = [(f"knobs of {self.policy or self.name}", equation)]
        if isinstance(self.found, Recipe) and self.found.data == "demonstration":
            shown.append(("recipe", settings.RecipeSettings))
        if isinstance(self.found, Selection):
            shown = [(f"knobs of {self.name}", self.found.rule), *shown, ("rounds", settings.SelectionSettings)]
        elif self.is_online:
            shown += [("online", settings.OnlineSettings), ("reward", settings.RewardSettings)]
        else:
            shown.append(("offline", settings.OfflineSettings))
        shown += [(title, cls) for title, cls, has_use in self._if_of_use(equation) if has_use]
        shown += [("model", settings.ModelSettings), ("data", settings.DataSettings)]
        shown += [("optimizer", settings.OptimizerSettings), ("run", settings.RunSettings)]
        return [
            Group(
                title=title, about="" if title.startswith("knobs") else _summary(cls), cls=cls, defaults=self.defaults
            )
            for title, cls in shown
            if knobs(cls)
        ]

    def _if_of_use(self, equation: Any) -> list[tuple[str, type, bool]]:
        """List the groups that only some runs have, and whether this one does."""
        return [
            ("scorer", settings.ScorerSettings, trains_scorer(equation)),
            ("margins", settings.MarginSettings, "margin" in welcomes(equation.loss)),
            ("hindsight", settings.HindsightSettings, "other_token_logps" in needs(equation.loss)),
            ("relaxation", settings.RelaxedSettings, "relaxed_scores" in needs(equation.loss)),
            ("pre-training text", settings.PretrainSettings, self.mixes_text),
            ("nucleus", settings.NucleusSettings, self.masks),
            ("judge", settings.JudgeSettings, bool(self.learning)),
            ("discriminator", settings.DiscriminatorSettings, DISCRIMINATOR in self.learning),
            ("bag of words", settings.WordsSettings, BAG_OF_WORDS in self.learning),
        ]


def choose(words: list[str]) -> Choice | None:
    """Find what the words are about; None when they name neither a method nor a file that does.

    Raises SettingError for a word that is no method, and for a method that does not come first.
    """
    known = _look_ahead(words)
    named = words[0] if words and not words[0].startswith("-") else None
    source = known.config
    if source is None and known.resume and known.run and (named is None or (Path(known.run) / "run.yaml").exists()):
        source = str(Path(known.run) / "run.yaml")
    config = {} if source is None else read_config(source)
    name = named or config.get("method")
    if name is None and any(not w.startswith("-") for w in words):
        raise SettingError("sparring train needs a METHOD, and it comes first; sparring train --help lists them")
    if name is None:
        return None
    if name != config.get("method", name):
        raise SettingError(f"{source} is of method {config['method']}, not {name}; leave the method out, or the file")
    if name in COMMANDS:
        raise SettingError(f"{name} is a command of its own and no method; see sparring {name} --help")
    found = methods.find(name)
    policy = None
    if not isinstance(found, type):
        asked = known.policy or config.get("policy")
        policy = asked if asked in found.policies else found.policies[0]  # a wrong one is refused with the other flags
    feedback = tuple(known.feedback or config.get("feedback", ()))
    pretrain = known.pretrain or config.get("pretrain")
    return Choice(
        name=name, found=found, policy=policy, feedback=feedback, pretrain=pretrain, nucleus=known.nucleus,
        config=config,
    )  # fmt: skip


def add_files(parser: Parser, choice: Choice, *, writes: bool = True) -> None:
    """Add the flags that say what goes in and what comes out, the required ones first.

    A command that `writes` nothing takes the folder of a run as well, so that one command line fits both.
    """
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("method", nargs="?", help=argparse.SUPPRESS)

    def add(name: str, metavar: str, about: str, *, required: bool = False, repeat: bool = False) -> None:
        key = name.strip("-").replace("-", "_")
        parser.add_argument(
            name,
            metavar=metavar,
            required=required and key not in choice.config,
            action="append" if repeat else "store",
            help=f"{about}{'; required' if required else ''}",
        )

    kind = choice.found.data  # type: ignore[attr-defined]  # the decorator sets it
    add("--model", "MODEL", "folder or hub id of the model to start from", required=True)
    add("--data", "FILE", f"{kind}s: jsonl(.gz), json, csv, parquet, a folder or a hub id", required=True)
    add("--run", "FOLDER", "folder to write", required=writes)
    if choice.is_judged:
        add("--feedback", "JUDGE", "length, vader, FILE.py:FUNCTION, a reward model's run, a sum such as "
            "0.7*vader+length, mean(...), worst, uwo, gated; repeat to add",
            required=choice.needs_feedback, repeat=True)  # fmt: skip
    if choice.is_online:
        add("--pretrain", "FILE", "text to go on learning in every update; set --pretrain-weight")
    if not isinstance(choice.found, type) and len(choice.found.policies) > 1:
        policies = choice.found.policies
        parser.add_argument("--policy", type=one_of(policies), metavar="{" + ",".join(policies) + "}",
            help=f"the policy's equation (default {policies[0]})")  # fmt: skip
    if choice.learning:
        add("--negatives", "FILE", "real but unwanted text that joins the fakes")
        add("--negatives-where", "FIELD=VALUE", "keep only such rows of --negatives; repeat for more", repeat=True)
        brings, ratio = (_listed(getattr(choice.found, name, {})) for name in ("with_base", "with_ratio"))
        said = [text for text in (brings, f"with judge-reads ratio {ratio}" if ratio else "") if text]
        then = f"; then by default {'; '.join(said)}" if said else ""
        add("--base", "MODEL", f"the model before fine-tuning, whom the judge meets first{then}")
    add("--eval-data", "FILE", "held-out records; otherwise a share of the data is held out")
    add("--fields", "OURS=THEIRS,...", "which columns hold what, such as prompt=question,response=answer")
    add("--where", "FIELD=VALUE", "keep only such rows; repeat for more", repeat=True)
    add("--config", "FILE", "take all settings from a run.yaml; flags go over it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER where it stopped")


def add_groups(parser: Parser, choice: Choice) -> None:
    """Add the knobs of the method and the settings of its loop, group by group."""
    for part in choice.groups():
        group = parser.add_argument_group(part.title, part.about or None)
        for knob in part.knobs():
            add_knob(group, knob, part.defaults.get(knob.name, knob.default))


def read_config(path: str) -> dict[str, Any]:
    """Read the settings of a run.yaml, and leave what it records about the run that was made."""
    import yaml

    file = Path(path)
    if file.is_dir():
        file = file / "run.yaml"
    if not file.is_file():
        raise RunError(f"{file} does not exist; give the run.yaml of a run")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RunError(f"{file} is not readable as YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict):
        raise RunError(f"{file} holds {type(content).__name__}, not settings; it starts like `method: sft`")
    for key in content.keys() - set(VALUES) - set(settings.RECORDED):
        raise SettingError(f"{file}: unknown setting {key!r}; {did_you_mean(str(key), VALUES)}")
    for key in LISTS:
        if not isinstance(content.get(key, []), list):
            raise SettingError(f"{file}: {key} is {content[key]!r}; give a list")
    if not isinstance(content.get("settings", {}), dict):
        raise SettingError(f"{file}: settings is {content['settings']!r}; give names with values")
    return {k: v for k, v in content.items() if k in VALUES and v is not None}


def parse_fields(text: str) -> dict[str, str]:
    """Read OURS=THEIRS pairs, joined by commas."""
    pairs = {}
    for part in text.split(","):
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise DataError(f"--fields: {part!r} is not OURS=THEIRS, such as prompt=question")
        pairs[ours.strip()] = theirs.strip()
    return pairs


def _look_ahead(words: list[str]) -> argparse.Namespace:
    """Read the few flags that decide which others there are; all the rest is for later."""
    few = Parser(prog="sparring train")
    for name in ("--config", "--run", "--policy", "--pretrain", "--nucleus"):
        few.add_argument(name)
    few.add_argument("--feedback", action="append", default=[])
    few.add_argument("--resume", action="store_true")
    # The plain parser's method: ours would refuse the flags that are not among these few.
    known, _ = argparse.ArgumentParser.parse_known_args(few, [w for w in words if w not in ("-h", "--help")])
    return known


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]


def _listed(settings: Mapping[str, Any]) -> str:
    """Write settings as they are given on the command line."""
    return ", ".join(f"{name.replace('_', '-')} {plain(value)}" for name, value in settings.items())

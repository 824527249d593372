"""What a comparison is asked to do: a YAML file, in which every name and type is checked before anything else is.

    model: gpt2                         # where everything starts
    data: pairs.jsonl                   # or {file, where, fields}; {seed} in the name: a file for each seed
    eval_data: held_out.jsonl           # left out: held_out of data's prompts, which no method then trains on
    feedback: [vader]                   # who measures; the verdict is about the first
    seeds: 3                            # or a list
    budget: {tokens: 2e6}               # or flops, or seconds: what each method may spend after the start
    sft: {epochs: 3}                    # settings of the shared start; left out, methods start from the model
    best_of: 4                          # and judge: who picks; left out, the first feedback does
    methods: [dpo, {method: ipo, grid: {tau: [0.1, 0.5]}}, {method: rlgaf, policy: rloo, settings: {rounds: 40}}]

A method may also have `data`, `negatives` ({seed} as above), `pretrain`, and `base`: a model, or `base`, the plan's.
In `feedback` and `judge`, {NAME} stands for the run of the method of that name with the same seed, which is then made
before: a reward model, or a run with a judge in it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sparring.core.errors import SettingError, did_you_mean

BUDGETS = ("tokens", "flops", "seconds")
SEED = "{seed}"
EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

Reader = Callable[[Any, str], Any]
"""Takes a value of the file and where it stands; returns what it means, or raises SettingError."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data file, which of its rows, and what its columns are called."""

    file: str
    where: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How every model is measured; 0 prompts are all of them."""

    prompts: int = 0
    K: int = 1
    max_tokens: int = 64
    max_prompt: int = 512
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One item under `methods`; `grid` makes several of it, one for each combination of its values."""

    method: str
    name: str = ""
    policy: str | None = None
    feedback: tuple[str, ...] = ()
    start: str = ""
    data: Source | None = None
    negatives: str | None = None
    base: str | None = None
    pretrain: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole comparison, as the file says it."""

    model: str
    data: Source
    feedback: tuple[str, ...]
    methods: tuple[Entry, ...]
    title: str = "Comparison"
    eval_data: Source | None = None
    held_out: float = 0.2
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    sft: Mapping[str, Any] | None = None
    best_of: int = 0
    judge: str | None = None
    evaluate: Measure = field(default_factory=Measure)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values that read back as the same plan."""
        return _plain(asdict(self))


def load_plan(file: str | Path, changes: Sequence[str] = ()) -> Plan:
    """Read a plan; each of `changes`, NAME=VALUE with a value in YAML, goes over what the file says.

    Raises SettingError, naming the file and the place in it, for anything that is not as it should.
    """
    import yaml

    place = Path(file)
    if not place.is_file():
        raise SettingError(f"{file}: no such plan; a plan is a YAML file, and the README shows one")
    raw = _parse(yaml, place.read_bytes(), str(file))
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign or not isinstance(raw, dict):
            raise SettingError(f"--set {change}: give NAME=VALUE, such as model=gpt2")
        raw[name] = _parse(yaml, value.encode(), f"--set {change}")
    return read_plan(raw, str(file))


def read_plan(raw: Any, where: str = "plan") -> Plan:
    """Make a plan of plain values; `where` begins every error."""
    return _read(Plan, raw, where)


def differences(before: Plan, now: Plan) -> list[str]:
    """Say what is different about a plan, a sentence for each name."""
    a, b = before.to_dict(), now.to_dict()
    return [
        f"{name} was {_short(a.get(name))} and is now {_short(b.get(name))}"
        for name in {**a, **b}
        if a.get(name) != b.get(name)
    ]


def _read(cls: type, raw: Any, where: str) -> Any:
    """Make a dataclass of a mapping with its names."""
    known = {f.name: f for f in fields(cls)}
    if not isinstance(raw, Mapping):
        raise SettingError(f"{where}: this is {_short(raw)}; give names with values, such as {next(iter(known))}: ...")
    for name in raw:
        if name not in known:
            raise SettingError(f"{where}: unknown name {name!r}; {did_you_mean(str(name), known)}")
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if raw.get(name) is None]:
        raise SettingError(f"{where}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    given = {name: value for name, value in raw.items() if value is not None}
    return cls(**{name: READERS[cls][name](value, f"{where}: {name}") for name, value in given.items()})


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingError(f"{where} is {_short(value)}; give a text")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list | tuple) or not several:
        raise SettingError(f"{where} is {_short(value)}; give a text or a list of texts")
    found = tuple(_text(one, where) for one in several)
    if len(set(found)) < len(found):
        raise SettingError(f"{where} names something twice: {', '.join(found)}")
    return found


def _number(low: float, high: float) -> Reader:
    def read(value: Any, where: str) -> float:
        value = _value(value, where)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise SettingError(f"{where} is {_short(value)}; give a number from {low:g} to {high:g}")
        return float(value)

    return read


def _whole(least: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SettingError(f"{where} is {_short(value)}; give a whole number from {least} on")
        return value

    return read


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        return tuple(range(_whole(1)(value, where)))
    found = tuple(_whole(0)(one, where) for one in value)
    if not found or len(set(found)) < len(found):
        raise SettingError(f"{where} is {_short(value)}; give a number of seeds, or different ones as a list")
    return found


def _values(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {_short(value)}; give names with values")
    if "seed" in value:
        raise SettingError(f"{where}: a seed of its own makes no comparison; leave it to `seeds`")
    return {_text(name, where): _value(one, f"{where}: {name}") for name, one in value.items()}


def _value(value: Any, where: str) -> Any:
    """Read a plain value; 1e-3 is a number, though YAML takes it for a text."""
    if isinstance(value, str):
        return float(value) if EXPONENT.fullmatch(value) else value
    if not isinstance(value, bool | int | float):
        raise SettingError(f"{where} is {_short(value)}; give a number or a word")
    return value


def _grid(value: Any, where: str) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {_short(value)}; give names with lists of values")
    for name, some in value.items():
        if not isinstance(some, list) or not some:
            raise SettingError(f"{where}: {name} is {_short(some)}; give a list of values")
    found = {_text(name, where): [_value(one, f"{where}: {name}") for one in some] for name, some in value.items()}
    if "seed" in found or any(len(set(some)) < len(some) for some in found.values()):
        raise SettingError(f"{where} is {_short(value)}; the values of a name differ, and seeds have their own place")
    return found


def _budget(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise SettingError(f"{where} is {_short(value)}; give one of {', '.join(BUDGETS)} with its amount")
    (name, amount), *_ = value.items()
    if name not in BUDGETS:
        raise SettingError(f"{where}: unknown name {name!r}; {did_you_mean(str(name), BUDGETS)}")
    return {name: _number(1, 1e30)(amount, f"{where}: {name}")}


def _source(value: Any, where: str) -> Source:
    return Source(file=value) if isinstance(value, str) and value else _read(Source, value, where)


def _columns(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {_short(value)}; give our names with those of the columns")
    return {_text(ours, where): _text(theirs, f"{where}: {ours}") for ours, theirs in value.items()}


def _entries(value: Any, where: str) -> tuple[Entry, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise SettingError(f"{where} is {_short(value)}; give a list of methods")
    return tuple(
        Entry(method=one) if isinstance(one, str) else _read(Entry, one, f"{where}[{place}]")
        for place, one in enumerate(value)
    )


def _start(value: Any, where: str) -> str:
    if value not in ("sft", "base", ""):
        raise SettingError(f"{where} is {_short(value)}; give sft or base")
    return value


READERS: dict[type, dict[str, Reader]] = {
    Source: {"file": _text, "where": lambda v, w: _texts(v, w) if v else (), "fields": _columns},
    Measure: {"prompts": _whole(0), "K": _whole(1), "max_tokens": _whole(1), "max_prompt": _whole(1),
              "temperature": _number(0, 100)},
    Entry: {"method": _text, "name": lambda v, w: _text(v, w) if v else "", "policy": _text, "start": _start,
            "feedback": lambda v, w: _texts(v, w) if v else (), "data": _source, "negatives": _text, "base": _text,
            "pretrain": _text, "settings": _values, "grid": _grid},
    Plan: {"model": _text, "data": _source, "feedback": _texts, "methods": _entries, "title": _text,
           "eval_data": _source, "held_out": _number(0.001, 0.9), "seeds": _seeds,
           "budget": lambda v, w: _budget(v, w) if v else {}, "settings": _values, "sft": _values,
           "best_of": _whole(0), "judge": _text, "evaluate": lambda v, w: _read(Measure, v, w)},
}  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:160] + "..."


def _parse(yaml: Any, content: bytes, where: str) -> Any:
    """Read YAML in UTF-8; raises SettingError, naming the place, when it is none."""
    try:
        return yaml.load(content.decode("utf-8"), Loader=_strict(yaml))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{where}: not readable as YAML: {' '.join(str(error).split())[:300]}") from error


def _strict(yaml: Any) -> Any:
    """A loader that refuses a name given twice; YAML's own takes the last, in silence."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is given twice", node.start_mark)
            return super().construct_mapping(node, deep)

    return Strict

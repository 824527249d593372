"""How a method announces itself, and what it declares: its name, its data, its knobs, its needs."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

from sparring.core.errors import SettingError, did_you_mean

T = TypeVar("T")

METHODS: dict[str, type] = {}
RECIPES: dict[str, "Recipe"] = {}
SELECTIONS: dict[str, "Selection"] = {}


def knob(
    default: Any,
    doc: str,
    *,
    above: float | None = None,
    within: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a setting: its default, what it does, and which values make sense."""
    return field(default=default, metadata={"doc": doc, "above": above, "within": within, "choices": choices})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(knob,))
def settings(cls: type[T]) -> type[T]:
    """Turn a class of knobs into a frozen dataclass that refuses values out of range."""
    # Before dataclass(), which calls a check after __init__ only if it finds one now.
    cls.__post_init__ = check_knobs  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def method(name: str, *, data: str, view: str = "responses") -> Callable[[type], type]:
    """Register a method under the name it has on the command line and in the docs.

    `view` says how it is shown its records: as prompts with their responses; where a model is to read two responses
    at once, as questions which of them is better (`comparison`); or with their mark in words behind (`verdict`).
    """

    def register(cls: type) -> type:
        if name in METHODS:
            raise AssertionError(f"two methods are called {name!r}: {METHODS[name].__module__} and {cls.__module__}")
        cls.name, cls.data, cls.view, cls.__post_init__ = name, data, view, check_knobs  # type: ignore[attr-defined]
        # What a file of one method says of itself is what help() is asked for; dataclass() would write its knobs there.
        cls.__doc__ = cls.__doc__ or inspect.getdoc(inspect.getmodule(cls))
        cls = dataclass(frozen=True, kw_only=True)(cls)
        METHODS[name] = cls
        return cls

    return register


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method that is made of others: an equation for the policy, and what its loop does beside that.

    `policies` are the online methods it can use, the default first; `feedback` is the name of the
    judge that comes with it, empty when the user names one; `defaults` are, by policy, knobs and
    settings that differ from their own, and `with_base` those that go over them where its judge meets
    the model before fine-tuning first, `with_ratio` where it reads the ratio to that model.
    """

    name: str
    data: str
    policies: tuple[str, ...]
    feedback: str
    defaults: Mapping[str, Mapping[str, Any]]
    with_base: Mapping[str, Any]
    with_ratio: Mapping[str, Any]


def recipe(
    name: str,
    *,
    data: str,
    policies: tuple[str, ...],
    defaults: Mapping[str, Mapping[str, Any]],
    with_base: Mapping[str, Any] | None = None,
    with_ratio: Mapping[str, Any] | None = None,
    feedback: str = "",
) -> Recipe:
    """Register a recipe under the name it has on the command line and in the docs."""
    if name in RECIPES:
        raise AssertionError(f"two recipes are called {name!r}")
    made = Recipe(
        name=name, data=data, policies=policies, feedback=feedback, defaults=defaults, with_base=with_base or {},
        with_ratio=with_ratio or {},
    )  # fmt: skip
    RECIPES[name] = made
    return made


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A method that trains on what it selects: sample, score, select, then a method from a file; again and again.

    `rule` is the class of its knobs, whose `select` makes records of scored samples; its `passes` says how many
    rounds learn from the same samples. `policies` are the offline methods that it can train, the default first;
    `defaults` are, by policy, knobs and settings that differ from their own.
    """

    name: str
    data: str
    policies: tuple[str, ...]
    defaults: Mapping[str, Mapping[str, Any]]
    needs_feedback: bool
    rule: Any


def selection(
    name: str,
    *,
    data: str,
    policies: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any],
    needs_feedback: bool = True,
) -> Callable[[type], type]:
    """Register a selection under the name it has on the command line and in the docs.

    `policies` names the offline methods, each with the defaults of its own that go over the common `defaults`.
    """

    def register(cls: type) -> type:
        if name in SELECTIONS:
            raise AssertionError(f"two selections are called {name!r}")
        cls.name, cls.data, cls.__post_init__ = name, data, check_knobs  # type: ignore[attr-defined]
        cls.passes = getattr(cls, "passes", 1)  # type: ignore[attr-defined]
        cls = dataclass(frozen=True, kw_only=True)(cls)
        SELECTIONS[name] = Selection(
            name=name, data=data, policies=tuple(policies), needs_feedback=needs_feedback, rule=cls,
            defaults={policy: {**defaults, **own} for policy, own in policies.items()},
        )  # fmt: skip
        return cls

    return register


def check_knobs(self: Any) -> None:
    """Refuse a knob of the wrong type or out of its range, naming the knob, the value and the range."""
    owner = getattr(self, "name", type(self).__name__.removesuffix("Settings").lower())
    for f in fields(self):
        value = getattr(self, f.name)
        if value is None and f.default is None:
            continue
        problem = _wrong_type(f, value) or _out_of_range(f, value)
        if problem:
            raise SettingError(f"{owner}: {f.name} {problem}")


def needs(equation: Callable) -> list[str]:
    """List the signals that an equation cannot do without: its parameters without a default."""
    return [n for n, p in _parameters(equation).items() if p.default is inspect.Parameter.empty]


def welcomes(equation: Callable) -> list[str]:
    """List the signals that an equation uses when the data has them: its parameters that default to None."""
    return [n for n, p in _parameters(equation).items() if p.default is not inspect.Parameter.empty]


def knobs(cls: type) -> tuple[Field, ...]:
    """List the settings of a method or a loop, for the command line and the docs."""
    return tuple(f for f in fields(cls) if f.default is not MISSING)


def _parameters(equation: Callable) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(equation).parameters.items() if n != "self"}


def _wrong_type(f: Field, value: Any) -> str:
    """Say how a value is not of the kind of its knob; empty when it is."""
    choices = f.metadata.get("choices")
    if choices and value not in choices:
        return f"is {value!r}; {did_you_mean(str(value), choices)}"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if f.type in (int, float) and not is_number:
        return f"is {value!r}; give a number such as {f.default}"
    if f.type is int and not float(value).is_integer() and math.isfinite(value):
        return f"is {value}; give a whole number such as {f.default}"
    if f.type is str and not isinstance(value, str):
        return f"is {value!r}; give a word such as {f.default}"
    return ""


def _out_of_range(f: Field, value: Any) -> str:
    """Say which bound a value breaks; empty when it breaks none."""
    if not isinstance(value, (int, float)):
        return ""
    if not math.isfinite(value):
        return f"is {value}; give a finite number such as {f.default}"
    above, within = f.metadata.get("above"), f.metadata.get("within")
    if above is not None and not value > above:
        return f"must be above {above}, got {value}"
    if within is not None and not within[0] <= value <= within[1]:
        return f"must lie between {within[0]} and {within[1]}, got {value}"
    return ""

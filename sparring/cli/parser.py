"""A parser whose errors help: a typo gets the nearest right name, and nothing prints a page of usage.

argparse's own errors are turned into SettingError, so that every mistake leaves the program by the same
door: one line, exit code 2.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from difflib import get_close_matches
from typing import Any, NoReturn, get_args

from sparring.core.errors import SettingError, did_you_mean

Words = Sequence[str]

ELSEWHERE = {
    "learning-rate": "lr",
    "output-dir": "run",
    "out": "run",
    "dataset": "data",
    "dataset-name": "data",
    "model-name-or-path": "model",
    "num-train-epochs": "epochs",
    "per-device-train-batch-size": "batch",
    "batch-size": "batch",
    "max-length": "max-response",
    "max-new-tokens": "max-tokens",
    "num-generations": "k",
}
"""What other tools call our flags."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that checks flag names first, and says which one was meant.

    `words` are the words it is about to parse, for a command whose flags depend on one of them.
    """

    def __init__(self, prog: str, description: str = "", words: Words = ()) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34),
        )
        self.words = list(words)

    def parse(self) -> argparse.Namespace:
        """Parse `words`; raise SettingError for anything that does not fit."""
        args, extra = self.parse_known_args(self.words)
        if extra:
            raise SettingError(f"{extra[0]!r} was not expected after {self.prog}; see {self.prog} --help")
        return args

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse as argparse does, nested commands included, after a look at the names of the flags."""
        self._check_flags(args or [])
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would have printed with its usage, in our words."""
        missing = re.fullmatch(r"the following arguments are required: (.*)", message)
        if missing:
            raise SettingError(f"{self.prog} needs {missing[1]}; see {self.prog} --help")
        flag = re.fullmatch(r"argument ([^:]+): (.*)", message, re.DOTALL)
        if flag and flag[2].startswith("expected"):
            raise SettingError(f"{flag[1]} needs a value; see {self.prog} --help")
        raise SettingError(f"{flag[1]}: {flag[2]}" if flag else message)

    def _check_flags(self, words: Words) -> None:
        """Refuse an unknown flag before argparse complains about whatever is missing because of it."""
        known = [o for a in self._actions for o in a.option_strings]
        is_nested = any(isinstance(a, argparse._SubParsersAction) for a in self._actions)
        for word in words:
            if word == "--" or (is_nested and not word.startswith("-")):
                return  # what follows is no flag, or belongs to the nested command, which checks its own
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                raise SettingError(f"unknown flag {name}; {self._nearest(name, known)}")

    def _nearest(self, name: str, known: list[str]) -> str:
        """Which flag was meant; dashes are left out, for they would make all flags alike."""
        bare = name.strip("-").replace("_", "-").lower()
        flags = {o.strip("-").lower(): o for o in known if o.startswith("--")}
        same = [n for n in (bare, ELSEWHERE.get(bare)) if n in flags]
        near = same or get_close_matches(bare, flags, n=2, cutoff=0.6)
        if not near:
            return f"see {self.prog} --help"
        return f"did you mean {' or '.join(flags[n] for n in near)}?"


class _Refusal(argparse.ArgumentTypeError):
    """A value that a flag cannot take."""


def integer(text: str) -> int:
    """Read a whole number; 1e6 and 1_000 are whole numbers too."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise _Refusal(f"{text!r} is not a whole number") from None
    if not value.is_integer():
        raise _Refusal(f"{text!r} is not a whole number")
    return int(value)


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise _Refusal(f"{text!r} is not a number") from None


def yes_or_no(text: str) -> bool:
    """Read a yes or a no, in the words that people use for them."""
    words = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if text.lower() not in words:
        raise _Refusal(f"{text!r} is neither yes nor no")
    return words[text.lower()]


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Make a reader that takes one of some words, and names the nearest for any other."""

    def read(text: str) -> str:
        if text not in choices:
            raise _Refusal(f"{text!r} is not a choice; {did_you_mean(text, choices)}")
        return text

    return read


def flag(name: str) -> str:
    """Spell the flag of a setting: max_prompt is --max-prompt."""
    return "--" + name.replace("_", "-")


def add_knob(group: argparse._ArgumentGroup, knob: Field[Any], default: Any) -> None:
    """Add the flag of one knob. It leaves no trace in the namespace unless the user gives it."""
    choices = knob.metadata.get("choices") or ()
    types = {type(default), *get_args(knob.type), knob.type}
    if choices:
        reader, metavar = one_of(choices), "{" + ",".join(choices) + "}"
    elif bool in types:
        reader, metavar = yes_or_no, "{yes,no}"
    elif float in types:
        reader, metavar = number, "X"
    elif int in types:
        reader, metavar = integer, "N"
    else:
        reader, metavar = str, "NAME"
    names = [flag(knob.name), *([f"-{knob.name.lower()}"] if len(knob.name) == 1 else [])]
    group.add_argument(
        *names,
        dest=knob.name,
        type=reader,
        metavar=metavar,
        default=argparse.SUPPRESS,
        help=f"{knob.metadata['doc']} ({_facts(knob, default)})".replace("%", "%%"),
    )


def _facts(knob: Field[Any], default: Any) -> str:
    facts = [] if default in (None, MISSING) else [f"default {plain(default)}"]
    if knob.metadata.get("above") is not None:
        facts.append(f"above {knob.metadata['above']:g}")
    if knob.metadata.get("within") is not None:
        low, high = knob.metadata["within"]
        if high < 10_000:  # a higher limit only keeps nonsense out; help need not mention it
            facts.append(f"{low:g} to {high:g}")
        elif low > 0:
            facts.append(f"at least {low:g}")
    return ", ".join(facts) or "no default"


def plain(value: Any) -> str:
    """Write a setting's value as people would give it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""sparring train METHOD: collect what the user said, and hand it to the loop."""

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from sparring import methods
from sparring.cli.flags import Choice, add_files, add_groups, choose, parse_fields
from sparring.cli.parser import Parser, flag
from sparring.core.errors import SettingError

ASKED = (
    "model", "data", "eval_data", "feedback", "negatives", "base", "pretrain", "fields", "where", "negatives_where",
    "settings",
)  # fmt: skip


def add_arguments(parser: Parser) -> None:
    """Add the flags of the method that the words name; without a method, only say which there are."""
    choice = choose(parser.words)
    parser.set_defaults(choice=choice, words=list(parser.words))
    if choice is None:
        parser.usage = "sparring train METHOD --model MODEL --data FILE --run FOLDER [flags]"
        parser.description = listing()
        return
    parser.prog = f"sparring train {choice.name}"
    feedback = " --feedback JUDGE" if choice.needs_feedback else ""
    parser.usage = f"{parser.prog} --model MODEL --data FILE --run FOLDER{feedback} [flags]"
    parser.description = f"{first_line(choice.name)}\n`sparring methods {choice.name}` explains it."
    add_files(parser, choice)
    add_groups(parser, choice)


def run(args: argparse.Namespace) -> None:
    """Train, or list the methods when none was named."""
    if args.choice is None:
        from rich.console import Console

        Console().out(listing(), highlight=False)
        return
    call = arguments(args)
    from sparring.loops.train import train

    command = shlex.join(["sparring", "train", *args.words])
    train(args.choice.name, run=call["run"], resume=call["resume"], command=command, **request(call, args.choice))


def request(call: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """What both training and a plan of it are asked for."""
    return {"policy": choice.policy} | {name: call[name] for name in ASKED}


def arguments(args: argparse.Namespace, *, command: str = "train") -> dict[str, Any]:
    """Collect the values of --config, and over them what the flags say; refuse what is missing."""
    choice: Choice = args.choice
    given = {k: v for k, v in vars(args).items() if k not in ("choice", "words", "config", "method")}
    named = {knob.name for group in choice.groups() for knob in group.knobs()}
    settings = dict(choice.config.get("settings", {})) | {k: given.pop(k) for k in named & given.keys()}
    call: dict[str, Any] = dict.fromkeys(("eval_data", "negatives", "base", "pretrain"))
    call |= {"fields": {}, "resume": False}
    call |= {"settings": settings, "feedback": (), "where": (), "negatives_where": ()}
    call |= {k: v for k, v in choice.config.items() if k != "settings"} | given
    if not isinstance(call["fields"], Mapping):
        call["fields"] = parse_fields(call["fields"])
    required = ("model", "data", "run") if command == "train" else ("model", "data")
    missing = [flag(name) for name in required if not call.get(name)]
    if missing:
        raise SettingError(f"sparring {command} {choice.name} needs {', '.join(missing)}")
    return call


def listing(command: str = "train") -> str:
    """Name the methods, with the first line of what each says about itself."""
    lines = [f"  {name:<16} {first_line(name)}" for name in methods.names()]
    return "\n".join(["The methods:", *lines, "", f"sparring {command} METHOD --help shows the flags of one."])


def first_line(name: str) -> str:
    """Say of a method what it says of itself first."""
    return methods.docstring(name).partition("\n")[0]

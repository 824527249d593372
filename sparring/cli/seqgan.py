"""sparring seqgan: the adversarial text generation of 2017, on its own oracle task or on a text."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from sparring.cli.flags import parse_fields, read_config
from sparring.cli.parser import Parser, add_knob
from sparring.core.errors import SettingError
from sparring.core.registry import knobs
from sparring.seqgan.settings import GROUPS

GIVEN = ("run", "data", "fields", "where")


def add_arguments(parser: Parser) -> None:
    """Add the files, and the knobs group by group."""
    parser.set_defaults(words=list(parser.words))
    parser.usage = "sparring seqgan --run FOLDER [--data FILE] [flags]"
    quiet = argparse.SUPPRESS
    parser.add_argument("--run", metavar="FOLDER", default=quiet, help="folder to write")
    parser.add_argument("--data", metavar="FILE", default=quiet, help="a text to learn; without it, a random oracle's")
    parser.add_argument("--fields", metavar="OURS=THEIRS,...", default=quiet, help="which column is the response")
    parser.add_argument("--where", metavar="FIELD=VALUE", action="append", default=quiet, help="keep only such rows")
    parser.add_argument("--config", metavar="FILE", help="take all settings from a run.yaml; flags go over it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER where it stopped")
    for title, cls in GROUPS.items():
        group = parser.add_argument_group(title, cls.__doc__)
        for knob in knobs(cls):
            add_knob(group, knob, knob.default)


def run(args: argparse.Namespace) -> None:
    """Play, from what the words say over what a --config says."""
    given = vars(args)
    config = _config(args)
    call: dict[str, Any] = {name: given.get(name, config.get(name)) for name in GIVEN}
    if not call["run"]:
        raise SettingError("sparring seqgan needs --run")
    if isinstance(call["fields"], str):
        call["fields"] = parse_fields(call["fields"])
    named = {knob.name for cls in GROUPS.values() for knob in knobs(cls)}
    from sparring.seqgan.train import train

    train(
        run=call["run"],
        data=call["data"],
        fields=call["fields"],
        where=call["where"] or (),
        resume=args.resume,
        settings={**config.get("settings", {}), **{n: v for n, v in given.items() if n in named}},
        command=shlex.join(["sparring", "seqgan", *args.words]),
    )


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Read the --config, or the run that is to be resumed; none is empty."""
    source = args.config
    if source is None and args.resume and (Path(getattr(args, "run", "")) / "run.yaml").is_file():
        source = args.run
    config = {} if source is None else read_config(source)
    if config.get("method", "seqgan") != "seqgan":
        raise SettingError(f"{source} is a run of {config['method']}; resume it with sparring train")
    return config

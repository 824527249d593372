"""sparring demo: the main job on the embedded world, in a few minutes and offline."""

import argparse
from pathlib import Path

from sparring.cli.compare import carry_out
from sparring.cli.parser import Parser, integer
from sparring.core.errors import SettingError


def add_arguments(parser: Parser) -> None:
    """Add where it goes and how much is done."""
    parser.add_argument("--out", default="demo", metavar="FOLDER", help="folder to write (default demo)")
    parser.add_argument("--demonstrations", type=integer, default=200, metavar="N", help="of the expert (default 200)")
    parser.add_argument(
        "--prompts", type=integer, default=300, metavar="N", help="held out to measure on (default 300)"
    )
    parser.add_argument(
        "--seeds", type=integer, default=3, metavar="N", help="how often everything is done (default 3)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no bars")
    parser.set_defaults(words=list(parser.words))


def run(args: argparse.Namespace) -> int:
    """Run the demo; show a table, the verdict, and where the page is. 2 when cells failed."""
    for name in ("demonstrations", "prompts", "seeds"):
        if getattr(args, name) < 1:
            raise SettingError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if Path(args.out).is_file():
        raise SettingError(f"--out {args.out} is a file; give a folder")
    from sparring.compare.embedded import embedded_plan
    from sparring.compare.run import prepare

    out = Path(args.out)
    plan = embedded_plan(
        out, rivals=False, demonstrations=args.demonstrations, prompts=args.prompts, seeds=args.seeds, quiet=args.quiet
    )
    return carry_out(prepare(plan, out), ["demo", *args.words], quiet=args.quiet)

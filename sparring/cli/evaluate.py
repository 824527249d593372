"""sparring evaluate RUN: figures with intervals on prompts that training has not seen."""

import argparse
from typing import Any

from sparring.cli.flags import parse_fields
from sparring.cli.parser import Parser, integer, number
from sparring.core.errors import SettingError


def add_arguments(parser: Parser) -> None:
    """Add the model, the prompts, and who judges the responses."""
    parser.add_argument("model", metavar="RUN", help="a run folder, a model folder or a hub id")
    parser.add_argument("--data", required=True, metavar="FILE", help="held-out prompts or demonstrations; required")
    parser.add_argument("--feedback", action="append", default=[], metavar="JUDGE", help="length, vader, "
        "FILE.py:FUNCTION, a reward model's run, or a sum; repeat for a figure each")  # fmt: skip
    parser.add_argument("--fields", default="", metavar="OURS=THEIRS,...", help="which columns hold what")
    parser.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="keep only such rows")
    parser.add_argument("--prompts", type=integer, default=500, metavar="N", help="prompts to take (default 500)")
    parser.add_argument("-k", "--K", type=integer, default=1, metavar="N", help="responses to each (default 1)")
    parser.add_argument("--max-tokens", type=integer, default=64, metavar="N", help="longest response (default 64)")
    parser.add_argument("--temperature", type=number, default=1.0, metavar="X", help="of the policy (default 1)")
    parser.add_argument("--seed", type=integer, default=0, metavar="N", help="the seed of all draws (default 0)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the figures, and leave them in eval.json of the run folder."""
    for name in ("prompts", "K", "max_tokens"):
        if getattr(args, name) < 1:
            raise SettingError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    from sparring.evaluate.suite import evaluate

    figures = evaluate(
        args.model,
        data=args.data,
        feedback=args.feedback,
        fields=parse_fields(args.fields) if args.fields else {},
        where=args.where,
        prompts=args.prompts,
        K=args.K,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    show(figures)


def show(figures: dict[str, Any]) -> None:
    """Print one line for each figure: its mean and, where there is one, its 95 % interval."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "mean", "95 % interval", box=None, pad_edge=False)
    for name, figure in figures.items():
        if isinstance(figure, dict):
            table.add_row(name, f"{figure['mean']:.4g}", f"{figure['low']:.4g} to {figure['high']:.4g}")
        else:
            table.add_row(name, f"{figure:.4g}" if isinstance(figure, float) else str(figure), "")
    Console(highlight=False).print(table)

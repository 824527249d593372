"""sparring chat MODEL: talk to a model, turn by turn, by its own chat template if it has one."""

import argparse
from typing import TYPE_CHECKING

from sparring.cli.parser import Parser
from sparring.cli.sample import add_sampling

if TYPE_CHECKING:
    from rich.console import Console


def add_arguments(parser: Parser) -> None:
    """Add the model, and how responses are drawn."""
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument("--system", metavar="TEXT", help="a system message that comes before everything")
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Read a line, answer it, and go on until an empty line or the end of the input."""
    from rich.console import Console

    from sparring.core.records import Message
    from sparring.rollout.answer import sample

    console = Console(highlight=False)
    console.print("An empty line ends the conversation.", style="dim")
    turns = [Message(role="system", content=args.system)] if args.system else []
    round_number = 0
    while line := _ask(console):
        turns.append(Message(role="user", content=line))
        [[text]] = sample(
            args.model,
            [tuple(turns)],
            K=1,
            max_tokens=args.max_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed + round_number,
        )
        console.print(text, markup=False)
        turns.append(Message(role="assistant", content=text))
        round_number += 1


def _ask(console: "Console") -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        return ""

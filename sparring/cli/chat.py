"""sparring chat MODEL: talk to a model, turn by turn, by its own chat template if it has one."""

import argparse
import sys
from collections.abc import Iterator

from sparring.cli.parser import Parser
from sparring.cli.sample import add_sampling, complain

HELP = "/new forgets what was said, /quit (or the end of the input) ends."


def add_arguments(parser: Parser) -> None:
    """Add the model, and how responses are drawn."""
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument("--system", metavar="TEXT", help="a system message that comes before everything")
    add_sampling(parser)


def run(args: argparse.Namespace) -> None:
    """Answer every line until /quit or the end of the input; the input may also come from a pipe."""
    from rich.console import Console

    from sparring.rollout.answer import Answerer, Conversation
    from sparring.rollout.sample import Sampling

    how = Sampling(max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    talk = Conversation(Answerer(args.model, say=complain), how, system=args.system, seed=args.seed)
    manner = "It answers by its chat template." if talk.is_chat else "No chat template: it goes on with your text."
    console = Console(highlight=False)
    if sys.stdin.isatty():
        console.print(f"{manner} {HELP}", style="dim")
    for line in _lines():
        if line == "/quit":
            return
        if line == "/new":
            talk.forget()
        elif line.startswith("/"):
            sys.stderr.write(f"there is no {line.split()[0]}: {HELP}\n")
        else:
            console.out(talk.reply(line), highlight=False)


def _lines() -> Iterator[str]:
    """Read lines that are not empty, with a sign to type at where somebody types."""
    sign = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(sign)
        except EOFError:
            return
        if line.strip():
            yield line.strip()

"""sparring sample MODEL: responses of a run, a model folder or a hub id to prompts."""

import argparse
import json
import sys
from pathlib import Path

from sparring.cli.parser import Parser, integer, number
from sparring.core.errors import DataError, SettingError


def add_arguments(parser: Parser) -> None:
    """Add the prompts, and how responses are drawn."""
    parser.add_argument("model", metavar="MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; repeat for more")
    parser.add_argument("--prompts", metavar="FILE", help="a text file with one prompt to a line; - reads from stdin")
    parser.add_argument("--json", action="store_true", help="print JSON lines with prompt and response")
    add_sampling(parser)
    parser.add_argument("-k", "--K", type=integer, default=1, metavar="N", help="responses to each prompt (default 1)")


def add_sampling(parser: Parser) -> None:
    """Add how tokens are drawn."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=integer, default=64, metavar="N", help="longest response (default 64)")
    group.add_argument(
        "--temperature", type=number, default=1.0, metavar="X", help="0 takes the likeliest token (default 1)"
    )
    group.add_argument(
        "--top-k", type=integer, default=0, metavar="N", help="only the N likeliest tokens (default 0: all)"
    )
    group.add_argument(
        "--top-p", type=number, default=1.0, metavar="X", help="only the likeliest share (default 1: all)"
    )
    group.add_argument("--seed", type=integer, default=0, metavar="N", help="the seed of all draws (default 0)")


def run(args: argparse.Namespace) -> None:
    """Print every prompt with its responses."""
    prompts = [*args.prompt, *(read_prompts(args.prompts) if args.prompts else [])]
    if not prompts:
        raise SettingError('sparring sample needs --prompt "TEXT" or --prompts FILE')
    if args.K < 1:
        raise SettingError(f"--K must be at least 1, got {args.K}")
    from sparring.rollout.answer import sample

    answers = sample(
        args.model,
        prompts,
        K=args.K,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        say=complain,
    )
    if args.json:
        for prompt, texts in zip(prompts, answers, strict=True):
            for text in texts:
                sys.stdout.write(json.dumps({"prompt": prompt, "response": text}, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for prompt, texts in zip(prompts, answers, strict=True):
        for text in texts:
            console.print(Text.assemble((prompt, "dim"), (text, "bold")), "")


def complain(text: str) -> None:
    """Say on standard error what happened to the prompts, so that responses can still be piped."""
    sys.stderr.write(f"note: {text}\n")


def read_prompts(source: str) -> list[str]:
    """Read one prompt to a line, from a file or from stdin; empty lines are left out."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{source} is not UTF-8 text ({e.reason} at byte {e.start}); save it as UTF-8") from e
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"{source} holds no prompt; write one to a line")
    return prompts

"""sparring plan METHOD: what `sparring train METHOD` would need with the same flags; nothing is trained or written."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparring.cli.flags import add_files, add_groups, choose
from sparring.cli.parser import Parser
from sparring.cli.train import arguments, first_line, listing, request

if TYPE_CHECKING:
    from rich.table import Table

    from sparring.loops.plan import Plan

OWN = ("from_config", "json")  # flags that train does not have


def add_arguments(parser: Parser) -> None:
    """Add the flags that training by the method has, and two of its own."""
    choice = choose(parser.words)
    parser.set_defaults(choice=choice, words=list(parser.words))
    if choice is None:
        parser.usage = "sparring plan METHOD --model MODEL --data FILE [flags of sparring train METHOD]"
        parser.description = listing("plan")
        return
    parser.prog = f"sparring plan {choice.name}"
    parser.usage = f"{parser.prog} --model MODEL --data FILE [flags of sparring train {choice.name}]"
    parser.description = f"{first_line(choice.name)}\nWhat it would need: memory, tokens, time. Nothing is trained."
    about = "read nothing of the model but config.json (which is enough) and the tokenizer; time is then the least"
    parser.add_argument("--from-config", action="store_true", help=f"{about} that its multiplications take")
    parser.add_argument("--json", action="store_true", help="print all figures, in bytes and seconds")
    add_files(parser, choice, writes=False)
    add_groups(parser, choice)


def run(args: argparse.Namespace) -> None:
    """Predict and print, or list the methods when none was named."""
    if args.choice is None:
        sys.stdout.write(listing("plan") + "\n")
        return
    given = argparse.Namespace(**{n: v for n, v in vars(args).items() if n not in OWN})
    call = arguments(given, command="plan")
    from sparring.loops.job import make_job
    from sparring.loops.plan import plan

    job = make_job(args.choice.name, run=call.get("run") or "plan", **request(call, args.choice))
    found = plan(job, from_config=args.from_config)
    if args.json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=1) + "\n")
    else:
        show(found)


def show(found: "Plan") -> None:
    """Print memory, tokens and time, each as a short table, and what else there is to say."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_memory(found))
    console.print(_tokens(found))
    if found.seconds:
        console.print(_times(found))
    for note in found.notes:
        console.print(f"note: {note}", style="dim", markup=False)


def _table(title: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False, min_width=len(title))
    table.add_column(no_wrap=True, min_width=34)
    table.add_column(justify="right", no_wrap=True, min_width=12)
    return table


def _memory(found: "Plan") -> "Table":
    worst = max(found.moments, key=lambda name: found.moments[name])
    table = _table(f"memory on {found.device} in {found.precision}")
    _add(table, found.standing)
    for name, size in found.moments.items():
        table.add_row(f"  during {name}{' (the most)' if name == worst else ''}", size_in_words(size))
    if found.program:
        table.add_row("program and libraries", size_in_words(found.program))
    table.add_row("at the peak", size_in_words(found.peak + found.program), style="bold")
    if found.available is not None:
        table.add_row("free here", size_in_words(found.available))
    return table


def _add(table: "Table", parts: Mapping[str, float]) -> None:
    for name, size in parts.items():
        table.add_row(name, size_in_words(size))


def _tokens(found: "Plan") -> "Table":
    work = found.work
    table = _table(
        f"{work.count:,} {work.clock}s{f', after {work.rest} in which the judge learns' if work.rest else ''}"
    )
    told = {
        "tokens trained on (there and back)": work.trained,
        "tokens read (there only)": work.read,
        "tokens sampled, at most": work.sampled,
        "tokens judged (there and back)": work.judged,
        "optimizer steps": work.updates,
    }
    for name, count in told.items():
        if count:
            table.add_row(name, f"{count:,}")
    return table


def _times(found: "Plan") -> "Table":
    table = _table("time at the least, by multiplications" if found.is_bound else "time, measured on a little of it")
    for name, seconds in found.seconds.items():
        table.add_row(name, time_in_words(seconds))
    table.add_row("in all", time_in_words(sum(found.seconds.values())), style="bold")
    return table


def size_in_words(size: float) -> str:
    """Bytes in megabytes, or in gigabytes from 10 of them on."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e10 else f"{size / 1e6:,.0f} MB"


def time_in_words(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"

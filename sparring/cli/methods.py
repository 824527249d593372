"""`sparring methods`: what there is, what each method needs and which knobs it has, read from the methods."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from sparring import methods
from sparring.core.metrics import METRICS
from sparring.core.registry import Recipe, Selection, knobs, needs, welcomes

HAVE = {
    "demonstration": "demonstrations",
    "preference": "preferences",
    "ranking": "rankings",
    "rating": "marks, good or bad",
    "prompt": "prompts, and something that scores responses",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("name", nargs="?", help="show one method: its equation, source, knobs and signals")
    parser.add_argument("--pages", metavar="FOLDER", help="write a page for each method into a folder, in Markdown")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    parser.add_argument(
        "--metrics", action="store_true", help="show what each figure of a run means, and its healthy band"
    )


def run(args: argparse.Namespace) -> int:
    """Show all methods, one method or the metrics; return the exit code. A wrong name raises SettingError."""
    if args.pages:
        from sparring.cli.pages import write_pages

        written = write_pages(Path(args.pages))
        Console().print(f"{len(written)} pages in {args.pages}")
        return 0
    if args.json:
        sys.stdout.write(json.dumps(_as_data(args), indent=2) + "\n")
        return 0
    console = Console()
    if args.metrics:
        console.print(_metrics())
    elif args.name:
        _page(console, describe(args.name))
    else:
        _overview(console)
        console.print("sparring methods NAME shows one of them; sparring methods --metrics explains a run's figures")
    return 0


def describe(name: str) -> dict[str, Any]:
    """Collect all that is known about a method, recipe or selection as plain values, ready for JSON."""
    found, doc = methods.find(name), methods.docstring(name)
    page: dict[str, Any] = {"name": name, "summary": doc.split("\n")[0], "doc": doc, "data": found.data}
    if isinstance(found, Recipe):
        return page | {
            "loop": "online",
            "policies": list(found.policies),
            "feedback": found.feedback or "any judge",
            "defaults": dict(found.defaults),
            "with_base": dict(found.with_base),
            "with_ratio": dict(found.with_ratio),
            "knobs": _judge_knobs() if found.feedback == "discriminator" else [],
        }
    if isinstance(found, Selection):
        return page | {
            "loop": "rounds",
            "policies": list(found.policies),
            "feedback": "any judge" if found.needs_feedback else "none",
            "defaults": dict(found.defaults),
            "knobs": [as_plain(field) for field in knobs(found.rule)],
        }
    equations = [found.loss] + ([found.credit] if found.data == "prompt" else [])
    relaxes = "relaxed_scores" in needs(found.loss)
    return (
        page
        | ({"data": "demonstration", "feedback": "discriminator"} if relaxes else {})
        | {
            "loop": "online" if found.data == "prompt" else "offline",
            "knobs": [as_plain(field) for field in knobs(found)] + (_relaxed_knobs() if relaxes else []),
            "needs": _once(n for equation in equations for n in needs(equation)),
            "uses_if_given": _once(n for equation in equations for n in welcomes(equation)),
        }
    )


def _as_data(args: argparse.Namespace) -> Any:
    if args.metrics:
        return {name: asdict(metric) for name, metric in METRICS.items()}
    return describe(args.name) if args.name else [describe(name) for name in methods.names()]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def as_plain(field: Field) -> dict[str, Any]:
    """One knob as plain values; `low` is exclusive when `above` is true."""
    above, within = field.metadata["above"], field.metadata["within"]
    low, high = within or (above, None)
    return {
        "name": field.name,
        "default": field.default,
        "meaning": field.metadata["doc"],
        "low": low,
        "high": high,
        "above": above is not None,
        "choices": list(field.metadata["choices"]),
    }


def _judge_knobs() -> list[dict[str, Any]]:
    from sparring.loops.settings import DiscriminatorSettings, JudgeSettings

    return [as_plain(field) for part in (JudgeSettings, DiscriminatorSettings) for field in knobs(part)]


def _relaxed_knobs() -> list[dict[str, Any]]:
    from sparring.loops.settings import RelaxedSettings

    return [as_plain(field) for field in knobs(RelaxedSettings)]


def in_words(knob: dict[str, Any]) -> str:
    """Say which values a knob takes."""
    if knob["choices"]:
        return " | ".join(knob["choices"])
    if knob["above"]:
        return f"above {knob['low']:g}"
    if knob["high"] is None:
        return "any"
    return f"{knob['low']:g} to {knob['high']:g}" if knob["high"] < 1e6 else f"{knob['low']:g} or more"


def _name(title: str) -> Column:
    """A column of names, which are never broken: people copy them."""
    return Column(title, no_wrap=True)


def _overview(console: Console) -> None:
    """Show each method under what its user needs to have."""
    pages = [describe(name) for name in methods.names()]
    width = max(len(page["name"]) for page in pages)
    for kind, title in HAVE.items():
        console.print(Text(f"You have {title}", style="bold"))
        table = Table.grid(Column(width=width + 2, no_wrap=True, style="cyan"), Column(), padding=(0, 1))
        for page in pages:
            if page["data"] == kind:
                table.add_row(f"  {page['name']}", Text(page["summary"]))
        console.print(table)


def _page(console: Console, page: dict[str, Any]) -> None:
    _prose(console, page["doc"])
    console.print(Text(f"Learns from: {page['data']}s      Loop: {page['loop']}"))
    if "policies" in page:
        console.print(Text(f"Policy: {', '.join(page['policies'])} (the first is the default)"))
        console.print(Text(f"Feedback: {page['feedback'] or 'what --feedback names'}"))
        for policy, own in page["defaults"].items():
            console.print(Text(f"Defaults with {policy}: {', '.join(f'{n} {v}' for n, v in own.items())}"))
    for title, key in (("Signals it needs", "needs"), ("Signals it uses when the data has them", "uses_if_given")):
        if page.get(key):
            console.print(_signals(title, page[key]))
    if page["knobs"]:
        is_judges = page.get("feedback") == "discriminator" and "policies" in page
        title = "Knobs of the discriminator" if is_judges else "Knobs"
        table = Table(_name("knob"), "default", "range", "what it does", title=title, title_justify="left")
        for knob in page["knobs"]:
            table.add_row(knob["name"], str(knob["default"]), in_words(knob), knob["meaning"])
        console.print(table)


def _prose(console: Console, doc: str) -> None:
    """Print paragraphs as wide as the terminal allows, and equations and tables as they were written."""
    for block in doc.split("\n\n"):
        if block.startswith(" "):
            console.print(Text(block), soft_wrap=True, highlight=False)
        else:
            console.print(Text(" ".join(block.split())), highlight=False)
        console.print()


def _signals(title: str, names: list[str]) -> Table:
    from sparring.core.glossary import SIGNALS

    table = Table(_name("signal"), "axes", "unit", "meaning", title=title, title_justify="left")
    for name in names:
        table.add_row(name, SIGNALS[name].axes, SIGNALS[name].unit, SIGNALS[name].meaning)
    return table


def _metrics() -> Table:
    table = Table(_name("metric"), "unit", "meaning", "healthy", title="Metrics of a run", title_justify="left")
    for name, metric in METRICS.items():
        table.add_row(name, metric.unit, Text(metric.meaning), Text(metric.healthy))
    return table

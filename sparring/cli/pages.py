"""A page in Markdown for each method, made from what the method says of itself, and an index of them."""

from pathlib import Path
from typing import Any

from sparring import methods
from sparring.cli.methods import describe, in_words
from sparring.core.glossary import SIGNALS
from sparring.core.metrics import METRICS, of_loop
from sparring.models.checkpoint import write_text


def write_pages(folder: Path) -> list[Path]:
    """Write NAME.md for every method and README.md, the index; returns what was written."""
    pages = {"README.md": index()} | {f"{name}.md": page(name) for name in methods.names()}
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def index() -> str:
    """List every method in a table."""
    rows = []
    for name in methods.names():
        about = describe(name)
        rows.append([f"[{name}]({name}.md)", f"{about['data']}s", about["loop"], about["summary"]])
    note = "Made by `make docs` from what each method says of itself; the equation is the code's own docstring."
    return f"# Methods\n\n{note}\n\n" + _table(["method", "learns from", "loop", "what it does"], rows)


def page(name: str) -> str:
    """Write the page of one method: what it is, how to run it, its knobs, signals and figures."""
    about = describe(name)
    summary, _, rest = about["doc"].partition("\n")
    parts = [f"# {name}", summary, rest.strip("\n"), "## Use it", _use(about), "## Knobs", _knobs(about)]
    for title, key in (("Signals it needs", "needs"), ("Signals it uses when the data has them", "uses_if_given")):
        if about.get(key):
            rows = [[f"`{n}`", SIGNALS[n].axes, SIGNALS[n].unit, SIGNALS[n].meaning] for n in about[key]]
            parts += [f"## {title}", _table(["signal", "axes", "unit", "meaning"], rows)]
    shown = of_loop(about["loop"], has_discriminator=about.get("feedback") == "discriminator")
    figures = [[f"`{n}`", METRICS[n].unit, METRICS[n].meaning, METRICS[n].healthy] for n in shown]
    parts += ["## Figures of a run", _table(["figure", "unit", "meaning", "healthy"], figures)]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _use(about: dict[str, Any]) -> str:
    judge = ""
    if about["loop"] != "offline" and "policies" not in about:
        judge = f" --feedback {about.get('feedback', 'length')}"
    elif about["loop"] != "offline" and about["feedback"] == "any judge":
        judge = " --feedback length"
    lines = [f"    sparring train {about['name']} --model MODEL --data {about['data']}s.jsonl --run RUN{judge}"]
    facts = [f"Learns from {about['data']}s; loop: {about['loop']}."]
    if "policies" in about:
        facts.append(f"Trains the policy by {', '.join(about['policies'])} (`--policy`; the first is the default).")
        facts.append(f"Feedback: {about['feedback']}.")
        own = [f"{k} {v}" for k, v in about["defaults"].items() if not isinstance(v, dict)]
        own += [f"with {p}: " + ", ".join(f"{k} {v}" for k, v in d.items())
                for p, d in about["defaults"].items() if isinstance(d, dict)]  # fmt: skip
        facts += [f"Its own defaults: {'; '.join(own)}."] if own else []
    return "\n".join(lines) + "\n\n" + " ".join(facts)


def _knobs(about: dict[str, Any]) -> str:
    if not about["knobs"]:
        return "None of its own."
    rows = [
        [f"`--{k['name'].replace('_', '-')}`", str(k["default"]), in_words(k), k["meaning"]] for k in about["knobs"]
    ]
    return _table(["knob", "default", "range", "what it does"], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

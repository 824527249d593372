"""A page in Markdown for each method, made from what the method says of itself, and an index of them."""

from pathlib import Path
from typing import Any

from sparring import methods
from sparring.cli.methods import as_plain, describe, in_words
from sparring.core.glossary import SIGNALS
from sparring.core.metrics import METRICS, of_loop
from sparring.core.registry import knobs
from sparring.core.seqgan_metrics import SEQGAN
from sparring.models.checkpoint import write_text
from sparring.seqgan import settings as seqgan


def write_pages(folder: Path) -> list[Path]:
    """Write NAME.md for every method, seqgan.md, and README.md, the index; returns what was written."""
    pages = {"README.md": index(), "seqgan.md": seqgan_page()} | {f"{n}.md": page(n) for n in methods.names()}
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
    older = "To compare with, and no method of this list: [SeqGAN](seqgan.md) as it was in 2017.\n"
    return f"# Methods\n\n{note}\n\n" + _table(["method", "learns from", "loop", "what it does"], rows) + f"\n{older}"


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
    return _join([*parts, "## Figures of a run", _figures(shown)])


def seqgan_page() -> str:
    """Write the page of SeqGAN, which has a command of its own."""
    summary, _, rest = (seqgan.__doc__ or "").partition("\n")
    use = """\
    sparring seqgan --run RUN                             # the oracle task
    sparring seqgan --run RUN --data sentences.jsonl      # a text
    sparring seqgan --run CONTROL --credit constant       # the control that belongs beside

Both networks and the words are in `RUN/model`; `sparring.seqgan.results.write(RUN, rows, seed)` lets the generator
write more. What we saw: [results](../results/seqgan.md)."""
    parts = ["# seqgan", summary, rest.strip("\n"), "## Use it", use]
    for name, cls in seqgan.GROUPS.items():
        own = {"knobs": [as_plain(field) for field in knobs(cls)]}
        parts += [f"## Knobs: {name}", cls.__doc__ or "", _knobs(own)]
    return _join([*parts, "## Figures of a run", _figures(["round", "loss", "reward", "entropy", *SEQGAN])])


def _figures(names: list[str]) -> str:
    rows = [[f"`{n}`", METRICS[n].unit, METRICS[n].meaning, METRICS[n].healthy] for n in names]
    return _table(["figure", "unit", "meaning", "healthy"], rows)


def _join(parts: list[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _use(about: dict[str, Any]) -> str:
    judge = ""
    if about["loop"] != "offline" and "policies" not in about:
        judge = f" --feedback {about.get('feedback', 'length')}"
    elif about["loop"] != "offline" and about["feedback"] == "any judge":
        judge = " --feedback length"
    if any("pretrain_weight" in d for d in about.get("defaults", {}).values() if isinstance(d, dict)):
        judge += " --pretrain texts.jsonl"
    data = f"--data {about['data']}s.jsonl --run RUN{judge}"
    lines = [f"    sparring train {about['name']} --model MODEL {data}"]
    if about.get("with_base"):
        lines.append(f"    sparring train {about['name']} --model FINE_TUNED --base MODEL {data}")
    facts = [f"Learns from {about['data']}s; loop: {about['loop']}."]
    if "policies" in about:
        facts.append(f"Trains the policy by {', '.join(about['policies'])} (`--policy`; the first is the default).")
        facts.append(f"Feedback: {about['feedback']}.")
        own = [f"{k} {v}" for k, v in about["defaults"].items() if not isinstance(v, dict)]
        based = {"--base": about.get("with_base"), "--base and --judge-reads ratio": about.get("with_ratio")}
        special = {**about["defaults"], **based}.items()
        own += [f"with {p}: " + ", ".join(f"{k} {v}" for k, v in d.items())
                for p, d in special if d and isinstance(d, dict)]  # fmt: skip
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

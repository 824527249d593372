"""Positive film reviews from 500 demonstrations: RLGAF against SFT, on real text and a small real model.

The experiment of the RLGAF paper (arXiv:2305.06176, section 3.2.2) at the scale of a laptop. Real are 500
positive reviews; the prompt is a review's first words. Two readings of the paper: (i) fakes are only the
generator's own responses; (ii) 500 negative reviews are fakes as well. Every cell is a normal run folder, a
finished cell is skipped and a killed one resumes, so the same command continues until the table is there:

    python examples/imdb_sentiment.py --model MODEL --data imdb.jsonl.gz --gold SCORER.json.gz --out runs/imdb

The gold scorer (a linear bag of words trained on 25,000 labelled reviews) judges only at the end.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from judges import sentiment

TOKENS = 40
PROMPTS = 500
DEMONSTRATIONS = 500
SFT = {"epochs": 1.0, "batch": 16, "lr": 3e-4, "eval_every": 5, "max_response": TOKENS, "overflow": "cut"}
ADVERSARIAL = {"max_tokens": TOKENS, "overflow": "cut", "held_out": 0.02}
CELLS = {
    "RLGAF-PPO (i)": ("ppo", False),
    "RLGAF-REINFORCE (i)": ("reinforce", False),
    "RLGAF-PPO (ii)": ("ppo", True),
    "RLGAF-REINFORCE (ii)": ("reinforce", True),
}
FIGURES = {
    "gold": "score gold",
    "VADER": "score vader",
    "perplexity": "perplexity",
    "distinct-2": "distinct_2_words",
    "repeated 4-grams": "repeated_4grams_words",
    "words": "words",
    "tokens": "tokens",
}


def gold(response: str) -> float:
    """Score how favourable a review is."""
    return sentiment(response)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "gold", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, each on one thread")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--table", help="where to write the table (default: OUT/imdb.md)")
    args = parser.parse_args()
    os.environ["SPARRING_GOLD"] = args.gold
    if args.cell:
        cell(args, *args.cell.split("/"))
        return
    every = [f"{seed}/{name}" for seed in range(args.seeds) for name in ("SFT", *CELLS)]
    # SFT first: the others of its seed start from it.
    for group in ([c for c in every if c.endswith("SFT")], [c for c in every if not c.endswith("SFT")]):
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(spawn, group))
    table(args)


def spawn(name: str) -> None:
    """Run one cell in a process of its own, on one thread: two threads that share cores wait for each other."""
    command = [sys.executable, *sys.argv, "--cell", name]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def cell(args: argparse.Namespace, seed: str, name: str) -> None:
    """Train and evaluate one method with one seed, unless that is done."""
    import sparring

    home = Path(args.out) / f"seed-{seed}"
    data = demonstrations(args.data, home, int(seed))
    run = home / slug(name)
    if not (run / "model").exists():
        if name == "SFT":
            settings = SFT | {"seed": int(seed)}
            sparring.train("sft", model=args.model, data=str(data["pos"]), run=run, resume=True, settings=settings)
        else:
            policy, shows_negatives = CELLS[name]
            sparring.train(
                "rlgaf", model=str(home / "sft"), data=str(data["pos"]), run=run, policy=policy, resume=True,
                negatives=str(data["neg"]) if shows_negatives else None, settings=ADVERSARIAL | {"seed": int(seed)},
            )  # fmt: skip
    if not (place := home / f"{slug(name)}.json").exists():
        place.write_text(json.dumps(measure(args, str(run), int(seed))))
    if name.startswith("RLGAF-PPO"):
        reading = "ii" if CELLS[name][1] else "i"
        if not (place := home / f"best-of-4-{reading}.json").exists():
            place.write_text(json.dumps(measure(args, str(home / "sft"), int(seed), judge=str(run / "judge"))))


def measure(args: argparse.Namespace, model: str, seed: int, judge: str | None = None) -> dict[str, Any]:
    """Measure on held-out prompts; perplexity and KL are taken under the untouched base."""
    import sparring

    return sparring.evaluate(
        model, data=args.data, where=["split=test"], prompts=PROMPTS, max_tokens=TOKENS, max_response=TOKENS,
        base=args.model, seed=seed, feedback=[gold, "vader"], judge=judge, best_of=4 if judge else 1,
    )  # fmt: skip


def demonstrations(source: str, home: Path, seed: int) -> dict[str, Path]:
    """Choose 500 positive and 500 negative training reviews by the seed."""
    import random

    out = {label: home / f"{label}.jsonl" for label in ("pos", "neg")}
    if all(p.exists() for p in out.values()):
        return out
    with gzip.open(source, "rt") as file:
        rows = [r for r in map(json.loads, file) if r["split"] == "train"]
    home.mkdir(parents=True, exist_ok=True)
    for label, path in out.items():
        chosen = random.Random(f"{seed}/{label}").sample([r for r in rows if r["label"] == label], DEMONSTRATIONS)
        part = path.with_suffix(".part")
        texts = [{"prompt": r["prompt"], "response": r["completion"]} for r in chosen]
        part.write_text("".join(json.dumps(text) + "\n" for text in texts))
        part.rename(path)
    return out


def slug(name: str) -> str:
    """The folder of a cell."""
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-")


def table(args: argparse.Namespace) -> None:
    """Write means over seeds with 95 % t intervals, and differences from SFT paired by seed."""
    from sparring.evaluation.intervals import over_seeds

    out = Path(args.out)
    seeds = range(args.seeds)
    base = out / "base.json"
    if not base.exists():
        base.write_text(json.dumps(measure(args, args.model, 0)))
    found = {"SFT": [load(out / f"seed-{s}/sft.json") for s in seeds]}
    for reading in ("i", "ii"):
        found[f"SFT + best of 4 ({reading})"] = [load(out / f"seed-{s}/best-of-4-{reading}.json") for s in seeds]
    found |= {name: [load(out / f"seed-{s}/{slug(name)}.json") for s in seeds] for name in CELLS}
    lines = ["| method | " + " | ".join(FIGURES) + " | gold above SFT | KL |", "|---" * (len(FIGURES) + 3) + "|"]
    first = load(base)
    lines.append("| base | " + " | ".join(f"{first[key]['mean']:.3f}" for key in FIGURES.values()) + " | | |")
    for name, cells in found.items():
        row = [spread(over_seeds([c[key]["mean"] for c in cells])) for key in FIGURES.values()]
        gain = [c["score gold"]["mean"] - s["score gold"]["mean"] for c, s in zip(cells, found["SFT"], strict=True)]
        kl = spread(over_seeds([c["kl"]["mean"] for c in cells])) if "kl" in cells[0] else ""
        row += ["" if name == "SFT" else spread(over_seeds(gain)), kl]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += ["", "| correlation of the judge's scores with | length | fluency |", "|---|---|---|"]
    for name in CELLS:
        cues = [last_cues(out / f"seed-{s}" / slug(name)) for s in seeds]
        lines.append(f"| {name} | " + " | ".join(spread(over_seeds([c[i] for c in cues])) for i in (0, 1)) + " |")
    text = "\n".join(lines) + "\n"
    place = Path(args.table or out / "imdb.md")
    place.write_text(text)
    sys.stdout.write(text)


def last_cues(run: Path) -> tuple[float, float]:
    """What the judge looked at in the last ten rounds: length, and what the reference finds likely."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-10:]
    length, fluency = ([r[name] for r in rows] for name in ("cue_length", "cue_fluency"))
    return sum(length) / len(rows), sum(fluency) / len(rows)


def load(path: Path) -> dict[str, Any]:
    """Read the figures of one cell."""
    return json.loads(path.read_text())


def spread(estimate: Any) -> str:
    """Write a mean with its interval, if there is one."""
    if estimate.low is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()

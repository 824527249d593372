"""SeqGAN beside its control: the discriminator's reward against a constant one, on the oracle task or on a text.

Upstream's issue 21 says that a constant reward trains about as fast. Every arm and seed is a normal run folder; a
finished one is skipped and a killed one resumes, so the same command continues until the table is there:

    python examples/seqgan_control.py --out runs/seqgan
    python examples/seqgan_control.py --out runs/seqgan-text --data captions.jsonl.gz --fields response=en

The scale is a laptop's, half a minute on one core; `--scale paper` takes the authors' (a day of one core for each run).
"""

import argparse
import json
from pathlib import Path

import torch

from sparring.evaluation.intervals import over_seeds
from sparring.seqgan.train import train

SCALES = {
    "paper": {},
    "laptop": {
        "vocabulary": 100, "length": 8, "samples": 800, "filters": 0.05, "judge_embedding": 16, "judge_lr": 1e-3,
        "mle_epochs": 20, "judge_warmup": 8, "rounds": 30, "judge_sets": 1, "judge_epochs": 1, "rollouts": 4,
        "held_out": 0.5,
    },
}  # fmt: skip
ARMS = ("discriminator", "constant")
FIGURES = ("nll_oracle", "nll_test", "entropy")


def main() -> None:
    """Run what is missing, then print the table and the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--data", help="a text; without it, the oracle task")
    parser.add_argument("--fields", help="which column is the response, such as response=en")
    parser.add_argument("--where", action="append", default=[], help="keep only such rows")
    parser.add_argument("--scale", choices=sorted(SCALES), default="laptop")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="another setting")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {**SCALES[args.scale], **{n: float(v) for n, v in (s.split("=") for s in args.set)}}
    settings = {n: int(v) if isinstance(v, float) and v == int(v) else v for n, v in settings.items()}
    found = {arm: [] for arm in ARMS}
    for seed in range(args.seeds):
        for arm in ARMS:
            run = train(
                run=args.out / f"{arm}-{seed}", data=args.data, where=args.where, resume=True,
                fields=dict([args.fields.split("=")]) if args.fields else None,
                settings=settings | {"seed": seed, "credit": arm},
            )  # fmt: skip
            found[arm].append([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
    show(found)


def show(found: dict[str, list[list[dict]]]) -> None:
    """Print a table of the ends of the stages, and the curve of the game."""
    known = [f for f in FIGURES if any(f in row for row in found[ARMS[0]][0])]
    print("| after | " + " | ".join(known) + " |\n|---|" + "---|" * len(known))
    print(f"| maximum likelihood | {cells([last(rows, 'mle') for rows in found[ARMS[0]]], known)} |")
    for arm in ARMS:
        print(f"| the game, {arm} | {cells([last(rows, 'game') for rows in found[arm]], known)} |")
        moved = [{f: last(rows, "game")[f] - last(rows, "mle")[f] for f in known} for rows in found[arm]]
        print(f"| its change | {cells(moved, known)} |")
    print("\n| round of the game | " + " | ".join(f"{f}, {arm}" for f in known for arm in ARMS) + " |")
    print("|---|" + "---|" * (len(known) * len(ARMS)))
    games = {arm: [measured(rows) for rows in found[arm]] for arm in ARMS}
    for number in games[ARMS[0]][0]:
        means = [sum(g[number][f] for g in games[arm]) / len(games[arm]) for f in known for arm in ARMS]
        print(f"| {number} | " + " | ".join(f"{m:.3f}" for m in means) + " |")
    print("\nD's accuracy at the end: " + ", ".join(f"{last(r, 'game')['accuracy_d']:.3f}" for r in found[ARMS[0]]))


def last(rows: list[dict], stage: str) -> dict:
    """The last row of a stage."""
    return [row for row in rows if row["stage"] == stage][-1]


def measured(rows: list[dict]) -> dict[int, dict]:
    """The rows of the game that hold a measurement, by their number within it."""
    game = [row for row in rows if row["stage"] == "game"]
    return {n: row for n, row in enumerate(game, start=1) if "nll_test" in row}


def cells(rows: list[dict], names: list[str]) -> str:
    """Means over seeds with their 95 % interval."""
    made = [over_seeds([row[name] for row in rows]) for name in names]
    return " | ".join(f"{e.mean:.3f}" + (f" [{e.low:.3f}, {e.high:.3f}]" if len(rows) > 1 else "") for e in made)


if __name__ == "__main__":
    main()

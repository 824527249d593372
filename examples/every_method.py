"""Every method on real text with a small real model: does it learn what its data says, and what does that cost?

Two tasks. `sentiment`: a language model of film reviews answers 160 prompts four times, a bag-of-words scorer of
sentiment ranks the answers, and each method learns from these rankings (or pairs, marks, best answers made of them),
or from the scorer itself. `dialogue`: people's choices between two answers (hh-rlhf), after fine-tuning on the chosen
ones. On held-out prompts: how often the log-ratio to the start ranks as the data does (1/2 for the start itself), the
scorer's mean above the start's, KL from the start, time and memory. Every cell is a normal run folder, a finished
cell is skipped and a killed one goes on, so the same command continues until the table is there:

    python examples/every_method.py --model MODEL --data DATA_FOLDER --out runs/methods --task sentiment
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imdb_sentiment import gold, load, spread

K, TOKENS = 4, 32
TRAIN, HELD_OUT = 160, 120
PAIRS = 3000  # of the dialogue task


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method with its settings; `learns` names the file it reads, or its source of scores."""

    method: str
    learns: str = "rankings"
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name or self.method

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9_]+", "-", self.label).strip("-")


FROM_A_FILE = [
    Cell(method="sft", learns="rankings", name="sft (best of 4)"),
    *[Cell(method=m) for m in ("dpo", "ipo", "rso", "simpo", "orpo", "cpl", "cpl_kl")],
    Cell(method="kto", learns="marks"),
    *[Cell(method=m) for m in ("listwise_dpo", "rrhf", "pro", "slic")],
    *[Cell(method=m) for m in ("reward_model", "ranking_reward_model")],
    *[Cell(method=m, name=f"{m} (mean)", settings={"reads": "mean"}) for m in ("reward_model", "ranking_reward_model")],
]
ROUNDS = {"rounds": 25, "batch": 8}
FROM_SCORES = [Cell(method=m, learns="scores", settings=ROUNDS) for m in ("reinforce", "rloo", "grpo", "ppo")]
SELECTING = [
    Cell(method="best_of_n", learns="scores", settings={"K": 4, "batch": 16}),
    Cell(method="rest", learns="scores", settings={"K": 8, "rounds": 2, "thresholds": "0.5,0.7", "batch": 16}),
    Cell(method="raft", learns="scores", settings={"rounds": 2, "K": 4, "batch": 16}),
    Cell(method="sample_rank", learns="scores", settings={"K": 8, "accepted": 4, "batch": 16}),
]
OF_PAIRS = [
    Cell(method=m, learns="pairs") for m in ("sft", "dpo", "ipo", "rso", "simpo", "orpo", "cpl", "slic", "reward_model")
]
TASKS = {"sentiment": FROM_A_FILE + FROM_SCORES + SELECTING, "dialogue": OF_PAIRS}
LIMITS = {"sentiment": {"max_response": TOKENS}, "dialogue": {"max_response": 48, "max_prompt": 96}}
FILE = {"epochs": 2.0, "batch": 16, "eval_every": 20, "keep_best": "last", "held_out": 0.0, "overflow": "cut"}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--task", choices=tuple(TASKS), default="sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, each on one thread")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["SPARRING_GOLD"] = str(Path(args.data) / "imdb_bow_sentiment.json.gz")
    if args.cell:
        seed, label = args.cell.split("/", 1)
        run_cell(args, int(seed), next(c for c in TASKS[args.task] if c.label == label))
        return
    {"sentiment": make_rankings, "dialogue": make_pairs}[args.task](args)
    every = [f"{seed}/{cell.label}" for cell in TASKS[args.task] for seed in range(args.seeds)]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(spawn, every))
    table(args)


def spawn(name: str) -> None:
    """Run one cell in a process of its own, on one thread: two threads that share cores wait for each other."""
    command = [sys.executable, *sys.argv, "--cell", name]
    subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})


def run_cell(args: argparse.Namespace, seed: int, cell: Cell) -> None:
    """Train and measure one method with one seed, unless that is done."""
    import sparring

    home = Path(args.out) / args.task
    run = home / f"seed-{seed}" / cell.folder
    if (place := run.with_suffix(".json")).exists():
        return
    start = args.model if args.task == "sentiment" else str(home / "start")
    if cell.learns == "scores":
        limits = {"max_tokens": TOKENS, "held_out": 0.0}
        more: dict[str, Any] = {"feedback": [gold], "settings": limits | cell.settings | {"seed": seed}}
        data = home / "prompts.jsonl"
    else:
        once = {"epochs": 1.0} if args.task == "dialogue" else {}
        more = {"settings": FILE | LIMITS[args.task] | once | cell.settings | {"seed": seed}}
        data = home / f"{cell.learns}.jsonl"
    sparring.train(cell.method, model=start, data=str(data), run=run, resume=True, quiet=True, **more)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scores = [] if "reward_model" in cell.method or args.task == "dialogue" else [gold]
    found = sparring.evaluate(
        str(run),
        data=str(home / "held_out.jsonl"),
        max_tokens=TOKENS,
        feedback=scores,
        base=start,
        seed=seed,
        **LIMITS[args.task],
    )
    seconds = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    place.write_text(json.dumps(found | {"seconds": {"mean": seconds}, "memory": {"mean": memory}}))


def make_rankings(args: argparse.Namespace) -> None:
    """Let the model answer prompts of the reviews, rank the answers by the scorer, and write every form of the data."""
    import sparring
    from sparring.data.read import read_rows

    home = Path(args.out) / args.task
    if (home / "held_out.jsonl").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    reviews = str(Path(args.data) / "imdb.jsonl.gz")
    parts = {"rankings": ("train", TRAIN), "held_out": ("test", HELD_OUT)}
    for name, (split, count) in parts.items():
        prompts = list(dict.fromkeys(r.values["prompt"] for r in read_rows(reviews, where=[f"split={split}"])))[:count]
        answers = sparring.sample(args.model, prompts, K=K, max_tokens=TOKENS, seed=len(prompts))
        rows = [
            {"prompt": p, "responses": few, "scores": [gold(y) for y in few]}
            for p, y in zip(prompts, answers, strict=True)
            if len(few := list(dict.fromkeys(t for t in y if t.strip()))) > 1
        ]
        if name == "rankings":
            write(home / "prompts.jsonl", [{"prompt": r["prompt"]} for r in rows])
            ends = [
                (r, max(range(len(r["scores"])), key=lambda i: s * r["scores"][i]), s > 0)
                for r in rows
                for s in (1, -1)
            ]
            write(
                home / "marks.jsonl",
                [{"prompt": r["prompt"], "response": r["responses"][i], "rating": int(good)} for r, i, good in ends],
            )
        write(home / f"{name}.jsonl", rows)


def make_pairs(args: argparse.Namespace) -> None:
    """Take people's choices between two answers, and fine-tune the model on the chosen ones as everybody's start."""
    import sparring
    from sparring.data.read import read_rows

    home = Path(args.out) / args.task
    if not (home / "held_out.jsonl").exists():
        home.mkdir(parents=True, exist_ok=True)
        source = str(Path(args.data) / "hh_rlhf.jsonl.gz")
        for name, split, count in (("pairs", "train", PAIRS), ("held_out", "test", PAIRS)):
            rows = [r.values for r in read_rows(source, where=[f"split={split}"])][:count]
            write(home / f"{name}.jsonl", [{n: r[n] for n in ("prompt", "chosen", "rejected")} for r in rows])
    settings = FILE | {"epochs": 1.0} | LIMITS["dialogue"]
    sparring.train(
        "sft", model=args.model, data=str(home / "pairs.jsonl"), run=home / "start", resume=True, settings=settings
    )


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part.rename(path)


def table(args: argparse.Namespace) -> None:
    """Write means over seeds with 95 % t intervals."""
    import sparring
    from sparring.evaluation.intervals import over_seeds

    home = Path(args.out) / args.task
    is_scored = args.task == "sentiment"
    if is_scored and not (home / "start.json").exists():
        found = sparring.evaluate(
            args.model,
            data=str(home / "held_out.jsonl"),
            max_tokens=TOKENS,
            max_response=TOKENS,
            feedback=[gold],
            seed=0,
        )
        (home / "start.json").write_text(json.dumps(found))
    columns = {
        "accuracy": "reward_accuracy",
        "gold above the start": "score gold",
        "KL": "kl",
        "seconds": "seconds",
        "MB": "memory",
    }
    if not is_scored:
        del columns["gold above the start"]
    lines = ["| method | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for cell in TASKS[args.task]:
        cells = [load(p) for s in range(args.seeds) if (p := home / f"seed-{s}" / f"{cell.folder}.json").exists()]
        row = []
        for title, key in columns.items():
            values = [c[key]["mean"] for c in cells if key in c]
            if title.startswith("gold") and values:
                values = [v - load(home / "start.json")[key]["mean"] for v in values]
            plain = title in ("seconds", "MB") and values
            row.append(
                f"{sum(values) / len(values):.0f}" if plain else spread(over_seeds(values)) if len(values) > 1 else ""
            )
        lines.append(f"| {cell.label} | {len(cells)} | " + " | ".join(row) + " |")
    text = "\n".join(lines) + "\n"
    (home / "table.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

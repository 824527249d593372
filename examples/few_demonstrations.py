"""Few demonstrations, nothing else: which method makes most of them?

The embedded world, whose gold reward is known and never trained on. A tiny language model learns from 50, 200 or 1000
demonstrations: supervised fine-tuning (SFT) first, and from there every other method, with the same demonstrations and
the same number of samples. Every cell is a normal run folder, a finished cell is skipped and a killed one goes on, so
the same command continues until the table is there:

    python examples/few_demonstrations.py --out runs/few
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from imdb_sentiment import spawn, spread

SIZES = (200, 50, 1000)
TOKENS = 64
SFT = {
    "epochs": 10, "lr": 5e-4, "batch": 16, "eval_every": 50, "save_every": 500, "held_out": 0.1, "precision": "fp32",
}  # fmt: skip
ONLINE = {"rounds": 40, "batch": 32, "K": 8, "max_tokens": TOKENS, "lr": 1e-3, "kl": 0.1, "held_out": 0.0,
          "save_every": 20, "precision": "fp32"}  # fmt: skip
SPIN = {"rounds": 3, "epochs": 2.0, "batch": 16, "lr": 3e-4, "max_tokens": TOKENS, "held_out": 0.0, "precision": "fp32"}
DISCRIMINATOR = {"judge_lr": 5e-4, "judge_steps": 2}
RATIO = {"judge_reads": "ratio"}
RIVALS = {
    "SPIN": {"method": "spin", "settings": SPIN},
    "RLSR": {"method": "rlsr", "policy": "rloo", "settings": ONLINE},
    "RLGAF-RLOO": {"method": "rlgaf", "policy": "rloo", "feedback": ["bag_of_words"], "settings": ONLINE},
    "RLGAF-PPO": {"method": "rlgaf", "policy": "ppo", "feedback": ["bag_of_words"], "settings": ONLINE},
    "RLGAF-REINFORCE": {"method": "rlgaf", "policy": "reinforce", "feedback": ["bag_of_words"], "settings": ONLINE},
    "RLGAF-RLOO, discriminator": {"method": "rlgaf", "policy": "rloo", "settings": ONLINE | DISCRIMINATOR},
    "RLGAF-RLOO, ratio": {"method": "rlgaf", "policy": "rloo", "settings": ONLINE | RATIO, "has_base": True},
    "RLOO, frozen judge": {"method": "rloo", "settings": ONLINE},
}
BEST = "SFT + best of 4"
FIGURES = {"gold": "score gold", "KL from SFT": "kl", "distinct-2": "distinct_2_words", "words": "words"}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="seeds at a time, each on one thread")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        size, seed = map(int, args.cell.split("/"))
        one(Path(args.out), size, seed)
        return
    every = [f"{size}/{seed}" for seed in range(args.seeds) for size in SIZES]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(spawn, every))
    table(args)


def one(out: Path, size: int, seed: int) -> None:
    """Train and measure every method on the same demonstrations."""
    import sparring
    from sparring.compare.world import Base, base_model, write_demonstrations, write_prompts

    home = out / f"{size}" / f"seed-{seed}"
    prompts = write_prompts(out / f"prompts-{size}-{seed}.jsonl", 300)
    data = write_demonstrations(home / "demonstrations.jsonl", size, seed)
    base = str(base_model(Base(), quiet=True))

    def train(name: str, method: str, model: str, settings: dict[str, Any], **more: Any) -> str:
        return str(
            sparring.train(method, model=model, data=data, run=home / name, resume=True, quiet=True,
                           settings=settings | {"seed": seed}, **more)
        )  # fmt: skip

    sft = train("sft", "sft", base, SFT)
    measure(home / "SFT.json", sft, prompts, sft, seed)
    for name, how in RIVALS.items():
        if (place := home / f"{name}.json").exists():
            continue
        feedback = how.get("feedback", [])
        if name == "RLOO, frozen judge":  # what the judge knows after its warm-up, and no more
            brief = ONLINE | {"rounds": 1, "lr": 1e-7}
            feedback = [train("frozen", "rlgaf", sft, brief, policy="rloo", feedback=["bag_of_words"])]
        more = {"policy": how.get("policy"), "feedback": feedback, "base": base if how.get("has_base") else None}
        run = train(name.replace(" ", "-"), how["method"], sft, how["settings"], **more)
        measure(place, run, prompts, sft, seed)
    measure(home / f"{BEST}.json", sft, prompts, sft, seed, judge=str(home / "RLGAF-RLOO"))


def measure(place: Path, model: str, prompts: str, start: str, seed: int, judge: str | None = None) -> None:
    """Score one answer to each of 300 new prompts, once."""
    if place.exists():
        return
    import sparring
    from sparring.data.demo.gold import gold

    found = sparring.evaluate(
        model, data=prompts, feedback=[gold], base=start, judge=judge, best_of=4 if judge else 1, seed=seed,
        max_tokens=TOKENS,
    )  # fmt: skip
    place.write_text(json.dumps(found))


def table(args: argparse.Namespace) -> None:
    """Write means over seeds with 95 % t intervals, and differences from SFT and best of 4 paired by seed."""
    from sparring.evaluation.intervals import over_seeds

    text = ""
    for size in SIZES:
        found = {
            name: [json.loads((Path(args.out) / f"{size}/seed-{s}/{name}.json").read_text()) for s in range(args.seeds)]
            for name in ("SFT", BEST, *RIVALS)
        }
        text += f"\n### {size} demonstrations\n\n| method | " + " | ".join(FIGURES)
        text += " | gold above SFT | above best of 4 |\n" + "|---" * (len(FIGURES) + 3) + "|\n"
        for name, cells in found.items():
            columns = [[c[key]["mean"] for c in cells if key in c] for key in FIGURES.values()]
            row = [spread(over_seeds(values)) if values else "" for values in columns]
            for other in ("SFT", BEST):
                pairs = zip(cells, found[other], strict=True)
                gaps = [a["score gold"]["mean"] - b["score gold"]["mean"] for a, b in pairs]
                row.append("" if name == other else spread(over_seeds(gaps)))
            text += f"| {name} | " + " | ".join(row) + " |\n"
    (Path(args.out) / "table.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

"""The data of the plans on the embedded world: demonstrations of three sizes, each also over a base's own responses.

    python examples/world_data.py --out runs/world --seeds 10
    sparring compare examples/plans/few.yaml --set model=BASE --set seeds=10 --out runs/few-200

The base model is made in the cache if it is not there, which takes about a minute; the last line says where: BASE. What
exists is not made again.
"""

import argparse
import sys
from pathlib import Path

from tasks import write_rows

SIZES = (50, 200, 1000)
PROMPTS, TOKENS = 300, 64


def main() -> None:
    """Write prompts, and for every size and seed demonstrations and pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    import sparring
    from sparring.compare.world import Base, base_model, write_prompts
    from sparring.data.demo.world import demonstrations

    out, base = Path(args.out), str(base_model(Base()))
    write_prompts(out / "prompts.jsonl", PROMPTS)
    for size in SIZES:
        for seed in range(args.seeds):
            name = f"pairs-{size}-{seed}"  # written last
            if (out / f"{name}.jsonl").exists():
                continue
            shown = [{"prompt": d.prompt, "response": f" {d.response}"} for d in demonstrations(size, seed)]
            own = sparring.sample(base, [row["prompt"] for row in shown], max_tokens=TOKENS, seed=seed)
            pairs = [
                {"prompt": row["prompt"], "chosen": row["response"], "rejected": text}
                for row, (text,) in zip(shown, own, strict=True)
                if text.strip()
            ]
            write_rows(out, f"demonstrations-{size}-{seed}", shown)
            write_rows(out, name, pairs)
    sys.stdout.write(f"{base}\n")


if __name__ == "__main__":
    main()

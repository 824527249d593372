"""The embedded world as a comparison: what `sparring demo` and `sparring compare --demo` run."""

from pathlib import Path

from sparring.compare.plan import SEED, Plan, read_plan
from sparring.compare.world import Base, base_model, write_demonstrations, write_prompts

TOKENS = 64
SEEDS = 3
SFT = {"epochs": 10, "lr": 5e-4, "batch": 16, "eval_every": 10, "save_every": 50, "held_out": 0.1}
# Reward and settings are those that held on this world; docs/log.md tells what did not. A few hundred demonstrations
# teach a judge words; a tiny language model would know them by heart.
ONLINE = {"batch": 32, "K": 8, "max_tokens": TOKENS, "lr": 1e-3, "kl": 0.1, "save_every": 5, "held_out": 0.0}
SELF_PLAY = {"epochs": 2.0, "batch": 16, "lr": 3e-4, "max_tokens": TOKENS, "held_out": 0.0}
RLGAF = {
    "name": "RLGAF", "method": "rlgaf", "policy": "rloo", "feedback": "bag_of_words",
    "settings": ONLINE | {"rounds": 40},
}  # fmt: skip
SPIN = {"name": "SPIN", "method": "spin", "settings": SELF_PLAY | {"rounds": 3}}


def embedded_plan(
    out: Path,
    *,
    rivals: bool,
    demonstrations: int = 200,
    prompts: int = 300,
    seeds: int = SEEDS,
    base: Base | None = None,
    quiet: bool = False,
) -> Plan:
    """Write the world's data into a folder, find or make its base model, and return the plan.

    SFT, SFT with the best of four by the judge, and RLGAF; with `rivals` the other methods that take demonstrations
    alone as well. The gold reward of the world judges, and is never trained on. Every seed has demonstrations of its
    own.
    """
    data = out / "data"
    for seed in range(seeds):
        write_demonstrations(data / f"demonstrations-{seed}.jsonl", demonstrations, seed)
    return read_plan({
        "title": f"The embedded world: {demonstrations} demonstrations",
        "model": str(base_model(base or Base(), quiet=quiet)),
        "data": str(data / f"demonstrations-{SEED}.jsonl"),
        "eval_data": write_prompts(data / "prompts.jsonl", prompts),
        "feedback": ["sparring.data.demo.gold:gold"],
        "seeds": seeds,
        "settings": {"precision": "fp32"},
        "sft": SFT,
        "best_of": 4,
        "judge": f"{{{RLGAF['name']}}}",
        "evaluate": {"max_tokens": TOKENS},
        "methods": [RLGAF, SPIN] if rivals else [RLGAF],
    }, "the embedded world")  # fmt: skip

"""The embedded world as a comparison: what `sparring compare --demo` runs."""

from pathlib import Path

from sparring.compare.plan import SEED, Plan, read_plan
from sparring.compare.world import Base, base_model, write_demonstrations, write_prompts

TOKENS = 64
SEEDS = 3
SFT = {"epochs": 10, "lr": 5e-4, "batch": 16, "eval_every": 10, "save_every": 50, "held_out": 0.1}
# Reward and settings are those that held on this world; docs/log.md tells what did not.
ONLINE = {"batch": 32, "K": 8, "max_tokens": TOKENS, "lr": 1e-3, "kl": 0.1, "save_every": 20, "held_out": 0.0}
SELF_PLAY = {"epochs": 2.0, "batch": 16, "lr": 3e-4, "max_tokens": TOKENS, "held_out": 0.0}
RLGAF = "RLGAF"


def embedded_plan(out: Path, *, demonstrations: int = 200, prompts: int = 300, quiet: bool = False) -> Plan:
    """Write the world's data into a folder, find or make its base model, and return the plan.

    The gold reward of the world judges, and is never trained on. Every seed has demonstrations of its own.
    """
    data = out / "data"
    for seed in range(SEEDS):
        write_demonstrations(data / f"demonstrations-{seed}.jsonl", demonstrations, seed)
    return read_plan({
        "title": f"The embedded world: {demonstrations} demonstrations",
        "model": str(base_model(Base(), quiet=quiet)),
        "data": str(data / f"demonstrations-{SEED}.jsonl"),
        "eval_data": write_prompts(data / "prompts.jsonl", prompts),
        "feedback": ["sparring.data.demo.gold:gold"],
        "seeds": SEEDS,
        "settings": {"precision": "fp32"},
        "sft": SFT,
        "best_of": 4,
        "judge": f"{{{RLGAF}}}",
        "evaluate": {"max_tokens": TOKENS},
        "methods": [
            {"name": RLGAF, "method": "rlgaf", "policy": "rloo", "feedback": "bag_of_words",
             "settings": ONLINE | {"rounds": 40}},
            {"name": "SPIN", "method": "spin", "settings": SELF_PLAY | {"rounds": 3}},
        ],
    }, "the embedded world")  # fmt: skip

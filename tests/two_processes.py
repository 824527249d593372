"""A script: train in one process and in two, and print how far the weights are apart. Used by test_processes.py.

Of a run that selects it also prints how far the files of its stages are apart.
"""

import json
import math
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch._dynamo  # the optimizer imports it at its first step; here it is imported once, before the forks
from safetensors.torch import load_file

from sparring.loops.train import train
from sparring.models.backbone import load_trunk
from tests.small import TIMING, model_and_data

COMMON = {"lr": 1e-3, "precision": "fp32", "device": "cpu", "save_every": 2, "batch": 5}
RUNS = {
    # 5 rows in a batch, so the shares differ in size, and with 5 minibatches one process has nothing to do in each.
    "sft": {"steps": 4, "eval_every": 2},
    "rlgaf": {"rounds": 3, "K": 2, "max_tokens": 6, "watch": "warn", "epochs": 1, "minibatches": 5, "kl_target": 1.0,
              "judge_warmup": 2, "judge_batch": 3, "judge_lr": 1e-3},
    "nlpo": {"rounds": 3, "K": 2, "max_tokens": 6, "watch": "warn", "minibatches": 5, "nucleus": 0.6,
             "nucleus_least": 1, "nucleus_every": 2, "pretrain_weight": 1.0, "pretrain_batch": 3},
    # 7 prompts in a round, so the shares differ in size; chance decides which samples are compared with which.
    "sample_rank": {"rounds": 2, "K": 4, "accepted": 3, "prompts": 7, "max_tokens": 6, "steps": 2, "temperature": 1.0,
                    "pairs": "tournament", "join": "data"},
}  # fmt: skip

JUDGED = ("nlpo", "sample_rank")


def work(world: Path, count: int) -> None:
    """Make every run in this process, which is one of `count`."""
    for name, settings in RUNS.items():
        train(
            name, model=str(world / "model"), data=str(world / "texts.jsonl"), run=world / f"{name}-{count}",
            settings=COMMON | settings, quiet=True, feedback=["length"] if name in JUDGED else (),
            pretrain=str(world / "texts.jsonl") if name == "nlpo" else None,
        )  # fmt: skip


def stages_apart(one: Path, two: Path) -> float:
    """The largest difference between numbers in the files of the rounds; infinite when anything else differs."""
    files = [sorted(p.relative_to(run) for p in run.glob("rounds/*/*.json*")) for run in (one, two)]
    if files[0] != files[1] or len(files[0]) < 8:  # samples, selected, sampling and figures of two rounds
        return math.inf
    return max(
        _apart(*([json.loads(line) for line in (run / file).read_text().splitlines()] for run in (one, two)))
        for file in files[0]
    )


def _apart(a: Any, b: Any) -> float:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((_apart(a[k], b[k]) for k in a if k not in TIMING), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(_apart, a, b), default=0.0)
    return 0.0 if a == b else math.inf


def main(place: str) -> None:
    """Fork one process, then two together; print the largest difference between their weights, by run."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    world = model_and_data(Path(place))
    load_trunk(str(world / "model"))  # what this imports is there for all forks
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for count in (1, 2):
        pids = []
        for rank in range(count):
            if not (pid := os.fork()):
                if count > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                try:
                    work(world, count)
                except BaseException as error:
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            pids.append(pid)
        if any(os.waitpid(pid, 0)[1] for pid in pids):
            raise SystemExit(f"training in {count} processes failed")
    for name in RUNS:
        one, two = (load_file(world / f"{name}-{count}" / "model" / "model.safetensors") for count in (1, 2))
        print(name, max(float((one[n] - two[n]).abs().max()) for n in one))
        if (world / f"{name}-1" / "rounds").is_dir():
            print(f"{name}:stages", stages_apart(world / f"{name}-1", world / f"{name}-2"))


if __name__ == "__main__":
    main(sys.argv[1])

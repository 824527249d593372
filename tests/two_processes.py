"""A script: train in one process and in two, and print how far the weights are apart. Used by test_processes.py."""

import os
import socket
import sys
import warnings
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch._dynamo  # the optimizer imports it at its first step; here it is imported once, before the forks
from safetensors.torch import load_file

from sparring.loops.train import train
from sparring.models.backbone import load_trunk
from tests.small import model_and_data

COMMON = {"lr": 1e-3, "precision": "fp32", "device": "cpu", "save_every": 2, "batch": 5}
RUNS = {
    # 5 rows in a batch, so the shares differ in size, and with 5 minibatches one process has nothing to do in each.
    "sft": {"steps": 4, "eval_every": 2},
    "rlgaf": {"rounds": 3, "K": 2, "max_tokens": 6, "watch": "warn", "epochs": 1, "minibatches": 5, "kl_target": 1.0,
              "judge_warmup": 2, "judge_batch": 3, "judge_lr": 1e-3},
    "nlpo": {"rounds": 3, "K": 2, "max_tokens": 6, "watch": "warn", "minibatches": 5, "nucleus": 0.6,
             "nucleus_least": 1, "nucleus_every": 2, "pretrain_weight": 1.0, "pretrain_batch": 3},
}  # fmt: skip


def work(world: Path, count: int) -> None:
    """Make every run in this process, which is one of `count`."""
    for name, settings in RUNS.items():
        train(
            name, model=str(world / "model"), data=str(world / "texts.jsonl"), run=world / f"{name}-{count}",
            settings=COMMON | settings, quiet=True, feedback=["length"] if name == "nlpo" else (),
            pretrain=str(world / "texts.jsonl") if name == "nlpo" else None,
        )  # fmt: skip


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


if __name__ == "__main__":
    main(sys.argv[1])

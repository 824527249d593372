"""How near `sparring plan` comes: memory, tokens and time of short runs, predicted first and measured after.

    python benchmarks/plan_accuracy.py                  # every setting, on the models in ../shared/models
    python benchmarks/plan_accuracy.py reviews-7m dpo   # only those whose names hold these words

Each setting takes three processes: `sparring plan --json`; the run itself, whose CPU time and resident memory are
taken; and the run once more, every tensor being watched, which is slow. `tensors` is the most that all tensors held at
once, weights included, which is what an accelerator would have to hold; `resident` is all of the process, libraries
included, with glibc told to give freed memory back at once.
"""

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" if (ROOT.parent / "shared").is_dir() else ROOT.parent.parent / "shared"
MODELS = ("reviews-7m", "tinystories-656k")
ROWS = 400
LIMITS = ["--max-prompt", "64", "--max-response", "64", "--overflow", "cut", "--device", "cpu"]
OFFLINE = ["--steps", "8", "--eval-every", "8", "--save-every", "8"]
ONLINE = ["--rounds", "4", "--batch", "16", "-k", "4", "--max-tokens", "64", "--save-every", "4"]
SETTINGS = {
    "sft": ["sft", *OFFLINE],
    "sft lora": ["sft", *OFFLINE, "--adapter", "lora"],
    "sft fp32": ["sft", *OFFLINE, "--precision", "fp32"],
    "dpo": ["dpo", *OFFLINE],
    "dpo lora, small passes": ["dpo", *OFFLINE, "--adapter", "lora", "--micro-tokens", "1024"],
    "ppo": ["ppo", *ONLINE, "--feedback", "length"],
    "rlgaf": ["rlgaf", *ONLINE, "--judge-warmup", "5"],
    "rlgaf base": ["rlgaf", *ONLINE, "--judge-warmup", "5", "--base", "MODEL"],
    "rlgaf ratio": ["rlgaf", *ONLINE, "--judge-warmup", "5", "--base", "MODEL", "--judge-reads", "ratio"],
    "rlgaf gumbel": ["rlgaf_gumbel", *ONLINE, "--judge-warmup", "5", "--max-tokens", "32", "-k", "2"],
    "rlgaf gumbel ratio": ["rlgaf_gumbel", *ONLINE, "--judge-warmup", "5", "--max-tokens", "32", "-k", "2",
                           "--base", "MODEL", "--judge-reads", "ratio"],
    "rlgaf lora": ["rlgaf", *ONLINE, "--judge-warmup", "5", "--adapter", "lora"],
    "rlgaf rloo lora fp32": ["rlgaf", "--policy", "rloo", *ONLINE, "--judge-warmup", "5", "--adapter", "lora",
                             "--precision", "fp32"],
}  # fmt: skip
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


class Held(TorchDispatchMode):
    """The most bytes that all tensors held at once, those that were there before included."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, out)):
            if isinstance(x, torch.Tensor) and x.device.type != "meta":
                storage = x.untyped_storage()
                known = self._seen.get(storage._cdata)
                if known is None or known[0].expired():
                    self._now += storage.nbytes() - (known[1] if known else 0)
                    self._seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if self._now > self.peak:  # only now does it matter what has gone since
            self._seen = {key: (ref, size) for key, (ref, size) in self._seen.items() if not ref.expired()}
            self._now = sum(size for _, size in self._seen.values())
            self.peak = max(self.peak, self._now)
        return out


def child(how: str, argv: list[str]) -> None:
    """Train in this process and say what it took."""
    from sparring.cli.main import main

    torch.set_num_threads(1)
    held = Held()
    if how == "tensors":
        with held:
            main(argv)
    else:
        main(argv)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"tensors": held.peak, "resident": used.ru_maxrss * 1024, "cpu": used.ru_utime + used.ru_stime}))


def files(place: Path) -> dict[str, Path]:
    """Demonstrations and pairs, made of film reviews."""
    with gzip.open(SHARED / "data/imdb.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for _, line in zip(range(2 * ROWS), lines, strict=False)]
    demos = [{"prompt": r["prompt"], "response": r["completion"]} for r in rows[:ROWS]]
    pairs = [
        {"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]}
        for a, b in zip(rows[:ROWS], rows[ROWS:], strict=True)
    ]
    out = {"demos": place / "demos.jsonl", "pairs": place / "pairs.jsonl"}
    for name, made in (("demos", demos), ("pairs", pairs)):
        out[name].write_text("".join(json.dumps(r) + "\n" for r in made))
    return out


def compare(model: str, name: str, argv: list[str], data: dict[str, Path], place: Path) -> None:
    run = place / f"{model}-{name}".replace(" ", "-").replace(",", "")
    file = data["pairs" if argv[0] == "dpo" else "demos"]
    there = str(SHARED / "models" / model)
    words = [*(there if word == "MODEL" else word for word in argv), *LIMITS, "--model", there, "--data", str(file)]
    env = {**os.environ, **GIVES_BACK, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def ask(*command: str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout[done.stdout.index("{") :])

    said = ask("-m", "sparring", "plan", *words, "--json")
    train = ["train", *words, "--run"]
    was = ask(__file__, "--child", "resident", *train, f"{run}-1")
    held = ask(__file__, "--child", "tensors", *train, f"{run}-2")
    pairs = {
        "tensors": (said["peak"] / 1e6, held["tensors"] / 1e6),
        "resident": ((said["peak"] + said["program"]) / 1e6, was["resident"] / 1e6),
        "seconds": (said["cpu_seconds"], was["cpu"]),
    }
    cells = [f"{p:7.0f} / {m:7.0f} {100 * (p / m - 1):+5.0f} %" for p, m in pairs.values()]
    print(f"{model:17} {name:23} {'   '.join(cells)}", flush=True)
    moments = {k: round(v / 1e6) for k, v in said["moments"].items()}
    costs = {k: round(v, 1) for k, v in said["seconds"].items()}
    sys.stderr.write(f"    {said['precision']} {moments} {costs}\n")


def main(words: list[str]) -> None:
    print(f"{'model':17} {'setting':23} tensors MB, predicted / measured; resident MB; CPU seconds")
    with tempfile.TemporaryDirectory() as place:
        data = files(Path(place))
        for model in MODELS:
            for name, argv in SETTINGS.items():
                if all(word in f"{model} {name}" for word in words):
                    compare(model, name, argv, data, Path(place))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])

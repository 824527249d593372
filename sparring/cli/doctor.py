"""sparring doctor: what this machine can do, measured and not assumed, and what would help."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.cli.parser import Parser
from sparring.core.version import VERSION

if TYPE_CHECKING:
    import torch

EXTRAS = {
    "datasets": ("data", "parquet files and data sets by hub id"),
    "bitsandbytes": ("qlora", "--adapter qlora: LoRA on 4-bit weights"),
    "vaderSentiment": ("vader", "--feedback vader"),
    "sacrebleu": ("overlap", "evaluate --overlap: BLEU, chrF and, with rouge-score, ROUGE-L"),
    "lm_eval": ("harness", "evaluate --harness: tasks of the lm-evaluation-harness"),
    "matplotlib": ("plot", "figures as image files"),
    "tensorboard": ("track", "TensorBoard logs beside metrics.jsonl"),
    "trl": ("bench", "benchmarks against TRL"),
}
"""Distribution of an extra: the extra's name, and what it unlocks."""

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
"""Settings that let glibc keep freed memory; training on a CPU otherwise spends much of its time giving it back."""

SIDE = 512
"""Side of the square matrices that are multiplied to compare number formats."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was found."""

    torch: str
    threads: int
    device: str
    seconds: dict[str, float]
    memory_gb: float
    free_gb: float
    disk_gb: float


def add_arguments(parser: Parser) -> None:
    """Add nothing: the doctor takes no flags."""
    del parser


def run(args: argparse.Namespace) -> None:
    """Print what was found, extra by extra, and a verdict in one sentence."""
    del args
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    machine = examine()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in [*lines(machine), *extras()]:
        table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.print(table)
    for advice in advices(machine):
        console.print(f"\n{advice}", markup=False)
    console.print(f"\n{verdict(machine)}", markup=False, style="bold")


def examine() -> Machine:
    """Look at the machine; takes about two seconds, of which importing torch is most."""
    import torch

    device = best_device()
    memory, free = _memory()
    return Machine(
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        device=device,
        seconds={name: seconds_per_product(device, dtype) for name, dtype in _formats().items()},
        memory_gb=memory,
        free_gb=free,
        disk_gb=shutil.disk_usage(Path.cwd()).free / 1e9,
    )


def best_device() -> str:
    """Name the device that --device auto takes."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def seconds_per_product(device: str, dtype: "torch.dtype", *, repeats: int = 5) -> float:
    """Time a product of two square matrices: the best of a few; infinity when the format does not work."""
    import torch

    try:
        a = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
        float((a @ a)[0, 0])  # the first product sets things up
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            float((a @ a)[0, 0])  # reading a number waits for the device
            best = min(best, time.perf_counter() - start)
        return best
    except RuntimeError:
        return float("inf")


def lines(machine: Machine) -> list[tuple[str, str]]:
    """What was found, one line each."""
    speed = {name: f"{2 * SIDE**3 / s / 1e9:.0f} GFLOP/s" for name, s in machine.seconds.items() if s < float("inf")}
    return [
        ("sparring", VERSION),
        ("Python", f"{platform.python_version()} at {sys.executable}"),
        ("torch", f"{machine.torch}, {machine.threads} threads of {os.cpu_count()} processors"),
        ("device", machine.device),
        ("fp32", speed.get("fp32", "does not work")),
        ("bf16", speed.get("bf16", "does not work")),
        ("memory", f"{machine.free_gb:.1f} GB free of {machine.memory_gb:.1f}"),
        ("disk", f"{machine.disk_gb:.1f} GB free in {Path.cwd()}"),
    ]


def extras() -> list[tuple[str, str]]:
    """Say for each extra which version is there and what it unlocks, or how to get it."""
    found = []
    for package, (extra, unlocks) in EXTRAS.items():
        try:
            found.append((package, f"{importlib.metadata.version(package)}: {unlocks}"))
        except importlib.metadata.PackageNotFoundError:
            found.append((package, f'missing: pip install "sparring[{extra}]" for {unlocks}'))
    return found


def advices(machine: Machine) -> list[str]:
    """What would make training faster or safer here."""
    found = []
    if machine.device == "cpu" and platform.libc_ver()[0] == "glibc":
        missing = {k: v for k, v in ALLOCATOR.items() if k not in os.environ}
        if missing:
            export = " ".join(f"{k}={v}" for k, v in missing.items())
            found.append(f"Faster on this CPU: export {export} (freed memory is then kept for reuse)")
    if machine.free_gb < 2:
        found.append("Little memory is free: lower --micro-tokens, or train adapters with --adapter lora")
    if machine.disk_gb < 2:
        found.append("Little disk is free: a run keeps a few copies of the weights and of the optimizer's state")
    return found


def verdict(machine: Machine) -> str:
    """Say in one sentence what this machine is good for."""
    fp32, bf16 = machine.seconds["fp32"], machine.seconds["bf16"]
    form = f"bf16 products are {fp32 / bf16:.1f} times as fast as fp32" if bf16 < fp32 else "fp32 is the faster format"
    size = (machine.free_gb * 1e9 * 0.7) / 16 / 1e6  # weights, gradients and two moments of AdamW, 4 bytes each
    return (
        f"Ready: training runs on {machine.device}, {form}, and memory allows about {_rounded(size)} million "
        f"parameters when every weight is trained."
    )


def _formats() -> "dict[str, torch.dtype]":
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}


def _memory() -> tuple[float, float]:
    """Gigabytes of memory in all and free: of the accelerator if there is one, otherwise of the machine."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total / 1e9, free / 1e9
    import psutil  # comes with accelerate

    memory = psutil.virtual_memory()
    return memory.total / 1e9, memory.available / 1e9


def _rounded(x: float) -> str:
    """Two digits: more would promise too much."""
    return f"{float(f'{x:.2g}'):,.0f}"

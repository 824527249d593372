"""The device, the number format and the other processes: the one file that knows accelerate.

There is one code path for one process and for many. Each process computes its share of a batch; sums
(of gradients, of figures) are added over all of them before anything is divided.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.core.errors import SettingError
from sparring.core.loss import Tally, add

LOW = {"bf16": torch.bfloat16}  # number formats of products, by the precision that asks for them; fp32 asks for none
# In 16 bits a CPU's products go through oneDNN, which keeps a program for each of the last 1024 shapes, and torch keeps
# what it prepared for as many. Packed passes hardly ever have the shape of another, so that doubled what a long run
# held; the shapes of one pass are enough.
SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
TRIAL = 512  # side of the square matrices that decide between 32 and 16 bits


class Machine:
    """Where a run computes. `rank` of `world` processes; the first one writes files."""

    def __init__(
        self, device: str = "auto", precision: str = "auto", *, tracker: str = "none", folder: Path | None = None
    ) -> None:
        """Find the device and the other processes; a tracker, of those accelerate knows, writes into `folder`."""
        from accelerate import Accelerator

        for name, kept in SHAPES.items():
            os.environ.setdefault(name, kept)  # read when the first product is made, which is below
        wants_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        if device == "cuda" and not torch.cuda.is_available():
            raise SettingError("--device cuda: no CUDA device is here; leave --device at auto or take cpu")
        if device == "mps" and not torch.backends.mps.is_available():
            raise SettingError("--device mps: no Apple GPU is here; leave --device at auto or take cpu")
        self._accelerator: Any = Accelerator(
            cpu=wants_cpu and device != "mps", mixed_precision="no", project_dir=folder,
            log_with=None if tracker == "none" else tracker,
        )  # fmt: skip
        if tracker != "none" and not self._accelerator.log_with:
            raise SettingError(f"--tracker {tracker}: it is not installed; pip install {tracker}, or leave it out")
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.precision = probe_precision(self.device) if precision == "auto" else precision

    @property
    def low(self) -> torch.dtype | None:
        """The number format of matrix products where it is narrower than that of weights, else None."""
        return LOW.get(self.precision)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    @contextmanager
    def tracking(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Tell the tracker, if there is one, what run begins, and when it is over."""
        if self._accelerator.log_with:
            plain = {n: v for n, v in settings.items() if isinstance(v, (int, float, str, bool))}
            self._accelerator.init_trackers("sparring", config=plain)
        yield
        if self._accelerator.log_with:
            self._accelerator.end_training()

    def track(self, figures: Mapping[str, float], clock: int) -> None:
        """Send the figures of one step or round to the tracker, if there is one."""
        if self._accelerator.log_with:
            self._accelerator.log(dict(figures), step=clock)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute matrix products in the number format of the run."""
        with torch.autocast(self.device.type, dtype=self.low, enabled=self.low is not None):
            yield

    def sum(self, x: Tensor) -> Tensor:
        """Add a tensor over all processes."""
        return x if self.world == 1 else self._accelerator.reduce(x, reduction="sum")

    def sum_tally(self, counted: Tally) -> Tally:
        """Add figures over all processes; one that had nothing to count may have counted nothing."""
        return add(self.gather([counted]))

    def any(self, is_so: bool) -> bool:
        """Whether it is so in any process; the answer is the same in all."""
        return any(self.gather([is_so]))

    def gather(self, things: list) -> list:
        """Collect lists of plain objects from all processes, in the order of their ranks."""
        if self.world == 1:
            return things
        from accelerate.utils import gather_object

        return gather_object(things)

    def share(self, things: list) -> list:
        """Take this process's part of a list: every world-th of it."""
        return things[self.rank :: self.world]

    def join(self, things: list) -> list:
        """Put the parts that `share` gave to the processes together again, in their first order."""
        parts = self.gather([things])
        out = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            out[rank :: self.world] = part
        return out

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()


def probe_precision(device: torch.device) -> str:
    """Measure which number format multiplies matrices faster here; 32 bits unless 16 win clearly."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if _seconds(torch.bfloat16) * 1.5 < _seconds(torch.float32) else "fp32"


def _seconds(dtype: torch.dtype) -> float:
    """The best of a few products, in seconds; infinite where the format does not work."""
    try:
        a = torch.ones(TRIAL, TRIAL, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            torch.mm(a, a)
            best = min(best, time.perf_counter() - start)
        return best
    except RuntimeError:
        return float("inf")

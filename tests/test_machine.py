"""What a machine's number formats bring with them."""

import os
import subprocess
import sys

import pytest
import torch

from sparring.models.machine import SHAPES

PASSES = """
import sys
import torch
from sparring.models.machine import Machine

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

Machine("cpu", "bf16")
weight = torch.ones(1024, 256, dtype=torch.bfloat16)
torch.nn.functional.linear(torch.ones(1001, 256, dtype=torch.bfloat16), weight)
before = resident()
for tokens in range(1, 1001):
    torch.nn.functional.linear(torch.ones(tokens, 256, dtype=torch.bfloat16), weight)
print(resident() - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="products in 16 bits do not go through oneDNN here",
)
def test_passes_of_every_length_leave_little_behind():
    name, kept = SHAPES

    def growth(**env):
        clean = {n: v for n, v in os.environ.items() if n != name} | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PASSES], env=clean | env, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    # A user's own number is left alone; 1024 is what oneDNN does by itself.
    assert int(kept) < 100 and growth() < growth(**{name: "1024"}) - 50

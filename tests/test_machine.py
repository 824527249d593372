"""What a machine's number formats bring with them."""

import os
import subprocess
import sys

import pytest
import torch

from sparring.models.machine import SHAPES

PASSES = """
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
    def growth(**env):
        clean = {n: v for n, v in os.environ.items() if n not in SHAPES} | {"MALLOC_MMAP_THRESHOLD_": "65536"} | env
        done = subprocess.run([sys.executable, "-c", PASSES], env=clean, capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert growth() < growth(**dict.fromkeys(SHAPES, "1024")) / 2  # a user's own numbers are left alone

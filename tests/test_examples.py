"""The flat script, which shares no line with the library, comes to the same numbers step by step."""

import importlib.util
from pathlib import Path

import pytest

from tests.small import quick, rows, world

EXAMPLES = Path(__file__).parent.parent / "examples"


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dpo_in_one_file_has_the_librarys_losses(tmp_path):
    model, pairs = world() / "model", world() / "pairs.jsonl"
    flat = script("dpo_flat").main(str(model), str(pairs), steps=4, beta=0.1, lr=1e-2)
    everything = {"batch": 24, "held_out": 0.0, "warmup": 0.0, "schedule": "constant", "steps": 4, "lr": 1e-2}
    run = quick("dpo", tmp_path / "dpo", settings=everything)
    assert [row["loss"] for row in rows(run)] == pytest.approx(flat, rel=1e-4)
    assert flat[0] == pytest.approx(0.693147, abs=1e-5) and flat[-1] < 0.64

"""One seed, many named streams of random numbers.

A stream is named by what it is for and where in the run it is used, for example ("order", epoch).
Nothing is drawn from a shared state, so what one part draws never moves another part, and a resumed
run needs no saved generator to go on exactly as it would have.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """Mix a seed and the name of a stream into one 63-bit number."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Make a torch generator (on the CPU) for one named stream."""
    return torch.Generator().manual_seed(derive(seed, *names))


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """Make a numpy generator for one named stream."""
    return np.random.Generator(np.random.Philox(derive(seed, *names)))

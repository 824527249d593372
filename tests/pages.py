"""A comparison that never was, as large as a page has to bear: ten methods, five hundred prompts."""

import math
import random
from statistics import fmean
from typing import Any

NAMES = ["base", "SFT", "SFT + best of 16", "DPO beta=0.1", "DPO beta=0.5", "PPO", "RLOO", "GRPO", "RLGAF", "SPIN"]
SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
WORDS = "the a film was good bad great very and it they story actor not hardly dull because although slow light".split()
Inputs = tuple[dict[str, Any], dict[str, list[dict[str, Any]]], list[dict[str, Any]]]


def large(prompts: int = 500, words: int = 60) -> Inputs:
    """Make results, curves and samples; the further down the table, the higher the score."""
    draw = random.Random(0)
    samples = [_sample(draw, place, words) for place in range(prompts)]
    return _results(samples), _curves(draw), samples


def _sample(draw: random.Random, place: int, words: int) -> dict[str, Any]:
    hard = draw.gauss(0, 0.15)
    answers = {}
    for rank, name in enumerate(NAMES):
        score = min(1.0, max(0.0, 0.25 + 0.05 * rank + hard + draw.gauss(0, 0.12)))
        answers[name] = {"text": " ".join(draw.choices(WORDS, k=words)), "gold": score, "mean": score}
    return {"prompt": f"Prompt {place}: {' '.join(draw.choices(WORDS, k=8))}", "answers": answers}


def _figure(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _results(samples: list[dict[str, Any]]) -> dict[str, Any]:
    gold = {name: fmean(s["answers"][name]["mean"] for s in samples) for name in NAMES}
    methods = [
        {"name": name, "gold": _figure(gold[name], 0.02), "kl": _figure(rank**1.6, 0.3), "seconds": 60.0 * rank,
         "tokens": 2e6 * (rank > 0), "flops": 6e12, "memory": 900.0 + rank, "labels": 200 * (rank > 2)}
        for rank, name in enumerate(NAMES)
    ]  # fmt: skip
    rows = [
        {
            "seed": seed,
            "round": k,
            "kl": (k / 2) ** 2,
            "gold": 0.3 + k / 2 * (0.2 - 0.1 * math.log(k / 2)),
            "proxy": k / 3,
        }
        for seed in range(3)
        for k in range(1, 11)
    ]
    fit = {"form": "reinforcement learning", "equation": "d (a - b log d)", "start": 0.3, "a": 0.2, "b": 0.1,
           "explained": 1.0, "far": 5.0, "turn": math.e**2, "says": "turns at 7.39 nats",
           "curve": [[(i / 8) ** 2, _turning(i / 8)] for i in range(41)]}  # fmt: skip
    frontier = {
        "start": "SFT", "picker": "{reward}",
        "points": [{k: m[k] for k in ("name", "kl", "gold")} for m in methods[1:]],
        "best_of": [
            {"n": n, "kl": math.log(n) - (n - 1) / n, "gold": 0.3 + n / 100, "proxy": float(n)} for n in SIZES
        ],
        "trails": [{"name": name, "begins_at": "SFT", "rows": rows} for name in NAMES[5:9]],
        "fits": [{"name": name, **fit} for name in NAMES[5:9]],
    }  # fmt: skip
    tested = [
        {"name": name, "rival": "SFT", **_figure(gold[name] - gold["SFT"], 0.02), "adjusted": 1e-4}
        for name in NAMES[3:]
    ]
    return {
        "title": "Which method helped?", "headline": "SPIN helped most.", "verdict": "All are better than SFT.",
        "methods": methods, "tests": {"with the baselines": tested}, "frontier": frontier, "base": "base",
        "seeds": [0, 1, 2], "prompts": len(samples), "command": "sparring compare plan.yaml --out out", "machine": "",
        "settings": {name: {"lr": 1e-4} for name in NAMES}, "plan": {"model": "m"}, "versions": {"sparring": "0"},
    }  # fmt: skip


def _turning(d: float) -> float:
    """A reward that rises until d is e, which is e^2 nats, and falls from there."""
    return 0.3 + d * (0.2 - 0.1 * math.log(d)) if d else 0.3


def _curves(draw: random.Random) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {"round": k, "step": k, "loss": 2 / k + draw.gauss(0, 0.02), "kl": k * 0.1 * rank, "score": math.log(k),
             "entropy": 2 - 0.02 * k, "length": 40 + draw.gauss(0, 1), "judge_accuracy": 0.6 + 0.01 * k * draw.random()}
            for k in range(1, 41)
        ]
        for rank, name in enumerate(NAMES[3:])
    }  # fmt: skip

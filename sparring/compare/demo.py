"""The main job on the embedded world: from a few hundred demonstrations to a verdict, offline.

SFT, SFT with the best of four by the discriminator, and RLGAF start from the same base model and see the
same demonstrations; the exact gold reward of the world judges them on prompts that none has seen. It is
never trained on. Every training is a normal run folder, so a killed demo goes on where it was.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.compare import embedded
from sparring.compare.world import Base, base_model, write_demonstrations, write_prompts
from sparring.core.errors import RunError
from sparring.data.demo.gold import gold
from sparring.data.demo.grammar import readable
from sparring.evaluation.intervals import Estimate, over_seeds
from sparring.evaluation.suite import evaluate
from sparring.loops.train import train
from sparring.models.checkpoint import write_text

BASE, SFT, BEST, RLGAF = "base", "SFT", "SFT + best of 4", "RLGAF"
TOKENS = embedded.TOKENS
FIGURES = {"gold": "score gold", "kl": "kl", "distinct_2": "distinct_2_words", "words": "words"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the demo does. The settings are those that held on this world; docs/log.md tells what did not."""

    out: Path
    seeds: int = 3
    demonstrations: int = 200
    prompts: int = 300
    base: Base = field(default_factory=Base)
    sft: Mapping[str, Any] = field(default_factory=lambda: SFT_SETTINGS)
    rlgaf: Mapping[str, Any] = field(default_factory=lambda: RLGAF_SETTINGS)


SFT_SETTINGS: dict[str, Any] = embedded.SFT | {"precision": "fp32"}
RLGAF_SETTINGS: dict[str, Any] = embedded.ONLINE | {"rounds": 40, "precision": "fp32"}
# A few hundred demonstrations teach a judge words; a tiny language model would know them by heart (docs/log.md).
JUDGE = "bag_of_words"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a page is made from: the table, the rows of metrics.jsonl by method, and answers side by side."""

    results: dict[str, Any]
    curves: dict[str, list[dict[str, Any]]]
    samples: list[dict[str, Any]]


def run_demo(plan: Plan, *, quiet: bool) -> Outcome:
    """Do what is missing, write results.json into the folder, and return what there is to show."""
    base = base_model(plan.base, quiet=quiet)
    prompts = write_prompts(plan.out / "prompts.jsonl", plan.prompts)
    _measured(plan.out / "base.json", str(base), prompts, base=base, seed=0)
    _in_parallel([_command(plan, seed, quiet=quiet) for seed in range(plan.seeds)])
    found = {BASE: [_read(plan.out / "base.json")]}
    for name in (SFT, BEST, RLGAF):
        found[name] = [_read(plan.out / f"seed-{s}" / _file(name)) for s in range(plan.seeds)]
    results = _results(plan, found)
    write_text(plan.out / "results.json", json.dumps(results, indent=1) + "\n")
    return Outcome(results=results, curves=_curves(plan), samples=_samples(found))


def run_seed(plan: Plan, seed: int, *, quiet: bool) -> None:
    """Train and measure every method with one seed, but what is there already."""
    base = base_model(plan.base, quiet=quiet)
    home = plan.out / f"seed-{seed}"
    data = write_demonstrations(home / "demonstrations.jsonl", plan.demonstrations, seed)
    prompts = str(plan.out / "prompts.jsonl")
    sft = train("sft", model=str(base), data=data, run=home / "sft", resume=True, quiet=quiet, command="sparring demo",
                settings=dict(plan.sft) | {"seed": seed})  # fmt: skip
    rlgaf = train("rlgaf", model=str(sft), data=data, run=home / "rlgaf", resume=True, quiet=quiet, policy="rloo",
                  feedback=[JUDGE], command="sparring demo", settings=dict(plan.rlgaf) | {"seed": seed})  # fmt: skip
    _measured(home / _file(SFT), str(sft), prompts, base=base, seed=seed)
    _measured(home / _file(RLGAF), str(rlgaf), prompts, base=base, seed=seed)
    _measured(home / _file(BEST), str(sft), prompts, base=base, seed=seed, judge=str(rlgaf / JUDGE))


def _measured(place: Path, model: str, data: str, *, base: Path, seed: int, judge: str | None = None) -> None:
    if not place.exists():
        found = evaluate(
            model, data=data, feedback=[gold], base=str(base), judge=judge, best_of=4 if judge else 1, seed=seed,
            max_tokens=TOKENS,
        )  # fmt: skip
        write_text(place, json.dumps(found) + "\n")


def _command(plan: Plan, seed: int, *, quiet: bool) -> list[str]:
    words = [sys.executable, "-m", "sparring.cli.main", "demo", "--out", str(plan.out), "--only-seed", str(seed)]
    words += ["--demonstrations", str(plan.demonstrations), "--prompts", str(plan.prompts)]
    return [*words, "--quiet"] if quiet else words


def _in_parallel(commands: list[list[str]]) -> None:
    """Run commands, one for each processor, each on one thread: threads that share processors wait for each other."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        ended = list(pool.map(lambda words: subprocess.run(words, check=False, env=environment).returncode, commands))
    if any(ended):
        raise RunError(
            f"{sum(map(bool, ended))} of {len(ended)} seeds did not finish; the same command goes on from there"
        )


def _results(plan: Plan, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    methods = []
    for name, cells in found.items():
        row: dict[str, Any] = {"name": name}
        for figure, key in FIGURES.items():
            values = [c[key]["mean"] for c in cells if key in c]
            row[figure] = _figure(over_seeds(values)) if len(values) > 1 else _alone(cells[0], key)
        methods.append(row)
    return {
        "title": f"The embedded world: {plan.demonstrations} demonstrations",
        "verdict": verdict(found),
        "methods": methods,
        "seeds": plan.seeds,
        "prompts": plan.prompts,
        "command": "sparring demo",
        "machine": f"{platform.platform()}, {os.cpu_count()} processors",
        "settings": {"sft": dict(plan.sft), "rlgaf": dict(plan.rlgaf)},
    }


def verdict(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Say in one sentence what the intervals of the paired differences say, and no more."""
    says = []
    for other in (SFT, BEST):
        pairs = zip(found[RLGAF], found[other], strict=True)
        gap = over_seeds([a["score gold"]["mean"] - b["score gold"]["mean"] for a, b in pairs])
        if gap.low is None or gap.high is None:
            says.append(f"one seed cannot tell RLGAF from {other} ({gap.mean:+.3f})")
            continue
        span = f"{gap.mean:+.3f} gold reward, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
        word = "beats" if gap.low > 0 else "is worse than" if gap.high < 0 else "cannot be told apart from"
        says.append(f"RLGAF {word} {other} ({span})")
    return "; ".join(says) + f"; {len(found[RLGAF])} seeds."


def _figure(estimate: Estimate) -> dict[str, float | None]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _alone(cell: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    return {k: cell[key][k] for k in ("mean", "low", "high")} if key in cell else None


def _curves(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    lines = {name: (plan.out / "seed-0" / slug / "metrics.jsonl") for name, slug in ((SFT, "sft"), (RLGAF, "rlgaf"))}
    return {name: [json.loads(row) for row in path.read_text().splitlines()] for name, path in lines.items()}


def _samples(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Put the first seed's answers to the same prompts side by side."""
    out: list[dict[str, Any]] = []
    for place, first in enumerate(found[BASE][0]["samples"]):
        answers = {}
        for name, cells in found.items():
            mine = cells[0]["samples"][place]
            text = mine["response"]
            answers[name] = {"text": readable(text), "gold": gold(first["prompt"], text)}
        out.append({"prompt": first["prompt"], "answers": answers})
    return out


def _file(name: str) -> str:
    return {SFT: "sft.json", BEST: "best-of-4.json", RLGAF: "rlgaf.json"}[name]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())

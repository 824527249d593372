"""The model card: README.md of a run and of the model in it, made from what the run recorded."""

import math
from collections.abc import Mapping

from sparring import methods
from sparring.core.metrics import METRICS
from sparring.loops.job import Job


def card(job: Job, figures: Mapping[str, float], level: str = "") -> str:
    """Write the model card: what was trained on what, by which equation, where its scores stand, the last figures."""
    policy = f" (policy: {job.policy})" if job.policy else ""
    where = f", rows with {', '.join(job.where)}" if job.where else ""
    lines = [
        f"# {job.run.name}",
        "",
        f"`{job.model}` trained with **{job.method}**{policy} by sparring.",
        "",
        "```",
        *_equation(job.method),
        "```",
        "",
        f"- data: `{job.data}`{where}",
        *([f"- negatives: `{job.negatives}`"] if job.negatives else []),
        *([f"- base, {_part_of_the_base(job)}: `{job.base}`"] if job.base else []),
        *([f"- pre-training text: `{job.pretrain}`"] if job.pretrain else []),
        *([f"- feedback: {', '.join(job.judges())}"] if job.feedback else []),
        f"- seed: {job.seed}",
        *([f"- {level}"] if level else []),
        *([f"- command: `{job.command}`"] if job.command else []),
        "",
        "| last figure | value | meaning |",
        "|---|---|---|",
        *[
            f"| {n} | {v:.4g} | {METRICS[n].meaning if n in METRICS else ''} |"
            for n, v in figures.items()
            if isinstance(v, float) and math.isfinite(v)
        ],
        "",
        "All settings, versions and hashes are in `run.yaml`; all figures in `metrics.jsonl`.",
        "",
    ]
    return "\n".join(lines)


def _part_of_the_base(job: Job) -> str:
    return "with whose likelihoods the judge compares its own" if job.compares else "whom the judge met first"


def _equation(method: str) -> list[str]:
    """The indented lines of a method's docstring: its equation."""
    return [line.strip() for line in methods.docstring(method).splitlines() if line.startswith("    ") and "=" in line]

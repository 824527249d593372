"""The model card: README.md of a run and of the model in it, made from what the run recorded."""

import math
import shutil
from collections.abc import Mapping

from sparring import methods
from sparring.core.metrics import METRICS
from sparring.loops.job import Job
from sparring.models.checkpoint import write_text


def write_card(job: Job, figures: Mapping[str, float]) -> None:
    """Write README.md into the run folder and into its model folder."""
    lines = [
        f"# {job.run.name}",
        "",
        f"`{job.model}` trained with **{job.method}**" + (f" (policy: {job.policy})" if job.policy else "") + " by sparring.",
        "",
        "```",
        *_equation(job.method),
        "```",
        "",
        f"- data: `{job.data}`" + (f", rows with {', '.join(job.where)}" if job.where else ""),
        *([f"- negatives: `{job.negatives}`"] if job.negatives else []),
        *([f"- feedback: {', '.join(map(str, job.feedback))}"] if job.feedback else []),
        f"- seed: {job.seed}",
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
    write_text(job.run / "README.md", "\n".join(lines))
    if (job.run / "model").is_dir():
        shutil.copyfile(job.run / "README.md", job.run / "model" / "README.md")


def _equation(method: str) -> list[str]:
    """The indented lines of a method's docstring: its equation."""
    return [line.strip() for line in methods.docstring(method).splitlines() if line.startswith("    ") and "=" in line]

"""What a finished run shows: where things are, a curve, and three samples."""

import sys
from pathlib import Path

from sparring.loops.run import Run

BARS = " .:-=+*#%@"
WIDTH = 60
CURVES = ("eval_score", "score", "eval_loss", "loss", "reward_accuracy", "nll_oracle", "nll_test")


def show_summary(folder: Path, *, quiet: bool) -> None:
    """Write the summary of a run to standard error."""
    if quiet:
        return
    clock = "round" if (folder / "samples.jsonl").exists() else "step"
    run = Run(folder, clock)
    rows = run.rows()
    lines = [""]
    for name in CURVES:
        values = [r[name] for r in rows if name in r]
        if len(values) > 1:
            lines.append(f"{name:>16}  {values[0]:.4g} -> {values[-1]:.4g}  |{curve(values)}|")
    for sample in run.read_samples()[-3:]:
        lines.append(f"  {sample['prompt']!r} -> {sample['response']!r}  (score {sample['score']:.3g})")
    lines.append(f"model: {folder / 'model'}    figures: {folder / 'metrics.jsonl'}    settings: {folder / 'run.yaml'}")
    sys.stderr.write("\n".join(lines) + "\n")


def curve(values: list[float], width: int = WIDTH) -> str:
    """Draw numbers as one line of characters, the denser the larger; neighbours are averaged to fit `width`."""
    step = max(1.0, len(values) / width)
    cells = []
    for i in range(min(width, len(values))):
        part = values[int(i * step) : max(int((i + 1) * step), int(i * step) + 1)]
        cells.append(sum(part) / len(part))
    low, high = min(cells), max(cells)
    span = (high - low) or 1.0
    return "".join(BARS[round((c - low) / span * (len(BARS) - 1))] for c in cells)

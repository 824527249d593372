"""Kill a whole comparison at random moments and start it again, until it is done: is a figure changed?

    python benchmarks/compare_kills.py PLAN.yaml --out runs/kills --kills 6 [--set model=...]

The plan is run twice, into OUT/whole and OUT/killed. The second time the command and all its cells are killed without
warning (SIGKILL) after a random number of seconds and given again. Figures that do not tell time, speed or memory must
be the same in both results.json, to the last digit. Exit code 0 when they are.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEASURED = {"seconds", "measuring_seconds", "memory", "command", "tokens_per_second"}


def main() -> int:
    """Run, kill, compare; says how long the undisturbed comparison took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--out", required=True)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    args = parser.parse_args()
    command = [sys.executable, "-m", "sparring", "compare", args.plan, "--workers", args.workers]
    command += [word for change in args.changes for word in ("--set", change)]
    began = time.monotonic()
    start([*command, "--out", f"{args.out}/whole"]).wait()
    spent = time.monotonic() - began
    sys.stdout.write(f"undisturbed: {spent / 60:.1f} minutes\n")
    draw = random.Random(args.seed)
    for number in range(args.kills):
        process = start([*command, "--out", f"{args.out}/killed"])
        pause = draw.uniform(0.2, 2.0) * spent / (args.kills + 1)
        try:
            process.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            sys.stdout.write(f"kill {number + 1} after {pause:.0f} s\n")
    start([*command, "--out", f"{args.out}/killed"]).wait()
    one, two = (figures(Path(args.out) / name / "results.json") for name in ("whole", "killed"))
    changed = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    sys.stdout.write(f"{len(one)} figures and texts, {len(changed)} changed: {', '.join(changed[:10]) or 'none'}\n")
    return 1 if changed else 0


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own, which its cells join."""
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def figures(file: Path) -> dict[str, Any]:
    """List every figure and text of a results file by where it stands, but for what time decides."""
    out: dict[str, Any] = {}

    def note(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                if name not in MEASURED:
                    note(one, f"{where}.{name}")
        elif isinstance(value, list):
            for place, one in enumerate(value):
                note(one, f"{where}[{place}]")
        else:
            out[where] = value.replace(str(file.parent), "OUT") if isinstance(value, str) else value

    note(json.loads(file.read_text()), "results")
    return out


if __name__ == "__main__":
    sys.exit(main())

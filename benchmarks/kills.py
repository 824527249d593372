"""Kill training runs at random moments, resume them, and look whether anything is different in the end.

    python benchmarks/kills.py --kills 200

Every attempt forks a run off one process that has imported everything, kills it without warning (SIGKILL),
and resumes it. A part of the kills come at a time drawn evenly over the length of a run, the others right
before a random operation on the run's files: while a checkpoint, a log or the model is written, or an old
checkpoint deleted. Some resumed runs are killed again. The finished folder must hold the same weights bit
for bit as the run that was never stopped, the same figures but for time and speed, the same samples.

Exit code 0 when all are the same.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive the forks
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from sparring.loops.train import train
from sparring.models.backbone import save_trunk, tiny_model

WORDS = [a + b for a in "bdgkm" for b in "aeiou"]
TIMING = {"seconds", "tokens_per_second"}
COMMON = {"batch": 4, "save_every": 2, "lr": 1e-2, "precision": "fp32", "device": "cpu"}
OFFLINE = {**COMMON, "steps": 8, "eval_every": 3}
ONLINE = {**COMMON, "rounds": 5, "K": 2, "max_tokens": 6, "watch": "warn", "epochs": 1}
SELECTING = {**COMMON, "rounds": 2, "K": 4, "max_tokens": 6, "steps": 4}
JUDGE = {"judge_warmup": 5, "judge_batch": 8, "judge_lr": 1e-2}
SCENARIOS = {
    "sft": ("sft", "texts", OFFLINE),
    "sft-lora": ("sft", "texts", {**OFFLINE, "adapter": "lora", "rank": 2, "steps": 6}),
    "sft-patience": ("sft", "texts", {**OFFLINE, "lr": 0.3, "patience": 1, "steps": 12}),
    "dpo": ("dpo", "pairs", OFFLINE),
    "dpo-stored": ("dpo", "pairs", {**OFFLINE, "reference": "stored"}),
    "reward-model": ("reward_model", "pairs", {**OFFLINE, "keep_best": "eval_reward_accuracy"}),
    "ppo-length": (
        "ppo",
        "texts",
        {**ONLINE, "epochs": 2, "minibatches": 2, "kl_target": 1.0, "keep_best": "eval_score"},
    ),
    "raft": ("raft", "texts", SELECTING),
    "rest": ("rest", "texts", {**SELECTING, "thresholds": "0.2,0.4", "keep_best": "eval_score", "rounds": 3}),
    "spin": ("spin", "texts", {**SELECTING, "K": 1, "mix": "last"}),
    "ppo-ptx": ("ppo_ptx", "texts", {**ONLINE, "pretrain_batch": 3, "minibatches": 2}),
    "nlpo": ("nlpo", "texts", {**ONLINE, "nucleus": 0.6, "nucleus_least": 1, "nucleus_every": 3}),
    "rlgaf": ("rlgaf", "texts", {**ONLINE, **JUDGE, "judge_spoilt": 0.5}),
    "rlgaf-prefix": ("rlgaf", "texts", {**ONLINE, **JUDGE, "judge_sees": "prefix"}),
    "rlgaf-pair": ("rlgaf", "texts", {**ONLINE, **JUDGE, "judge_sees": "pair", "judge_loss": "tie"}),
    "rlgaf-gumbel": ("rlgaf_gumbel", "texts", {**ONLINE, **JUDGE, "form": "soft", "tau_end": 0.5}),
    "rlgaf-warmup": ("rlgaf", "texts", {**ONLINE, **JUDGE, "rounds": 3, "sft_epochs": 0.5}),
}
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def make_world(place: Path) -> None:
    """Write a model with random weights, demonstrations and pairs."""
    save_trunk(tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=0), place / "start")
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    texts = [{"prompt": text(1, 3), "response": " " + text(1, 4)} for _ in range(30)]
    pairs = [{"prompt": text(1, 3), "chosen": " " + text(1, 4), "rejected": " " + text(1, 4)} for _ in range(30)]
    for name, rows in (("texts", texts), ("pairs", pairs)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


JUDGED = ("ppo", "ppo_ptx", "nlpo", "raft", "rest")


def run(name: str, world: Path, folder: Path) -> None:
    """Start a run, or go on with it."""
    method, data, settings = SCENARIOS[name]
    os.environ["SPARRING_CACHE"] = f"{folder}.cache"
    train(
        method, model=str(world / "start"), data=str(world / f"{data}.jsonl"), run=folder, resume=True,
        feedback=["length"] if method in JUDGED else (), settings=settings, quiet=True,
        pretrain=str(world / "texts.jsonl") if method == "ppo_ptx" else None,
    )  # fmt: skip


def start(work: Callable[[], None]) -> int:
    """Do some work in a child process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def forked(work: Callable[[], None], *, seconds: float | None = None) -> bool:
    """Do some work in a child process, kill it after some seconds, wait for it; returns whether it was killed."""
    pid = start(work)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # a child that has ended stays, as a zombie, until it is waited for
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit("a run failed; its traceback is above")
    return False


def on_file_events(folder: Path, then: Callable[[], None]) -> None:
    """Call `then` before every operation on the files of a run."""

    def hook(event: str, args: tuple) -> None:
        # Deleting a folder goes by names relative to it, so these two are counted wherever they are.
        if event in FILE_EVENTS and (str(args[0]).startswith(str(folder)) or event in ("os.remove", "os.rmdir")):
            then()

    sys.addaudithook(hook)


def count_file_events(name: str, world: Path, folder: Path) -> None:
    """Run to the end and write down how many operations on files that took."""
    seen = []
    on_file_events(folder, lambda: seen.append(1))
    run(name, world, folder)
    Path(f"{folder}.events").write_text(str(len(seen)))


def run_until_event(name: str, world: Path, folder: Path, number: int) -> None:
    """Run, and die right before one of the operations on files."""
    left = [number]

    def then() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on_file_events(folder, then)
    run(name, world, folder)


def outcome(folder: Path) -> dict[str, object]:
    """All of a finished run that must not depend on how it came about."""
    files = [*folder.glob("model/*.safetensors"), *folder.glob("judge/*.safetensors")]
    weights = {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{n: v for n, v in r.items() if n not in TIMING} for r in rows]
    samples = (folder / "samples.jsonl").read_text() if (folder / "samples.jsonl").exists() else ""
    assert weights and rows
    return {"weights": weights, "rows": rows, "samples": samples}


def attempt(name: str, world: Path, folder: Path, draw: random.Random, seconds: float, events: int) -> tuple[int, int]:
    """Kill a run once or twice and finish it; returns the kills, and how many of them were at a file operation."""
    kills = at_files = 0
    wanted = 2 if draw.random() < 0.25 else 1
    # Once the model is there, nothing is left that a further kill could break.
    while kills < wanted and not (folder / "model").is_dir():
        if draw.random() < 0.5:
            killed = forked(partial(run_until_event, name, world, folder, draw.randrange(events)))
            at_files += killed
        else:
            killed = forked(partial(run, name, world, folder), seconds=draw.uniform(0, seconds))
        kills += killed
    forked(partial(run, name, world, folder))
    return kills, at_files


def share(job: int, args: argparse.Namespace, world: Path, known: dict) -> None:
    """Do one worker's part of the kills and write down how it went."""
    draw, names = random.Random(f"{args.seed}/{job}"), args.runs
    kills = at_files = wrong = number = 0
    while kills < args.kills // args.jobs + (job < args.kills % args.jobs):
        name, folder = names[(number * args.jobs + job) % len(names)], world / f"attempt-{job}-{number}"
        number += 1
        more, files = attempt(name, world, folder, draw, known[name]["seconds"], known[name]["events"])
        kills, at_files = kills + more, at_files + files
        if outcome(folder) == known[name]["outcome"]:
            shutil.rmtree(folder)
        else:
            wrong += max(more, 1)
            print(f"{name}: {folder} is not as {world / name}", file=sys.stderr)
    (world / f"job-{job}.json").write_text(json.dumps({"kills": kills, "at_files": at_files, "wrong": wrong}))


def undisturbed(name: str, world: Path) -> dict:
    """Make the run that is never stopped, and learn how long it takes; what it imports is there for all forks."""
    run(name, world, world / name)
    begin, again = time.monotonic(), world / f"{name}-again"
    forked(partial(count_file_events, name, world, again))
    seconds, found = time.monotonic() - begin, outcome(world / name)
    assert found == outcome(again), f"{name}: two undisturbed runs differ"
    return {"outcome": found, "seconds": seconds, "events": int((world / f"{name}-again.events").read_text())}


def main() -> int:
    """Make the runs that are never stopped, then kill as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (default: one a core)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments (default: random)")
    parser.add_argument("--runs", nargs="*", choices=SCENARIOS, default=list(SCENARIOS), help="which runs to kill")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the libraries, about their own future
    started, world = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
    make_world(world)
    known = {name: undisturbed(name, world) for name in args.runs}
    workers = [start(partial(share, job, args, world, known)) for job in range(args.jobs)]
    failed = [w for w in workers if os.waitpid(w, 0)[1]]
    if failed:
        raise SystemExit("a worker failed; its traceback is above")
    parts = [json.loads((world / f"job-{job}.json").read_text()) for job in range(args.jobs)]
    kills, at_files, wrong = (sum(p[n] for p in parts) for n in ("kills", "at_files", "wrong"))
    print(
        f"{kills} kills ({at_files} at a file operation), {kills - wrong} exact resumes, "
        f"{len(args.runs)} kinds of run, seed {args.seed}, {time.monotonic() - started:.0f} s"
    )
    if not wrong:
        shutil.rmtree(world)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

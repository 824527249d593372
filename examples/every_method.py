"""Every method on real text with a small real model: does it learn what its data says, and what does that cost?

`examples/tasks.py` makes five tasks. Each method starts from the task's model and learns from what its kind of data
keeps of the task: rankings, pairs, marks, the best answers, demonstrations, or from scores of its own samples. On
held-out prompts: how often it ranks as the data does (1/2 for the start itself), how much higher its own answers score
than the start's, KL from the start; and time and memory. Every cell is a normal run folder, a finished cell is skipped
and a killed one goes on, so the same command continues until the table is there:

    python examples/every_method.py --model MODEL --data DATA_FOLDER --out runs/methods --task sentiment
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imdb_sentiment import load, spread
from tasks import TASKS, Place, prepare

PRELOADED = [
    "torch",
    "accelerate",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
]
SCORERS = ("reward_model", "ranking_reward_model", "pairwise_ranker")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method with its settings; `learns` names the file it learns from, `tested` the file it is measured on."""

    method: str
    learns: str = "preferences"  # the task's pairs or rankings
    loop: str = "file"  # file; online: scores of own samples; select: the best of own samples
    tested: str = "held_out"
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name or self.method

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9_]+", "-", self.label).strip("-")

    @property
    def is_scorer(self) -> bool:
        return self.method in SCORERS

    def score(self, found: dict[str, Any]) -> str:
        """The name of the judge's figure, if there is one."""
        return "" if self.is_scorer else next((name for name in found if name.startswith("score ")), "")


def online(method: str) -> Cell:
    return Cell(method=method, learns="prompts", loop="online", settings={"rounds": 25, "batch": 8})


def select(method: str, **settings: Any) -> Cell:
    return Cell(method=method, learns="prompts", loop="select", settings={"K": 4, "rounds": 2, "batch": 16} | settings)


PAIRED = [Cell(method=m) for m in ("dpo", "ipo", "rso", "simpo", "orpo", "cpl", "cpl_kl")]
RANKED = [Cell(method=m) for m in ("listwise_dpo", "rrhf", "pro", "slic")]
HELD = [Cell(method="slic_kl")]  # to the start over the whole vocabulary
MARKED = [
    Cell(method="kto", learns="marks"),
    Cell(method="hir", learns="marks", tested="held_out_instructed"),
    Cell(method="joint_feedback", learns="marks", tested="held_out_verdicts"),
]
MEAN = {"reads": "mean"}
REWARD = [Cell(method="reward_model"), Cell(method="reward_model", name="reward_model (mean)", settings=MEAN)]
RANKING_REWARD = [
    Cell(method="ranking_reward_model"),
    Cell(method="ranking_reward_model", name="ranking_reward_model (mean)", settings=MEAN),
]
JUDGES = [*REWARD, Cell(method="pairwise_ranker", settings={"max_prompt": 400})]  # which holds both responses
BEST = [Cell(method="sft", name="sft (best of 4)")]
ONLINE = [online(m) for m in ("reinforce", "reinforce_value", "rloo", "grpo", "ppo", "nlpo")]
SELECTING = [
    select("best_of_n", rounds=1),
    select("rest", K=8, thresholds="0.5,0.7"),
    select("raft"),
    select("sample_rank", rounds=1, K=8, accepted=4),
]
MORE = [
    online("ppo_ptx"),
    replace(select("best_of_n", rounds=1), learns="more_prompts", name="best_of_n (640 prompts)"),
    select("farl"),
    Cell(method="spin", learns="positive", tested="held_out_positive", loop="play", settings={"rounds": 2}),
]
FEW = [c for c in ONLINE + SELECTING if c.method in ("rloo", "ppo", "raft")]
CELLS = {
    "sentiment": BEST + PAIRED + RANKED + HELD + MARKED + JUDGES + RANKING_REWARD + ONLINE + SELECTING + MORE,
    "dialogue": PAIRED + RANKED[-1:] + MARKED + JUDGES + FEW,
    "instructions": PAIRED[:1] + RANKED + RANKING_REWARD,
    "summarisation": PAIRED + RANKED[-1:] + MARKED + JUDGES + FEW,
    "translation": BEST + PAIRED + RANKED + HELD + MARKED + JUDGES + RANKING_REWARD + FEW + SELECTING[:1],
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--task", choices=tuple(TASKS), default="sentiment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, each on one thread")
    parser.add_argument("--size", type=float, default=1.0, help="share of the rows and rounds, for a quick look")
    parser.add_argument("--only", nargs="*", help="labels of the cells to run, as they stand in the table")
    args = parser.parse_args()
    os.environ |= {
        "OMP_NUM_THREADS": "1",  # two threads that share cores wait for each other
        "SPARRING_GOLD": str(Path(args.data) / "imdb_bow_sentiment.json.gz"),
    }
    place = Place(
        home=Path(args.out) / args.task, model=args.model, data=Path(args.data), name=args.task, size=args.size
    )  # fmt: skip
    cells = [c for c in CELLS[args.task] if not args.only or c.label in args.only]
    # Each cell has a process of its own, so that its peak of memory is its own; it begins with the imports done.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["__main__", *PRELOADED])
    with server.Pool(args.workers, maxtasksperchild=1) as pool:
        pool.apply(prepare, (place, any(c.loop in ("online", "select") for c in cells)))
        pool.starmap(run_cell, [(place, c, seed) for seed in range(args.seeds) for c in cells], chunksize=1)
    sys.stdout.write(table(place, args.seeds))


def run_cell(place: Place, cell: Cell, seed: int) -> None:
    """Train and measure one method with one seed, unless that is done; a failure is told and leaves a gap."""
    import sparring

    run = place.home / f"seed-{seed}" / cell.folder
    if (result := run.with_suffix(".json")).exists():
        return
    began = time.process_time()  # which other work on the machine does not lengthen, as it does the clock's
    try:
        sparring.train(cell.method, model=place.start, run=run, resume=True, quiet=True, **asked(place, cell, seed))
        seconds = time.process_time() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = measure(place, cell, str(run), seed)
        if cell.score(found) and not place.before(cell.tested).exists():
            save(place.before(cell.tested), measure(place, cell, place.start, 0))
    except Exception:
        sys.stderr.write(f"{run}:\n{traceback.format_exc()}")
        return
    save(result, found | {"seconds": {"mean": seconds}, "memory": {"mean": memory}})


def asked(place: Place, cell: Cell, seed: int) -> dict[str, Any]:
    """What a cell asks of sparring.train, beside the model and the run."""
    limits = place.task.limits
    data = str(place.home / f"{place.task.kind if cell.learns == 'preferences' else cell.learns}.jsonl")
    if cell.loop == "file":
        return {"data": data, "settings": place.settings | cell.settings | {"seed": seed}}
    own = {"max_prompt": limits["max_prompt"], "max_tokens": limits["max_response"], "held_out": 0.0, "seed": seed}
    if cell.loop == "play":
        own |= {"overflow": "cut", "batch": 16, "epochs": 2.0, "max_response": limits["max_response"]}
        return {"data": data, "settings": own | cell.settings}
    if cell.loop == "online":
        own |= {"scores": place.task.scores, "rounds": place.count(cell.settings["rounds"])}
    pretrain = str(place.home / "positive.jsonl") if cell.method == "ppo_ptx" else None
    return {"data": data, "feedback": [place.judge], "pretrain": pretrain, "settings": cell.settings | own}


def measure(place: Place, cell: Cell, model: str, seed: int) -> dict[str, Any]:
    """Evaluate a model on the held-out file of a cell; a reward model scores only those that learnt from it."""
    import sparring

    limits = {name: cell.settings.get(name, number) for name, number in place.task.limits.items()}
    tokens, judges = limits["max_response"], [place.judge] if place.task.judge or cell.loop != "file" else []
    if cell.tested == "held_out_verdicts":  # whose prompts hold the answer: what is written behind them is none
        tokens, judges = 1, []
    more = {} if cell.is_scorer else {"feedback": judges, "base": place.start, "max_tokens": tokens}
    found = sparring.evaluate(model, data=str(place.home / f"{cell.tested}.jsonl"), seed=seed, **limits, **more)
    return found | ({"reward_accuracy": verdicts(place, model)} if cell.tested == "held_out_verdicts" else {})


def verdicts(place: Place, model: str) -> dict[str, Any]:
    """How often a model that writes verdicts has come to lean more to "good" behind the best response than the worst.

    Whether it leans to the right word says less: one that leans to the same word everywhere is right half of the time.
    """
    from sparring.core.masked import masked_sum
    from sparring.data.batch import collate
    from sparring.evaluation.intervals import share_of
    from sparring.evaluation.load import given_rows, read_records
    from sparring.evaluation.measure import token_logps
    from sparring.evaluation.plan import Limits
    from sparring.models.backbone import load_trunk
    from sparring.models.roles import Network

    records, _ = read_records(str(place.home / "held_out_verdicts.jsonl"), {}, (), 0)
    networks = [Network(trunk=load_trunk(path, device="cpu")) for path in (model, place.start)]
    rows = given_rows(records, networks[0].trunk, Limits(**place.task.limits), [])
    batch = collate(rows)
    own, ref = (masked_sum(token_logps(batch, network).double(), batch.mask) for network in networks)
    lean = ((own - ref)[:, 0] - (own - ref)[:, 1]).unflatten(0, (-1, 2))  # to the right word, behind best and worst
    return share_of(float((lean.sum(1) > 0).sum()), len(lean)).to_dict()


def save(path: Path, found: dict[str, Any]) -> None:
    """Write the figures of one cell whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(path)


def table(place: Place, seeds: int) -> str:
    """Write a row for each cell: means over seeds, with the intervals that can be had."""
    titles = (
        "method | data | seeds | accuracy, over seeds | over prompts | gain, over prompts | KL | CPU s | MB | command"
    )
    lines = [f"| {titles} |", "|---" * len(titles.split(" | ")) + "|"]
    for cell in CELLS[place.name]:
        files = [place.home / f"seed-{s}" / f"{cell.folder}.json" for s in range(seeds)]
        if cells := [load(path) for path in files if path.exists()]:
            lines.append("| " + " | ".join(line(place, cell, cells)) + " |")
    text = "\n".join(lines) + "\n"
    (place.home / "table.md").write_text(text)
    return text


def line(place: Place, cell: Cell, cells: list[dict[str, Any]]) -> list[str]:
    """One row of the table: Student's t over seeds; over prompts, of the seeds' mean, Wilson's and the bootstrap."""
    from sparring.evaluation.intervals import mean_of, over_seeds, share_of

    def mean(name: str) -> float:
        return sum(c[name]["mean"] for c in cells) / len(cells)

    accuracy, n = [c["reward_accuracy"]["mean"] for c in cells], cells[0]["reward_accuracy"]["n"]
    by_seed = spread(over_seeds(accuracy)) if len(cells) > 1 else f"{accuracy[0]:.3f}"
    prompts = share_of(mean("reward_accuracy") * n, n)
    row = [
        cell.label,
        cell.learns.replace("_", " "),
        str(len(cells)),
        by_seed,
        f"[{prompts.low:.3f}, {prompts.high:.3f}]",
    ]
    gain = kl = ""
    if name := cell.score(cells[0]):
        columns = zip(*(c["values"][name] for c in cells), load(place.before(cell.tested))["values"][name], strict=True)
        gain = spread(mean_of([sum(own) / len(own) - before for *own, before in columns]))
    if "kl" in cells[0] and cell.tested != "held_out_verdicts":
        kl = spread(over_seeds([c["kl"]["mean"] for c in cells])) if len(cells) > 1 else f"{cells[0]['kl']['mean']:.3f}"
    return [*row, gain, kl, f"{mean('seconds'):.0f}", f"{mean('memory'):.0f}", f'`--only "{cell.label}"`']


if __name__ == "__main__":
    main()

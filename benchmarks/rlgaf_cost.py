"""What the adversary costs: memory of RLGAF beside LoRA fine-tuning, and time of its round beside RLOO's.

    python benchmarks/rlgaf_cost.py                   # both tables, on ../shared/models/reviews-7m
    python benchmarks/rlgaf_cost.py fp32              # in 32 bits; without a word in the format that is fastest here
    python benchmarks/rlgaf_cost.py time              # only one of the tables; also: memory
    python benchmarks/rlgaf_cost.py time lora         # only with adapters; also: none

`memory`: the most that all tensors hold at once, weights and optimizer included, while sft --adapter lora makes steps,
and while rlgaf --adapter lora makes rounds over as many tokens. In RLGAF policy, reference, value head and judge are
adapters (or none) on the same frozen weights. With a `base` the judge meets that one first; it lies below the
adapters, or `beside` them, a model of its own.

`time`: a round is to sample, score, update the policy and, in RLGAF, the judge, by the policy equation RLOO in both.
RLOO's scores come from a frozen reward model of the same size. The two take turns in one process; time is the shortest
of several rounds, in CPU-seconds, part by part.
"""

import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plan_accuracy import LIMITS, SHARED, Held, files

from sparring.cli.main import parse
from sparring.cli.train import arguments
from sparring.data.responses import read_out
from sparring.feedback.combine import learners
from sparring.loops.answers import Answers
from sparring.loops.build import build_offline, build_online
from sparring.loops.job import Job, make_job
from sparring.loops.load import load_data, load_model
from sparring.loops.offline import Loop
from sparring.loops.online import Online
from sparring.loops.reward import rewarded
from sparring.loops.run import Run
from sparring.models.backbone import load_trunk
from sparring.models.machine import Machine
from sparring.models.roles import new_scorer
from sparring.models.scorers import save_scorer
from sparring.rollout import sample as sampler
from sparring.rollout.sample import Sampling, sample

MODEL = SHARED / "models/reviews-7m"
B, K, T = 8, 4, 64
ROUNDS = 5
ADAPTERS = ("lora", "none")
Part = dict[str, float]


def job_of(words: list[str], precision: str, data: Path, base: str | None = None) -> tuple[Job, Machine]:
    argv = [*words, *LIMITS, "--model", str(MODEL), "--data", str(data), "--run", "none", "--precision", precision]
    choice = parse(["train", *argv])[1]
    call = arguments(choice)
    job = make_job(
        choice.choice.name, model=call["model"], data=call["data"], run="none", feedback=call["feedback"],
        policy=choice.choice.policy, base=base, settings=call["settings"],
    )  # fmt: skip
    return job, Machine("cpu", precision)


def online(words: list[str], precision: str, data: Path, base: str | None = None) -> Online:
    flags = ["--batch", str(B), "-k", str(K), "--max-tokens", str(T)]
    job, machine = job_of([*words, *flags], precision, data, base)
    trunk = load_model(job, machine)
    return build_online(job, trunk, load_data(job, trunk, lambda text: None), machine)


def a_round(made: Online, number: int) -> Part:
    """One round as loops/online.py makes it, with the seconds of its parts."""
    settings, machine = made.settings, made.machine
    rows = [made.prompts[i] for i in made.order.at(number)]
    learner = made.learner
    spent: Part = {}

    def do(name: str, act: Callable[[], Any]) -> Any:
        start = time.process_time()
        out = act()
        spent[name] = spent.get(name, 0.0) + time.process_time() - start
        return out

    with machine.computing():
        drawn = do("sample", lambda: sample(made.networks.policy, [r.prompt for r in rows], settings.K,
                                            Sampling(max_tokens=settings.max_tokens), seed=number))  # fmt: skip
        rollout = replace(drawn, batch=drawn.batch.answering(rows))
        responses = read_out(rollout.batch, made.networks.policy.trunk.tokenizer)
        scores = do("score", lambda: made.feedback.score(responses).float())
    known = do("reference", lambda: learner.known(rollout, rewarded(scores, rollout.stops, 0.0)))
    do("update", lambda: learner.improve(rollout.batch, known, number))
    for judge in learners(made.feedback):
        do("judge", lambda judge=judge: judge.learn(responses, updates=made.judge_updates(made.judge_warmup)))
    return spent


def meet(made: Online) -> None:
    """A round of the judge's warm-up, in which the base answers."""
    answers = Answers(made.networks.policy, made.settings, made.machine, opponent=made.opponent)
    rollout = answers.for_the_judge([made.prompts[i] for i in made.warm_up_order.at(0)], 0)
    for judge in learners(made.feedback):
        judge.learn(answers.read(rollout), updates=2)


def memory(precision: str, data: dict[str, Path], place: Path) -> None:
    print(f"memory in {precision}: the most that all tensors hold, MB; {B} x {K} responses of {T} tokens")
    rows = online(["rlgaf", "--adapter", "lora"], precision, data["demos"]).prompts
    a_round = sum(B * (len(r.prompt) + K * T) for r in rows)
    batch = round(a_round / sum(r.tokens for r in rows))  # demonstrations with as many tokens as a round
    tokens = round(a_round / len(rows))
    for limit in (8192, 1024):
        print(f"  passes of at most {limit} tokens; a step or round has {tokens}")
        _memory(precision, data, batch, ["--micro-tokens", str(limit)], place)


def _memory(precision: str, data: dict[str, Path], batch: int, limit: list[str], place: Path) -> None:
    sft = ["sft", "--adapter", "lora", "--batch", str(batch), *limit]
    beside = shutil.copytree(MODEL, place / "beside", dirs_exist_ok=True)  # a model of its own, so it is loaded as one
    bases = {"base": str(MODEL), "base beside": str(beside)}
    held: dict[str, float] = {}
    games = [f"rlgaf lora, {policy}{base}" for policy in ("ppo", "rloo") for base in ("", *(f", {b}" for b in bases))]
    for name in ("sft lora", *games):
        gc.collect()
        with Held() as seen:
            if name == "sft lora":
                job, machine = job_of(sft, precision, data["demos"])
                trunk = load_model(job, machine)
                rows = load_data(job, trunk, lambda text: None)
                loop = Loop(build_offline(job, trunk, rows, machine, start="", quiet=True), Run(Path("none"), "step"))
                for step in range(1, 3):
                    loop.step(step)
                del trunk, loop
            else:
                _, policy, *base = name.split(", ")
                words = ["rlgaf", "--policy", policy, "--adapter", "lora", *limit]
                made = online(words, precision, data["demos"], bases[base[0]] if base else None)
                if base:
                    meet(made)
                for number in range(2):
                    a_round(made, number)
                del made
        held[name] = seen.peak / 1e6
        print(f"    {name:30} {held[name]:7.1f}   x {held[name] / held['sft lora']:.2f}", flush=True)


def times(precision: str, data: dict[str, Path], place: Path, adapters: list[str]) -> None:
    print(f"time in {precision}: CPU-seconds of a round, {B} x {K} responses of {T} tokens, prompts of about 10")
    trunk = load_trunk(str(MODEL))
    save_scorer(new_scorer(trunk, "judge", 0), place / "judge")
    for adapter in adapters:
        fixed, moving = ["rloo", "--feedback", str(place / "judge")], ["rlgaf", "--policy", "rloo"]
        runs = {
            name: online([*words, "--adapter", adapter], precision, data["demos"])
            for name, words in (("rloo", fixed), ("rlgaf", moving))
        }
        least: dict[str, Part] = {name: {} for name in runs}
        for number in range(ROUNDS + 1):
            for name, made in runs.items():
                for part, spent in a_round(made, number).items():
                    if number:
                        least[name][part] = min(spent, least[name].get(part, spent))
        whole = {name: sum(parts.values()) for name, parts in least.items()}
        for name, parts in least.items():
            told = "  ".join(f"{part} {spent:.2f}" for part, spent in parts.items())
            ratio = whole[name] / whole["rloo"]
            print(f"  {name:6} --adapter {adapter:5} {whole[name]:6.2f}   x {ratio:.2f}   {told}", flush=True)


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    sampler.end_tokens = lambda policy: [-1]  # never drawn, so that every response is of full length
    precision = next((w for w in words if w in ("fp32", "bf16")), Machine("cpu").precision)
    with tempfile.TemporaryDirectory() as folder:
        data = files(Path(folder))
        if "time" not in words:
            memory(precision, data, Path(folder))
        if "memory" not in words:
            times(precision, data, Path(folder), [w for w in words if w in ADAPTERS] or list(ADAPTERS))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The data of five tasks on real text, made once for all methods: what to learn from, where to start, how to test.

Every task is a folder. `rankings.jsonl` or `pairs.jsonl` is what preferences are learnt from, `prompts.jsonl` what is
sampled for, `held_out.jsonl` what nobody learns from; `start/` is the fine-tuned model that every method starts from
and `judge/` the reward model that scores where no formula can. What exists is not made again, so a task that was
stopped half-way goes on.

    sentiment      own answers, ranked by a bag of words       start: the model as it is
    dialogue       people's choices between two answers        start: chosen ones of other prompts
    instructions   answers of several models, ranked by GPT-4  start: the best ones
    summarisation  GPT-4's choices between two summaries       start: the posters' own summaries
    translation    own translations, ranked by chrF            start: parallel sentences
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import judges
from imdb_sentiment import gold

GOOD = "Answer the following rightly.\n\n"  # hir's instruction, also when it is tested
VERDICT, WORDS = "\n[VERDICT]", (" good", " bad")  # what joint_feedback puts behind a response, and its marks
FILE = {"batch": 16, "eval_every": 20, "keep_best": "last", "held_out": 0.0, "overflow": "cut"}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where a task's data comes from; `limits` are tokens of a prompt and of a response."""

    make: Callable[["Place"], None]
    limits: dict[str, int]
    judge: Callable[..., float] | None = None  # a formula, or None: a reward model of the task's own data
    kind: str = "rankings"
    epochs: float = 2.0  # of what learns from the task's files
    own_samples: bool = False
    scores: str = "given"  # to policy gradients; whitened where the judge's unit is small
    start: dict[str, Any] = field(default_factory=dict)  # settings of the fine-tuning, if there is any


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task lives, and from what it is made; `size` scales the number of rows."""

    home: Path
    model: str
    data: Path
    name: str
    size: float = 1.0

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def start(self) -> str:
        return str(self.home / "start") if self.task.start else self.model

    @property
    def judge(self) -> Any:
        return self.task.judge or str(self.home / "judge")

    @property
    def settings(self) -> dict[str, Any]:
        """What every method that learns from a file is told."""
        return FILE | self.task.limits | {"epochs": self.task.epochs}

    def before(self, tested: str) -> Path:
        """Where the figures of the start on a held-out file are kept."""
        return self.home / f"start-{tested}.json"

    def count(self, number: int) -> int:
        """How many rows are taken where a full run takes so many."""
        return max(2, round(number * self.size))

    def read(self, name: str, split: str) -> Iterable[Row]:
        """The rows of one part of a file of the data folder."""
        return read_part(self.data, name, split)

    def write(self, name: str, rows: list[Row]) -> None:
        """Write rows whole or not at all."""
        write_rows(self.home, name, rows)


def read_part(data: Path, name: str, split: str) -> list[Row]:
    """Read the rows of one part of a file of the data folder."""
    from sparring.data.read import read_rows

    return [dict(r.values) for r in read_rows(str(data / f"{name}.jsonl.gz"), where=[f"split={split}"])]


def write_rows(home: Path, name: str, rows: list[Row]) -> str:
    """Write rows into a folder, whole or not at all; returns the file."""
    home.mkdir(parents=True, exist_ok=True)
    part = home / f"{name}.part"
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(part.rename(home / f"{name}.jsonl"))


def scored_samples(model: str, asked: list[Row], judge: Any, tokens: int) -> list[Row]:
    """Let a model answer every prompt four times, and score the answers that differ; a row may say what is right."""
    import sparring

    prompts = [r["prompt"] for r in asked]
    drawn = sparring.sample(model, prompts, K=4, max_tokens=tokens, seed=len(prompts))
    answers = [list(dict.fromkeys(t for t in texts if t.strip())) for texts in drawn]
    scores = sparring.score(judge, prompts, answers, references=[r.get("reference") for r in asked])
    return [r | {"responses": y, "scores": s} for r, y, s in zip(asked, answers, scores, strict=True)]


def prepare(place: Place, with_judge: bool = True) -> None:
    """Make the files of a task, its start and, if asked, its judge, as far as they are not there."""
    import sparring

    place.home.mkdir(parents=True, exist_ok=True)
    os.environ["SPARRING_GOLD"] = str(place.data / "imdb_bow_sentiment.json.gz")
    if not (place.home / "made").exists():
        place.task.make(place)
        (place.home / "made").touch()
    if place.task.start:
        demonstrations = str(place.home / "demonstrations.jsonl")
        settings = place.settings | place.task.start
        sparring.train(
            "sft", model=place.model, data=demonstrations, run=place.home / "start", resume=True, settings=settings
        )
    if place.task.own_samples and not (place.home / "ranked").exists():
        rank_own(place)
        (place.home / "ranked").touch()
    if with_judge and place.task.judge is None:
        kind = {"pairs": "reward_model", "rankings": "ranking_reward_model"}[place.task.kind]
        data, settings = str(place.home / f"{place.task.kind}.jsonl"), place.settings | {"reads": "mean", "seed": 100}
        sparring.train(kind, model=place.start, data=data, run=place.home / "judge", resume=True, settings=settings)


def rank_own(place: Place) -> None:
    """Let the start answer the prompts, score the answers, and write every form of the data that follows."""
    task = place.task
    assert task.judge is not None
    for name, source in (("rankings", "to_rank"), ("held_out", "to_test")):
        asked = [json.loads(line) for line in (place.home / f"{source}.jsonl").read_text().splitlines()]
        rows = scored_samples(place.start, asked, task.judge, task.limits["max_response"])
        finish(place, name, [r for r in rows if len(r["responses"]) > 1])


def finish(place: Place, name: str, rows: list[Row]) -> None:
    """Write rankings or pairs, and beside them their marks (best good, worst bad) and what tests of marks need."""
    ends = [(r["prompt"], *best_and_worst(r)) for r in rows]
    if name == "held_out":
        place.write("held_out_instructed", [r | {"prompt": GOOD + r["prompt"]} for r in rows])
        words = [(p + y + VERDICT, w) for p, *ys in ends for y, w in zip(ys, (WORDS, WORDS[::-1]), strict=True)]
        place.write("held_out_verdicts", [{"prompt": p, "chosen": w[0], "rejected": w[1]} for p, w in words])
    else:
        marks = [{"prompt": p, "response": y, "rating": m} for p, a, b in ends for y, m in ((a, 1), (b, 0))]
        place.write("marks", marks)
        known = {r["prompt"]: {n: r[n] for n in ("prompt", "reference") if n in r} for r in rows}
        place.write("prompts", list(known.values()))
    place.write(name, rows)


def best_and_worst(row: Row) -> tuple[str, str]:
    """The two ends of a ranking, or of a pair."""
    if "chosen" in row:
        return row["chosen"], row["rejected"]
    order = sorted(range(len(row["scores"])), key=lambda i: -row["scores"][i])
    return row["responses"][order[0]], row["responses"][order[-1]]


def sentiment(place: Place) -> None:
    """First words of reviews; for methods that learn from demonstrations, the positive reviews."""
    for split, name, number in (("train", "to_rank", 160), ("test", "to_test", 120)):
        reviews = list(place.read("imdb", split))
        every = [{"prompt": p} for p in dict.fromkeys(r["prompt"] for r in reviews)]
        place.write(name, every[: place.count(number)])
        if split == "train":
            place.write("more_prompts", every[: place.count(640)])
        liked = [r for r in reviews if r["label"] == "pos"][: place.count(number)]
        if split == "train":
            place.write("positive", [{"prompt": r["prompt"], "response": r["completion"]} for r in liked])
        else:
            place.write("held_out_positive", against_own(place, liked))


def against_own(place: Place, rows: list[Row]) -> list[Row]:
    """Real responses as chosen, the model's own as rejected; both cut to one length, so that the end tells nothing."""
    import sparring
    from sparring.models.backbone import load_tokenizer

    tokens, tokenizer = place.task.limits["max_response"], load_tokenizer(place.model)
    drawn = sparring.sample(place.model, [r["prompt"] for r in rows], K=1, max_tokens=tokens, seed=1)
    real = [tokenizer.decode(tokenizer(r["completion"])["input_ids"][:tokens]) for r in rows]
    return [
        {"prompt": r["prompt"], "chosen": y, "rejected": own}
        for r, y, (own,) in zip(rows, real, drawn, strict=True)
        if own.strip()
    ]


def dialogue(place: Place, subset: str = "helpful", longest: int = 300) -> None:
    """Short answers of an assistant, one of which people chose; the start knows the chosen ones of other rows."""
    for split, name, number in (("train", "pairs", 1600), ("test", "held_out", 300)):
        rows = [
            {n: r[n] for n in ("prompt", "chosen", "rejected")}
            for r in place.read("hh_rlhf", split)
            if r["subset"].startswith(subset) and max(len(r["chosen"]), len(r["rejected"])) <= longest
        ]
        if split == "train":  # of more than 2,200, so that these are not among the pairs
            known = rows[-place.count(240) :]
            place.write("demonstrations", [{"prompt": r["prompt"], "response": r["chosen"]} for r in known])
        finish(place, name, rows[: place.count(number)])


def instructions(place: Place, longest: int = 1000) -> None:
    """Answers of several models to an instruction, three of them by their chance to beat GPT-4, as GPT-4 sees it."""
    for split, name, number in (("train", "rankings", 400), ("test", "held_out", 200)):
        rows = []
        for r in place.read("alpaca_eval_ranked", split):
            short = {s: y for y, s in zip(r["completions"], r["scores"], strict=True) if y and len(y) <= longest}
            if len(short) > 2:
                order = sorted(short, reverse=True)
                kept = [order[0], order[len(order) // 2], order[-1]]
                prompt = f"\n\nHuman: {r['prompt']}\n\nAssistant:"
                rows.append({"prompt": prompt, "responses": [" " + short[s] for s in kept], "scores": kept})
        rows = rows[: place.count(number)]
        if split == "train":
            place.write("demonstrations", [{"prompt": r["prompt"], "response": r["responses"][0]} for r in rows])
        finish(place, name, rows)


def summarisation(place: Place) -> None:
    """Summaries of a post, one by its poster and one by a model; GPT-4 said which is better."""
    pairs = list(place.read("tldr_pairs", "train"))[: place.count(400)]
    demonstrations = list(place.read("tldr_demos", "train"))[-place.count(240) :]
    place.write("demonstrations", [{"prompt": r["prompt"], "response": r["completion"]} for r in demonstrations])
    for name, rows in (("pairs", pairs), ("held_out", list(place.read("tldr_pairs", "test"))[: place.count(200)])):
        finish(place, name, [{n: r[n] for n in ("prompt", "chosen", "rejected")} for r in rows])


def translation(place: Place) -> None:
    """Captions in English and German; other captions are translated by the start and ranked by chrF."""
    first, last = place.count(1200), place.count(160)
    train, test = list(place.read("multi30k", "train")), list(place.read("multi30k", "test"))
    shown, to_rank, to_test = train[:first], train[first : first + last], test[: place.count(160)]
    for name, part, column in (
        ("demonstrations", shown, "response"), ("to_rank", to_rank, "reference"), ("to_test", to_test, "reference")
    ):  # fmt: skip
        place.write(name, [{"prompt": ask(r["en"]), column: " " + r["de"]} for r in part])


def ask(english: str) -> str:
    """Put a sentence as the model has seen such tasks."""
    return f"English: {english}\nGerman:"


ONCE = {"epochs": 1.0}
TASKS = {
    "sentiment": Task(make=sentiment, limits={"max_prompt": 512, "max_response": 32}, judge=gold, own_samples=True),
    "dialogue": Task(
        make=dialogue, limits={"max_prompt": 64, "max_response": 64}, kind="pairs", epochs=1.0, start=ONCE
    ),
    "instructions": Task(make=instructions, limits={"max_prompt": 48, "max_response": 48}, start=ONCE),
    "summarisation": Task(
        make=summarisation, limits={"max_prompt": 48, "max_response": 48}, kind="pairs", epochs=1.0, start=ONCE
    ),
    "translation": Task(
        make=translation,
        limits={"max_prompt": 256, "max_response": 40},
        judge=judges.translation,
        own_samples=True,
        scores="whitened",
        start=ONCE,
    ),
}

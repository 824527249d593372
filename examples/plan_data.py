"""The data that the plans in examples/plans name, made from a folder of public data sets and one small model.

    python examples/plan_data.py --model MODEL --data DATA_FOLDER --out runs/data
    sparring compare examples/plans/reviews.yaml --set model=MODEL --out runs/reviews

    reviews        positive film reviews as demonstrations            measured by the sentiment of words
    answers        questions on a sentence, answers of one to a few words     by a held-out judge, and F1
    stories        the first words of a story, and how it goes on             by a held-out judge
    instructions   instructions and answers, as in the RLGAF paper            by tiers
    sentiment      own reviews, the better of two by sentiment                by that sentiment
    dialogue       own answers, K=4, ranked by a judge of people's choices    by that judge
    summaries      own summaries, K=4, ranked by ROUGE-L                      by ROUGE-L
    translations   own translations, K=4, ranked by chrF                      by chrF

A held-out judge is a reward model that tells real texts from a model's, learnt from texts that no method sees. What
exists is not made again.
"""

import argparse
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import ask, read_part, scored_samples, write_rows

SIZES, SEEDS = (50, 200, 1000), 3
JUDGE = {"reads": "mean", "epochs": 2.0, "batch": 16, "held_out": 0.0, "eval_every": 50, "overflow": "cut"}
START = {"epochs": 1.0, "batch": 16, "held_out": 0.0, "eval_every": 50, "overflow": "cut"}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where things come from and where they go; `tokens` is the length of a response, `seeds` how many draws."""

    model: str
    data: Path
    home: Path
    tokens: int
    seeds: int = SEEDS

    def read(self, name: str, split: str) -> list[Row]:
        """Read the rows of one part of a file of the data folder."""
        return read_part(self.data, name, split)

    def write(self, name: str, rows: list[Row]) -> str:
        """Write rows whole or not at all; returns the file."""
        return write_rows(self.home, name, rows)

    def sample(self, model: str, rows: list[Row], K: int = 1) -> list[list[str]]:
        """Let a model answer the prompts of rows."""
        import sparring

        return sparring.sample(model, [r["prompt"] for r in rows], K=K, max_tokens=self.tokens, seed=len(rows))

    def train(self, method: str, name: str, data: str, settings: Row, model: str = "") -> str:
        """Train a model for the data itself, in a run folder beside it."""
        import sparring

        run = self.home / name
        limits = {"max_prompt": 128, "max_response": self.tokens, "seed": 100}
        sparring.train(method, model=model or self.model, data=data, run=run, resume=True, settings=settings | limits)
        return str(run)

    def cut(self, texts: list[str]) -> list[str]:
        """Cut texts to the length of a response, so that its end tells nobody who wrote it."""
        from sparring.models.backbone import load_tokenizer

        tokenizer = load_tokenizer(self.model)
        return [tokenizer.decode(tokenizer(text)["input_ids"][: self.tokens]) for text in texts]


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="some of the parts (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many draws of demonstrations (default: {SEEDS})")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "SPARRING_PLANS": str(out)}
    shutil.copy(Path(args.data) / "imdb_bow_sentiment.json.gz", out / "sentiment.json.gz")
    for name in args.only or PARTS:
        make, tokens = PARTS[name]
        source = Source(model=args.model, data=Path(args.data), home=out / name, tokens=tokens, seeds=args.seeds)
        made = source.home / "made"
        if not made.exists() or int(made.read_text() or SEEDS) < args.seeds:  # older ones say nothing
            make(source)
            made.write_text(str(args.seeds))


def reviews(source: Source) -> None:
    """Positive reviews; prompts are the first words of others."""
    liked = [pair(r) for r in source.read("imdb", "train") if r["label"] == "pos"]
    tested = [{"prompt": p} for p in dict.fromkeys(r["prompt"] for r in source.read("imdb", "test"))]
    demonstrations(source, liked, tested[:300])


def answers(source: Source) -> None:
    """Questions whose answer stands in one sentence, which is shown."""
    rows = {split: [r for r in map(question, source.read("squad_v2_dev", split)) if r] for split in ("train", "test")}
    random.Random(0).shuffle(rows["train"])
    held_out_judge(source, rows["train"][:1500])
    demonstrations(source, rows["train"][1500:], rows["test"][:300])


def stories(source: Source) -> None:
    """Stories for children."""
    rows = [pair(r) for r in source.read("tinystories", "train")]
    held_out_judge(source, rows[:1500])
    demonstrations(source, rows[1500:], [pair(r) for r in source.read("tinystories", "test")])


def instructions(source: Source) -> None:
    """Short instructions; a judge of words learns from a thousand that no method sees."""
    rows = {split: instructions_of(source, split) for split in ("train", "test")}
    apart, rest = rows["train"][:1000], rows["train"][1000:]
    own = [texts[0] for texts in source.sample(source.model, apart)]
    tell_apart(source.home / "words.json", source.cut([r["response"] for r in apart]), own)
    demonstrations(source, rest, rows["test"], sizes=(150, 570, 1500))


def sentiment(source: Source) -> None:
    """Own reviews in pairs, the better by sentiment chosen."""
    from judges import sentiment as score

    rows = [{"prompt": p} for p in dict.fromkeys(r["prompt"] for r in source.read("imdb", "train"))][:400]
    tested = {r["prompt"]: pair(r) for r in source.read("imdb", "test")}
    kept = []
    for row, texts in zip(rows, source.sample(source.model, rows, K=2), strict=True):
        worse, better = sorted(texts, key=score)
        if worse.strip() and better.strip() and score(better) > score(worse):
            kept.append(row | {"chosen": better, "rejected": worse})
    source.write("pairs", kept)
    source.write("best", [{"prompt": r["prompt"], "response": r["chosen"]} for r in kept])
    source.write("prompts", list(tested.values())[:200])


def dialogue(source: Source) -> None:
    """Own answers to people's questions, ranked by a reward model of 1,600 of people's choices."""
    rows = [r for r in source.read("hh_rlhf", "train") if r["subset"].startswith("helpful") and len(r["chosen"]) <= 300]
    pairs, rest = [{n: r[n] for n in ("prompt", "chosen", "rejected")} for r in rows[:1600]], rows[1600:]
    judge = source.train("reward_model", "judge", source.write("choices", pairs), JUDGE | {"epochs": 1.0})
    tested = [{"prompt": p} for p in dict.fromkeys(r["prompt"] for r in source.read("hh_rlhf", "test"))]
    known = [{"prompt": r["prompt"], "response": r["chosen"]} for r in rest[:300]]
    rank_own(source, known, [{"prompt": r["prompt"]} for r in rest[300:700]], tested[:200], judge)


def summaries(source: Source) -> None:
    """Own summaries of posts, ranked by ROUGE-L against those of their authors."""
    from judges import summary

    rows = {split: [pair(r) for r in source.read("tldr_demos", split)] for split in ("train", "test")}
    rank_own(source, rows["train"][:1000], rows["train"][1000:1400], rows["test"][:200], summary)


def translations(source: Source) -> None:
    """Own translations of captions, ranked by chrF."""
    from judges import translation

    rows = {split: source.read("multi30k", split)[:1700] for split in ("train", "test")}
    parts = {split: [{"prompt": ask(r["en"]), "response": " " + r["de"]} for r in some] for split, some in rows.items()}
    rank_own(source, parts["train"][:1200], parts["train"][1200:1600], parts["test"][:200], translation)


def demonstrations(source: Source, rows: list[Row], tested: list[Row], sizes: tuple[int, ...] = SIZES) -> None:
    """Draw demonstrations by the seed, fewer being the first of more; beside them the base's own, as a rejected one."""
    for seed in range(source.seeds):
        drawn = random.Random(f"{seed}/{source.home.name}").sample(rows, sizes[-1])
        own = source.sample(source.model, drawn)
        shown = [{"prompt": r["prompt"], "response": r["response"]} | right(r) for r in drawn]
        for size in sizes:
            source.write(f"demonstrations-{size}-{seed}", shown[:size])
            pairs = [
                {"prompt": r["prompt"], "chosen": r["response"], "rejected": y}
                for r, (y,) in zip(drawn[:size], own, strict=False)
                if y.strip() and y.strip() != r["response"].strip()
            ]
            source.write(f"pairs-{size}-{seed}", pairs)
    source.write("prompts", [{"prompt": r["prompt"]} | right(r) for r in tested])


def right(row: Row) -> Row:
    """What a row knows to be right, for the formulas of judges.py."""
    known = row.get("reference", row.get("response"))
    return {} if known is None else {"reference": known}


def held_out_judge(source: Source, rows: list[Row]) -> None:
    """Train a reward model on real texts against the base's and against those of a model that imitates real ones."""
    known, rest = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    imitator = source.train("sft", "imitator", source.write("imitated", known), START)
    half = len(rest) // 2
    own = source.sample(source.model, rest[:half]) + source.sample(imitator, rest[half:])
    real = source.cut([r["response"] for r in rest])
    pairs = [
        {"prompt": r["prompt"], "chosen": y, "rejected": z}
        for r, y, (z,) in zip(rest, real, own, strict=True)
        if z.strip() and y.strip() != z.strip()
    ]
    random.Random(1).shuffle(pairs)
    source.train("reward_model", "judge", source.write("judged", pairs[150:]), JUDGE)
    source.write("judge_test", pairs[:150])


def rank_own(source: Source, known: list[Row], rows: list[Row], tested: list[Row], judge: Any) -> None:
    """Fine-tune a start, let it answer each prompt four times, and rank the different answers."""
    start = source.train("sft", "start", source.write("demonstrations", known), START)
    scored = scored_samples(start, [{"prompt": r["prompt"]} | right(r) for r in rows], judge, source.tokens)
    ranked = [r for r in scored if len(set(r["scores"])) > 1]
    source.write("rankings", ranked)
    best = [(r["prompt"], max(zip(r["scores"], r["responses"], strict=True))[1]) for r in ranked]
    source.write("best", [{"prompt": p, "response": y} for p, y in best])
    source.write("prompts", [{"prompt": r["prompt"]} | right(r) for r in tested])


def tell_apart(file: Path, real: list[str], own: list[str]) -> None:
    """Learn which words people use and the model does not, or the other way round; every word counts once a text."""
    import numpy as np
    from judges import words_of
    from scipy.sparse import csr_array

    from sparring.feedback.logistic import fit

    texts = [set(words_of(t)) for t in real + own]
    known = [w for w, n in Counter(w for t in texts for w in t).items() if n > 2]
    places = {w: i for i, w in enumerate(known)}
    cells = [(i, places[w]) for i, t in enumerate(texts) for w in t if w in places]
    rows = csr_array((np.ones(len(cells)), tuple(zip(*cells, strict=True))), shape=(len(texts), len(known)))
    is_real = np.array([1.0] * len(real) + [0.0] * len(own))
    found = fit(rows, is_real, np.full(len(texts), 1 / len(texts)), 0.003)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"bias": found.bias, "weights": dict(zip(known, found.weights.tolist(), strict=True))}))


def pair(row: Row) -> Row:
    """Name the columns as we do."""
    return {"prompt": row["prompt"], "response": row["completion"]}


def question(row: Row) -> Row | None:
    """Keep of a SQuAD question the one sentence that has its answer; None where there is no such short one."""
    if not row["answerable"]:
        return None
    context, asked = re.split(r"\n\nQuestion: ", row["prompt"].split("Context: ", 1)[1], maxsplit=1)
    for sentence in re.split(r"(?<=[.!?]) +", context):
        if row["answers"][0] in sentence and len(sentence) <= 200:
            return {
                "prompt": f"Context: {sentence}\n\nQuestion: {asked}",
                "response": row["completion"],
                "reference": row["answers"],
            }
    return None


def instructions_of(source: Source, split: str, longest: int = 300) -> list[Row]:
    """Choose short instructions with short answers, in the model's own format of a chat."""
    rows = [r for r in source.read("alpaca_instructions", split) if len(r["prompt"]) <= longest]
    return [
        {"prompt": f"\n\nHuman: {r['prompt']}\n\nAssistant:", "response": " " + r["completion"]}
        for r in rows
        if 20 <= len(r["completion"]) <= longest
    ]


PARTS: dict[str, tuple[Callable[[Source], None], int]] = {
    "reviews": (reviews, 40),
    "answers": (answers, 16),
    "stories": (stories, 48),
    "instructions": (instructions, 64),
    "sentiment": (sentiment, 32),
    "dialogue": (dialogue, 48),
    "summaries": (summaries, 40),
    "translations": (translations, 40),
}


if __name__ == "__main__":
    main()

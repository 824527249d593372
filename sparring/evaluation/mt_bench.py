"""MT-Bench: questions of two turns, in the files of FastChat, whose own tools read what is written here.

    FOLDER/question.jsonl                         the questions, and reference answers where they have any
    FOLDER/model_answer/MODEL.jsonl               what the model answers
    FOLDER/model_judgment/JUDGE_single.jsonl      a judge's score of every turn
    FOLDER/model_judgment/JUDGE_pair.jsonl        who wins against another model of the folder, in both orders

The second turn is sampled with the first and its answer before it: by the model's chat template, or as one text where
it has none. Questions are answered at FastChat's temperature for their category. A file of judgments keeps those of
other models.

Source: Zheng et al. 2023, arXiv:2306.05685, sections 2 and 3; lm-sys/FastChat, fastchat/llm_judge.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparring.core.errors import DataError, SettingError
from sparring.core.records import Prompt, Text
from sparring.core.seeds import derive
from sparring.data.bench import (
    UNREAD,
    Question,
    answer_row,
    answers_of,
    asked,
    check_ids,
    pair_row,
    question_of,
    score_row,
)
from sparring.data.read import read_rows
from sparring.data.responses import Responses
from sparring.evaluation.against import encoded
from sparring.evaluation.figures import TURN_1, TURN_2, TURNS, WIN
from sparring.evaluation.intervals import Estimate, mean_of, ratio_of
from sparring.evaluation.load import load_comparison, load_judge
from sparring.evaluation.measure import MICRO_TOKENS, Tick
from sparring.evaluation.plan import Judge, Limits, file_name, judge_name, model_name
from sparring.evaluation.trust import Found, Tables
from sparring.feedback.comparison import Comparison
from sparring.models.checkpoint import write_text
from sparring.rollout.answer import Answerer, user_opening
from sparring.rollout.sample import Sampling

Answers = Sequence[tuple[str, ...]]
"""To each question the answers to its turns."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The folder of a benchmark and its questions."""

    folder: Path
    questions: tuple[Question, ...]


def mt_bench(
    model: str,
    folder: str,
    *,
    feedback: Sequence[Judge] = (),
    against: str | None = None,
    max_tokens: int = 512,
    seed: int = 0,
    device: str = "auto",
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Answer the questions of a folder, let judges say how good the answers are, and write it all beside them.

    `feedback` scores every turn; with `against`, a model whose answers the folder has, it also says who wins, and may
    be a judge that compares. Returns the figures by name, "tables" by category and "settings". Raises UserError for a
    folder, model or judge that cannot be used.
    """
    bench = _open(folder)
    answerer = Answerer(model, device=device, say=lambda text: None)
    name = model_name(model)
    answers = _answer(bench.questions, answerer, max_tokens, seed, tick)
    _write(bench.folder / "model_answer" / f"{name}.jsonl",
           [answer_row(q, name, [own]) for q, own in zip(bench.questions, answers, strict=True)])  # fmt: skip
    rival = None if against is None else _answers_of(bench, against)
    found: dict[str, Estimate] = {}
    tables: Tables = {}
    notes: list[str] = []
    for judge in feedback:
        shown = load_comparison(judge, str(answerer.trunk.device), MICRO_TOKENS)
        if shown is None:
            figures, its = _single(bench, name, judge, answers, answerer)
            tables["mt_bench"] = [*tables.get("mt_bench", []), *its["mt_bench"]]
            found |= figures
            notes += _unread(judge_name(judge), [figures[name] for name in figures if not name.startswith(TURNS)])
        elif rival is None:
            raise SettingError(f"{judge_name(judge)} compares two answers; say --against which model of {folder}")
        if rival is not None and against is not None:
            found |= _pairs(bench, (name, model_name(against)), judge, shown, answers, rival, answerer)
    settings = {"model": model, "folder": folder, "feedback": [judge_name(j) for j in feedback], "against": against}
    settings |= {"max_tokens": max_tokens, "seed": seed, "questions": len(bench.questions)}
    out: dict[str, Any] = {key: estimate.to_dict() for key, estimate in found.items()}
    return out | {"notes": notes, "settings": settings} | ({"tables": tables} if tables else {})


def _open(folder: str) -> Bench:
    place = Path(folder).expanduser()
    file = place / "question.jsonl"
    if not file.is_file():
        raise DataError(f"{file} does not exist; put FastChat's question.jsonl there")
    questions = tuple(question_of(row) for row in read_rows(str(file)))
    check_ids(questions)
    return Bench(folder=place, questions=questions)


def _answers_of(bench: Bench, model: str) -> Answers:
    file = bench.folder / "model_answer" / f"{model_name(model)}.jsonl"
    if not file.is_file():
        raise DataError(f"{file} does not exist; let that model answer first")
    known = answers_of(read_rows(str(file)))
    if missing := [q.id for q in bench.questions if q.id not in known]:
        raise DataError(f"{file}: no answer to question {missing[0]!r}")
    return [known[q.id] for q in bench.questions]


def _answer(
    questions: Sequence[Question], answerer: Answerer, max_tokens: int, seed: int, tick: Tick | None
) -> Answers:
    """Sample turn by turn; questions of one temperature are sampled together."""
    answers: list[tuple[str, ...]] = [()] * len(questions)
    opening = user_opening(answerer) if answerer.trunk.tokenizer.chat_template else ""
    for turn in range(max(len(q.turns) for q in questions)):
        for heat in sorted({q.temperature for q in questions}):
            places = [i for i, q in enumerate(questions) if q.temperature == heat and len(q.turns) > turn]
            if not places:
                continue
            how = Sampling(max_tokens=max_tokens, temperature=heat)
            prompts = [_prompt(questions[i], answers[i], turn, answerer) for i in places]
            drawn = answerer.respond(prompts, how, seed=derive(seed, "mt_bench", turn))
            for i, (text,) in zip(places, drawn, strict=True):
                answers[i] += ((text.partition(opening)[0] if opening else text).strip(),)
        if tick is not None:
            tick(f"turn {turn + 1} of {answerer.trunk.source}", len(questions), len(questions))
    return answers


def _prompt(question: Question, answers: Sequence[str], turn: int, answerer: Answerer) -> Text:
    """Write what a turn is answered to: a conversation, or one text where the model knows no template."""
    said = asked(question.turns[: turn + 1], answers[:turn])
    return said if answerer.trunk.tokenizer.chat_template else "\n".join(m.content for m in said) + "\n"


def _talk(question: Question, answers: Sequence[str], turn: int) -> str:
    """Write all that follows the first question as one text, for the second answers rest on first ones that differ."""
    said = asked(question.turns[: turn + 1], answers[:turn])[1:]
    return "\n\n".join([*(m.content for m in said), answers[turn]])


def _single(bench: Bench, name: str, judge: Judge, answers: Answers, answerer: Answerer) -> Found:
    """Score every turn, write the judgments, and average them by turn and by category."""
    scorer = load_judge(judge, answerer.trunk, device=str(answerer.trunk.device))
    called, rows, by_turn = judge_name(judge), [], []
    for turn in (0, 1):
        places = [i for i, own in enumerate(answers) if len(own) > turn]
        if not places:
            continue
        responses = _responses(bench, answers, places, turn, answerer)
        scores = scorer.score(responses).double()[:, 0].tolist()
        by_turn.append(dict(zip(places, scores, strict=True)))
        rows += [score_row(bench.questions[i], name, called, turn + 1, prompt, score)
                 for i, prompt, score in zip(places, responses.prompts, scores, strict=True)]  # fmt: skip
    _write(bench.folder / "model_judgment" / f"{file_name(called)}_single.jsonl", rows, whose={"model": name})
    figures = {
        start + called: mean_of(list(own.values())) for start, own in zip((TURN_1, TURN_2), by_turn, strict=False)
    }
    figures[TURNS + called] = _both(by_turn, range(len(answers)))
    table = []
    for category in dict.fromkeys(q.category for q in bench.questions):
        own = [i for i, q in enumerate(bench.questions) if q.category == category]
        both = _both(by_turn, own)
        turns = {
            f"turn_{t + 1}": float(np.mean([s[i] for i in own if i in s] or [np.nan])) for t, s in enumerate(by_turn)
        }
        row = {"judge": called, "category": category, **{k: None if np.isnan(v) else v for k, v in turns.items()}}
        table.append(row | {"both": both.mean, "low": both.low, "high": both.high, "questions": len(own)})
    return figures, {"mt_bench": table}


def _unread(judge: str, turns: Sequence[Estimate]) -> list[str]:
    """Warn of scores that readers of these files take for none."""
    number = sum(score == UNREAD for turn in turns for score in turn.values)
    what = f"{number} scores of {judge} are {UNREAD}, which FastChat's tools take for a judgment that was not read"
    return [what + " and leave out; here they count"] if number else []


def _both(by_turn: Sequence[Mapping[int, float]], places: Sequence[int] | range) -> Estimate:
    """Average over all turns; a question is drawn with both of its own."""
    own = [[scores[i] for scores in by_turn if i in scores] for i in places]
    return ratio_of(list(map(sum, own)), [float(len(one)) for one in own])


def _pairs(
    bench: Bench, names: tuple[str, str], judge: Judge, shown: Comparison | None, answers: Answers, rival: Answers,
    answerer: Answerer,
) -> dict[str, Estimate]:  # fmt: skip
    """Say who wins every turn in both orders; a judge that scores has none, and says the same in both."""
    called, rows = judge_name(judge), []
    won: dict[int, list[float]] = {}
    for turn in (0, 1):
        places = [i for i in range(len(answers)) if len(answers[i]) > turn and len(rival[i]) > turn]
        if not places:
            continue
        prompts = [bench.questions[i].turns[0] for i in places]
        if shown is None:
            scorer = load_judge(judge, answerer.trunk, device=str(answerer.trunk.device))
            gap = (scorer.score(_responses(bench, answers, places, turn, answerer))
                   - scorer.score(_responses(bench, rival, places, turn, answerer)))  # fmt: skip
            orders = np.sign(gap.double().cpu().numpy()).repeat(2, axis=1)
        else:
            first, second = ([_talk(bench.questions[i], own[i], turn) for i in places] for own in (answers, rival))
            orders = np.sign(shown(list(zip(prompts, first, second, strict=True))).cpu().numpy())
        for i, prompt, (one, two) in zip(places, prompts, (1 + orders) / 2, strict=True):
            rows.append(pair_row(bench.questions[i], names, called, turn + 1, prompt, (one, two)))
            won.setdefault(i, []).append(one if one == two else 0.5)
    file = bench.folder / "model_judgment" / f"{file_name(called)}_pair.jsonl"
    _write(file, rows, whose={"model_1": names[0], "model_2": names[1]})
    own = list(won.values())
    return {WIN + called: ratio_of(list(map(sum, own)), [float(len(one)) for one in own])}


def _responses(bench: Bench, answers: Answers, places: Sequence[int], turn: int, answerer: Answerer) -> Responses:
    """Hand a judge the answers to one turn, each with all that was said before."""
    prompts = [
        Prompt(prompt=_prompt(bench.questions[i], answers[i], turn, answerer), tag=bench.questions[i].category,
               reference=bench.questions[i].reference(turn), where=bench.questions[i].where)
        for i in places
    ]  # fmt: skip
    context = answerer.trunk.context or 1_000_000
    limits = Limits(max_prompt=context, max_response=context)
    read = encoded(prompts, [(answers[i][turn],) for i in places], answerer.trunk, limits, "the model", [])
    return replace(read, texts=tuple((answers[i][turn],) for i in places))


def _write(file: Path, rows: Sequence[Mapping[str, Any]], whose: Mapping[str, str] | None = None) -> None:
    """Write rows as lines, after those of others that the file holds."""
    kept: list[Any] = []
    if whose is not None and file.is_file():
        known = [dict(row.values) for row in read_rows(str(file))]
        kept = [row for row in known if any(row.get(name) != value for name, value in whose.items())]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*kept, *rows])
    write_text(file, text)

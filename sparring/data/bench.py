"""MT-Bench and AlpacaEval in the words of their own tools, which accept what is written here. Pure functions of values.

    question    question_id, category, turns, reference           FastChat's question.jsonl
    answer      question_id, answer_id, model_id, choices, tstamp FastChat's model_answer/MODEL.jsonl
    judgment    score by turn, or g1_winner and g2_winner         FastChat's model_judgment/JUDGE_single.jsonl
    outputs     instruction, output, generator, dataset           AlpacaEval's model_outputs.json
    annotation  output_1 of generator_1, output_2, preference     AlpacaEval's annotations.json

Identities and times are made of the content, so that the same answers give the same file.

Source: lm-sys/FastChat, fastchat/llm_judge (common.py, gen_model_answer.py, show_result.py); tatsu-lab/alpaca_eval.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import DataError
from sparring.core.records import Message
from sparring.data.read import RawRow
from sparring.data.values import check_number, check_text, list_of, text_of, value_of, wrong

TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""FastChat's sampling temperature for each category."""
OTHERWISE = 0.7
"""The same for a category that is not among them."""

WINNERS = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}
SIDES = {1.0: "model_1", 0.0: "model_2", 0.5: "tie"}
UNREAD = -1  # a score that could not be read
EQUAL = 1.5  # AlpacaEval's preference where neither is better

Conversation = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of several turns; `references` answer the turns, or are empty."""

    id: Any
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...]
    where: str

    @property
    def temperature(self) -> float:
        """What it is answered at."""
        return TEMPERATURES.get(self.category, OTHERWISE)

    def reference(self, turn: int) -> str:
        """What is right as an answer to a turn; empty where the question does not say, as most of them."""
        return self.references[turn] if turn < len(self.references) else ""


def question_of(row: RawRow) -> Question:
    """Read a question; DataError says what it lacks."""
    turns = tuple(check_text(row, f"turns[{i}]", t) for i, t in enumerate(list_of(row, "turns")))
    if not turns:
        raise wrong(row, "turns", "is empty", "give at least one")
    known = row.values.get("reference")
    references = [known] if isinstance(known, str) else known if isinstance(known, list) else []
    name = "question_id" if "question_id" in row.values else "id"
    category = row.values.get("category")
    return Question(
        id=value_of(row, name), category=category if isinstance(category, str) else "", turns=turns,
        references=tuple(str(text) for text in references), where=row.where,
    )  # fmt: skip


def asked(turns: Sequence[str], answers: Sequence[str]) -> Conversation:
    """Write the conversation that the next answer goes on from: every turn so far, with its answer."""
    said = [Message(role="user", content=turns[0])]
    for turn, answer in zip(turns[1:], answers, strict=False):
        said += [Message(role="assistant", content=answer), Message(role="user", content=turn)]
    return tuple(said)


def answer_row(question: Question, model: str, choices: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Write a model's answers to all turns of a question, once for each choice."""
    turns = [list(turns) for turns in choices]
    return {
        "question_id": question.id, "answer_id": _identity(model, question.id, turns), "model_id": model,
        "choices": [{"index": i, "turns": own} for i, own in enumerate(turns)], "tstamp": 0.0,
    }  # fmt: skip


def answers_of(rows: Sequence[RawRow]) -> dict[Any, tuple[str, ...]]:
    """Read the first choice of each answer, by question."""
    found = {}
    for row in rows:
        choices = list_of(row, "choices")
        first = choices[0] if choices else None
        turns = first.get("turns") if isinstance(first, dict) else None
        if not isinstance(turns, list):
            raise wrong(row, "choices", "holds no turns", "each choice is an object with index and turns")
        found[value_of(row, "question_id")] = tuple(check_text(row, "choices[0].turns", turn) for turn in turns)
    return found


def score_row(question: Question, model: str, judge: str, turn: int, prompt: str, score: float) -> dict[str, Any]:
    """Write what a judge says of the answer to one turn, which is 1 or 2."""
    return {
        "question_id": question.id, "model": model, "judge": [judge, _template("single", turn)], "user_prompt": prompt,
        "judgment": f"{score:g}", "score": score, "turn": turn, "tstamp": 0.0,
    }  # fmt: skip


def pair_row(
    question: Question, models: tuple[str, str], judge: str, turn: int, prompt: str, orders: tuple[float, float]
) -> dict[str, Any]:
    """Write who of two models wins a turn: 1, 0 or 0.5 for the first, when it is shown first and when second."""
    row: dict[str, Any] = {"question_id": question.id, "model_1": models[0], "model_2": models[1]}
    row |= {"g1_winner": SIDES[orders[0]], "g2_winner": SIDES[orders[1]], "judge": [judge, _template("pair", turn)]}
    for game, won in zip(("g1", "g2"), orders, strict=True):
        row |= {f"{game}_user_prompt": prompt, f"{game}_judgment": SIDES[won]}
    return row | {"turn": turn, "tstamp": 0.0}


def single_score(row: RawRow) -> float | None:
    """Read a judgment's score; None for one that could not be read."""
    score = check_number(row, "score", value_of(row, "score"))
    return None if score == UNREAD else score


def winner_of(row: RawRow) -> float | None:
    """Read who won by both orders, 1, 0 or 0.5 for the first; orders that disagree are a tie; None if unread."""
    said = [text_of(row, name) for name in ("g1_winner", "g2_winner")]
    if "error" in said:
        return None
    for name, winner in zip(("g1_winner", "g2_winner"), said, strict=True):
        if winner not in WINNERS:
            raise wrong(row, name, f"is {winner!r}", "say model_1, model_2, tie or error")
    return WINNERS[said[0]] if said[0] == said[1] else 0.5


def output_row(instruction: str, output: str, generator: str, dataset: str) -> dict[str, str]:
    """Write a response as AlpacaEval's model_outputs.json has it."""
    return {"dataset": dataset, "instruction": instruction, "output": output, "generator": generator}


def annotation_row(
    instruction: str, outputs: tuple[str, str], generators: tuple[str, str], annotator: str, won: float
) -> dict[str, Any]:
    """Write how far the second output is preferred to the first, the baseline's: 0 to 1 for `won`."""
    return {
        "instruction": instruction, "output_1": outputs[0], "generator_1": generators[0], "output_2": outputs[1],
        "generator_2": generators[1], "annotator": annotator, "preference": 1 + won,
    }  # fmt: skip


def check_ids(questions: Sequence[Question]) -> None:
    """Refuse two questions with one identity: answers would belong to either."""
    seen: dict[Any, str] = {}
    for question in questions:
        if question.id in seen:
            raise DataError(f"{question.where}: question_id {question.id!r} was already in {seen[question.id]}")
        seen[question.id] = question.where


def _template(kind: str, turn: int) -> str:
    """FastChat's name for how a judge was asked, which its tables group by."""
    return f"{kind}-{'v2' if kind == 'pair' else 'v1'}" + ("-multi-turn" if turn > 1 else "")


def _identity(model: str, question: Any, turns: list[list[str]]) -> str:
    return hashlib.sha256(repr((model, question, turns)).encode()).hexdigest()[:22]

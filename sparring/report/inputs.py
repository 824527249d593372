"""What a comparison page is made from, as it lies on disk: plain JSON, read and checked here.

results    {"title": text, "verdict": text,
            "methods": [{"name": text, "gold": FIGURE, "kl": FIGURE, ..., "seconds": number, "note": text}],
            "seeds": number or list, "prompts": number, "command": text, "machine": text, "settings": {...}}
           FIGURE is a number, {"mean": m, "low": l, "high": h} with its 95 % interval, or null. Every key
           whose value is a FIGURE becomes a column, so a new figure needs no change here.
curves     {method name: [{"step": 1, "round": 1, "loss": 0.7, ...}, ...]}, the rows of metrics.jsonl
samples    [{"prompt": text, "answers": {method name: {"text": text, "gold": number}}}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sparring.core.errors import DataError
from sparring.report.figures import Figure

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached; `seconds` is None when nobody measured."""

    name: str
    figures: dict[str, Figure]
    seconds: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """A comparison: its sentence, its methods in the order of the table, and how to make it again."""

    title: str
    verdict: str
    methods: tuple[MethodResult, ...]
    seeds: str
    prompts: str
    command: str
    machine: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one method wrote; the score is None when nobody gave one."""

    method: str
    text: str
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt, and what each method wrote."""

    prompt: str
    answers: tuple[Answer, ...]


def read_results(raw: Mapping[str, Any]) -> Results:
    """Read a comparison.

    Raises DataError, naming the field, when something is missing or of the wrong type.
    """
    methods = raw.get("methods")
    if not isinstance(methods, Sequence) or isinstance(methods, str) or not methods:
        raise DataError("results: methods must be a list with at least one method, each with a name")
    return Results(
        title=str(raw.get("title", "Comparison")),
        verdict=str(raw.get("verdict", "")),
        methods=tuple(_method(found, f"results: methods[{place}]") for place, found in enumerate(methods)),
        seeds=_count(raw.get("seeds")),
        prompts=_count(raw.get("prompts")),
        command=str(raw.get("command", "")),
        machine=str(raw.get("machine", "")),
        settings=dict(raw.get("settings", {})),
    )


def read_samples(raw: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Read samples side by side.

    Raises DataError, naming the place, when a prompt or a text is missing.
    """
    samples = []
    for place, found in enumerate(raw):
        where = f"samples[{place}]"
        if not isinstance(found.get("prompt"), str) or not isinstance(found.get("answers"), Mapping):
            raise DataError(f"{where}: prompt must be text and answers a mapping from method to its text")
        answers = tuple(_answer(name, answer, where) for name, answer in found["answers"].items())
        samples.append(Sample(prompt=found["prompt"], answers=answers))
    return samples


def read_figure(raw: Any, where: str) -> Figure | None:
    """Read a number, a mean with its interval, or null.

    Raises DataError when it is none of them.
    """
    if raw is None:
        return None
    if is_number(raw):
        return Figure(mean=float(raw))
    if isinstance(raw, Mapping) and is_number(raw.get("mean")):
        low, high = raw.get("low"), raw.get("high")
        if is_number(low) and is_number(high):
            return Figure(mean=float(raw["mean"]), low=float(low), high=float(high))
        return Figure(mean=float(raw["mean"]))
    raise DataError(f"{where} is {raw!r}; give a number, or mean, low and high")


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether a value from JSON is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _method(raw: Any, where: str) -> MethodResult:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise DataError(f"{where}: name is missing")
    seconds = raw.get("seconds")
    figures = {}
    for key, value in raw.items():
        if key in ("name", "note", "seconds"):
            continue
        figure = read_figure(value, f"{where} ({raw['name']}): {key}")
        if figure is not None:
            figures[key] = figure
    return MethodResult(
        name=raw["name"],
        figures=figures,
        seconds=float(seconds) if is_number(seconds) else None,
        note=str(raw.get("note", "")),
    )


def _answer(name: str, raw: Any, where: str) -> Answer:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("text"), str):
        raise DataError(f"{where}: {name}: text is missing")
    score = raw.get("gold")
    return Answer(method=name, text=raw["text"], score=float(score) if is_number(score) else None)


def _count(raw: Any) -> str:
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return f"{len(raw)} ({', '.join(map(str, raw))})"
    return "" if raw is None else str(raw)

"""What a comparison page is made from, as it lies on disk: plain JSON, read and checked here.

results    {"title": text, "verdict": text (a line is a paragraph),
            "methods": [{"name": text, "gold": FIGURE, "kl": FIGURE, ..., "seconds": number, "note": text}],
            "seeds": number or list, "prompts": number, "command": text, "machine": text, "settings": {...}}
           FIGURE is a number, {"mean": m, "low": l, "high": h} with its 95 % interval, or null. Every key
           whose value is a FIGURE becomes a column, so a new figure needs no change here; those of COSTS have a
           table of their own. May be left out, and is then not shown:
           "headline"  a sentence that says the most
           "judges"    lines as in methods, of those that only trained a judge
           "base"      the method whose responses the others' are compared with (the first)
           "tests"     {title: [{"name", "rival", "mean", "low", "high", "adjusted", "seeds", "prompts",
                       "seeds_needed"}]}
           "frontier"  {"start": text, "picker": text, "points": [{"name", "kl": FIGURE, "gold": FIGURE}],
                        "best_of": [{"n", "kl", "gold", "proxy"}],
                        "trails": [{"name", "begins_at", "rows": [{"seed", "round", "kl", "gold", "proxy"}]}],
                        "fits": [{"name", "form", "equation", "start", "a", "b", "explained", "far", "turn", "says"}]}
                       distances in nats; left out, the points are the methods' own figures
           "plan", "versions", "notes"    what else is needed to make it again, and what was said on the way
curves     {method name: [{"step": 1, "round": 1, "loss": 0.7, ...}, ...]}, the rows of metrics.jsonl
samples    [{"prompt": text, "answers": {method name: {"text": text, "gold": number, "mean": number}}}]
           "gold" is the score of the text, "mean" that of all the method's responses to the prompt
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sparring.core.errors import DataError
from sparring.report.figures import Figure

Rows = Sequence[Mapping[str, Any]]

COSTS = ("seconds", "tokens", "flops", "memory", "labels")
"""What a method cost, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached; `seconds` is None when nobody measured."""

    name: str
    figures: dict[str, Figure]
    seconds: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A method's reward, and how far from the start it was had, in nats."""

    name: str
    kl: Figure
    gold: Figure


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The rounds of a method's runs, each with kl and gold, and proxy where a judge scored; where they began."""

    name: str
    begins_at: str
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What reward costs in distance; `best_of` has a row for each n, `fits` one for each fitted curve."""

    start: str
    picker: str = ""
    points: tuple[Point, ...] = ()
    best_of: Rows = ()
    trails: tuple[Trail, ...] = ()
    fits: Rows = ()


@dataclass(frozen=True, kw_only=True)
class Results:
    """A comparison: its sentence, its methods in the order of the table, and how to make it again."""

    title: str
    headline: str
    verdict: str
    methods: tuple[MethodResult, ...]
    judges: tuple[MethodResult, ...]
    base: str
    tests: dict[str, Rows]
    frontier: Frontier
    notes: tuple[str, ...]
    made: dict[str, Any]
    seeds: str
    prompts: str
    command: str
    machine: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one method wrote; the score is None when nobody gave one, `mean` is over all it wrote to the prompt."""

    method: str
    text: str
    score: float | None
    mean: float | None


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
    found = tuple(_method(one, f"results: methods[{place}]") for place, one in enumerate(methods))
    return Results(
        title=str(raw.get("title", "Comparison")),
        headline=str(raw.get("headline", "")),
        verdict=str(raw.get("verdict", "")),
        methods=found,
        judges=tuple(_method(one, f"results: judges[{place}]") for place, one in enumerate(raw.get("judges", ()))),
        base=str(raw.get("base", found[0].name)),
        tests={str(title): rows for title, rows in raw.get("tests", {}).items() if rows},
        frontier=_frontier(raw["frontier"]) if "frontier" in raw else _plain_frontier(found),
        notes=tuple(map(str, raw.get("notes", ()))),
        made={key: raw[key] for key in ("plan", "versions") if raw.get(key)},
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


def _frontier(raw: Mapping[str, Any]) -> Frontier:
    where = "results: frontier"
    points = []
    for one in raw.get("points", ()):
        kl, gold = (read_figure(one.get(key), f"{where}: {one.get('name')}: {key}") for key in ("kl", "gold"))
        if kl is not None and gold is not None:
            points.append(Point(name=str(one["name"]), kl=kl, gold=gold))
    trails = tuple(
        Trail(name=one["name"], begins_at=str(one["begins_at"]), rows=_numbered(one["rows"], ("kl", "gold"), where))
        for one in raw.get("trails", ())
    )
    best_of = _numbered(raw.get("best_of", ()), ("n", "kl", "gold"), where)
    return Frontier(
        start=str(raw.get("start", "")), picker=str(raw.get("picker", "")), points=tuple(points), best_of=best_of,
        trails=trails, fits=_numbered(raw.get("fits", ()), ("start", "a", "b", "explained", "far"), where),
    )  # fmt: skip


def _plain_frontier(methods: Sequence[MethodResult]) -> Frontier:
    """Take distance and the first other figure of methods that have both."""
    key = next((key for m in methods for key in m.figures if key not in ("kl", *COSTS)), "")
    both = [m for m in methods if {key, "kl"} <= m.figures.keys()]
    points = [Point(name=m.name, kl=m.figures["kl"], gold=m.figures[key]) for m in both]
    return Frontier(start="the start", points=tuple(points))


def _numbered(rows: Any, keys: Sequence[str], where: str) -> Rows:
    """Check that rows have numbers under these keys."""
    for row in rows:
        for key in keys:
            if not is_number(row.get(key)):
                raise DataError(f"{where}: {key} is {row.get(key)!r} in {str(row)[:80]}; it must be a number")
    return tuple(rows)


def _answer(name: str, raw: Any, where: str) -> Answer:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("text"), str):
        raise DataError(f"{where}: {name}: text is missing")
    score, mean = (float(x) if is_number(x) else None for x in (raw.get("gold"), raw.get("mean", raw.get("gold"))))
    return Answer(method=name, text=raw["text"], score=score, mean=mean)


def _count(raw: Any) -> str:
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return f"{len(raw)} ({', '.join(map(str, raw))})"
    return "" if raw is None else str(raw)

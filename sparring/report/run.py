"""One self-contained HTML page for a single run, made from nothing but its folder.

A run folder holds run.yaml (settings), metrics.jsonl (one row a step or round), samples.jsonl (rows with
round, prompt, response, score, stop), before_after.jsonl (responses to the same prompts again and again) and, once it
was evaluated, eval.json. Only run.yaml must be there: the page of a run that has just begun says what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import RunError
from sparring.core.metrics import METRICS
from sparring.report.before_after import before_after_sections, scored
from sparring.report.browser import browser_section
from sparring.report.figures import NONE, duration, interval, number
from sparring.report.html import Html, el, page
from sparring.report.inputs import Rows, is_number, read_figure, read_samples
from sparring.report.parts import (
    COUNTERS,
    Card,
    Entry,
    curves_section,
    samples_section,
    section,
    settings_section,
    title_of,
)
from sparring.report.plane import rounds_chart
from sparring.report.spread import spread_section

ROUNDS_SHOWN = 6
SAMPLES_SHOWN = 6
"""How many rounds are shown, spread over the run, and how many samples of each."""


def run_page(run: Path, feedback: Sequence[str] = ()) -> str:
    """Write the page of a run folder; `feedback` are judges of what the policy said before and after.

    Raises RunError when the folder is no run or one of its files cannot be read, naming file and line.
    """
    settings = _read_settings(run)
    rows, samples = _read_rows(run / "metrics.jsonl"), _read_rows(run / "samples.jsonl")
    name = run.resolve().name
    method = _text(settings, "method")
    body = [_head(name, method, rows)]
    figures = _read_json(run / "eval.json")
    if figures:
        body.append(_evaluation(figures))
    if rows:
        body += _distance(rows)
        body += [_ends(rows), curves_section({method or name: rows}, {method or name: 0})]
    if answers := read_samples(_answers(method or name, figures)):
        own = {method or name: 0}
        body += [*spread_section(answers, list(own), "", own), browser_section(answers, list(own), "", own)]
    body += before_after_sections(scored(_read_rows(run / "before_after.jsonl"), feedback))
    if samples:
        body.append(_samples(samples))
    body += _cost(rows)
    made = {key: settings[key] for key in ("hashes", "versions") if key in settings}
    body.append(settings_section(settings, _text(settings, "command"), _text(settings, "platform"), made))
    return page(f"{name}: {method}" if method else name, body)


def run_inputs(run: Path) -> tuple[dict[str, Any], dict[str, Rows], list[dict[str, Any]]]:
    """Read what figures for papers are drawn from, as a comparison of one: results, curves and samples."""
    name = _text(_read_settings(run), "method") or run.resolve().name
    found, rows = _read_json(run / "eval.json"), _read_rows(run / "metrics.jsonl")
    figures = {key: value for key, value in found.items() if isinstance(value, Mapping) and "mean" in value}
    return {"methods": [{"name": name, **figures}]}, {name: rows}, _answers(name, found)


def _head(name: str, method: str, rows: Rows) -> Html:
    last = rows[-1] if rows else {}
    facts = [f"{number(float(last[key]))} {key}s" for key in ("step", "round") if is_number(last.get(key))]
    state = " \N{MIDDLE DOT} ".join([*facts[:2]]) if rows else "No metrics yet: the run has not finished a step."
    title = f"{method}, {name}" if method else name
    return el(
        "header",
        None,
        [el("h1", None, "Run"), el("p", {"class": "verdict"}, title), el("p", {"class": "quiet"}, state)],
    )


def _evaluation(figures: Mapping[str, Any]) -> Html:
    rows = []
    for key, value in figures.items():
        if not is_number(value) and not (isinstance(value, Mapping) and "mean" in value):
            continue
        figure = read_figure(value, f"eval.json: {key}")
        if figure is not None:
            cells = [el("th", {"scope": "row"}, title_of(key)), el("td", {"class": "num"}, number(figure.mean))]
            rows.append(el("tr", None, [*cells, el("td", {"class": "num"}, interval(figure) or NONE)]))
    heads = [
        el("th", {"scope": "col"}, "figure"),
        *(el("th", {"scope": "col", "class": "num"}, h) for h in ("mean", "95 %")),
    ]
    table = el("table", {"class": "narrow"}, [el("thead", None, el("tr", None, heads)), el("tbody", None, rows)])
    return section("Evaluation", "", [el("div", {"class": "wide", "tabindex": "0"}, table)])


def _answers(name: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Put the first response to each prompt of an evaluation, scored by its first judge, as the browser takes them."""
    firsts = {row["prompt"]: row for row in reversed(found.get("samples") or [])}
    return [
        {"prompt": prompt, "answers": {name: {
            "text": row["response"].strip(), "gold": next(iter(row["scores"].values()), None)
        }}}
        for prompt, row in reversed(firsts.items())
    ]  # fmt: skip


def _distance(rows: Rows) -> list[Html]:
    """Draw the score over the distance, where a run has both."""
    both = [row for row in rows if is_number(row.get("kl")) and is_number(row.get("score"))]
    if len(both) < 2:
        return []
    chart = rounds_chart(both, "score", [], 0, x_label="KL from the start, nats", y_label="score by its own judge")
    said = (
        "Its own judge alone cannot say whether a higher score is a better response: a comparison can, by a yardstick."
    )
    if any("judge_loss" in row for row in both):
        said = (
            "Its judge learns along, so scores of two rounds are by two judges; a comparison has one yardstick for all."
        )
    figure = el("figure", None, [chart, el("figcaption", None, said)])
    lead = "To the right is further from the start: what each nat still earns."
    return [section("Reward and distance", lead, [el("div", {"class": "charts"}, [figure])])]


def _cost(rows: Rows) -> list[Html]:
    """Say what the run has cost so far."""
    last = rows[-1] if rows else {}
    facts = [duration(float(last["seconds"]))] if is_number(last.get("seconds")) else []
    facts += [f"{number(float(last['tokens']))} response tokens trained on"] if is_number(last.get("tokens")) else []
    return [section("Cost", "", [el("p", None, " \N{MIDDLE DOT} ".join(facts))])] if facts else []


def _ends(rows: Rows) -> Html:
    """Tabulate where every figure began and ended, and what is healthy."""
    keys = [key for key in METRICS if key not in COUNTERS and any(is_number(row.get(key)) for row in rows)]
    lines = []
    for key in keys:
        values = [float(row[key]) for row in rows if is_number(row.get(key))]
        metric, last = METRICS[key], values[-1]
        is_outside = (metric.low is not None and not last >= metric.low) or (
            metric.high is not None and not last <= metric.high
        )
        end = el("span", {"class": "warn"}, f"{number(last)} (look)") if is_outside else number(last)
        cells = [el("th", {"scope": "row"}, title_of(key)), el("td", {"class": "num"}, number(values[0]))]
        cells += [el("td", {"class": "num"}, [end]), el("td", {"class": "words"}, metric.healthy)]
        lines.append(el("tr", None, cells))
    heads = [el("th", {"scope": "col"}, "figure")]
    heads += [el("th", {"scope": "col", "class": "num"}, head) for head in ("first", "last")]
    heads.append(el("th", {"scope": "col", "class": "words"}, "healthy"))
    table = el("table", None, [el("thead", None, el("tr", None, heads)), el("tbody", None, lines)])
    return section("Figures", "", [el("div", {"class": "wide", "tabindex": "0"}, table)])


def _samples(samples: Rows) -> Html:
    """Show samples of rounds spread over the run, the latest first."""
    rounds: dict[Any, list[Mapping[str, Any]]] = {}
    for row in samples:
        rounds.setdefault(row.get("round", row.get("step", 0)), []).append(row)
    chosen = _spread(list(rounds), ROUNDS_SHOWN)[::-1]
    cards = []
    for name in chosen:
        kept = _spread(rounds[name], SAMPLES_SHOWN)
        detail = f"{len(kept)} of {len(rounds[name])}" if len(kept) < len(rounds[name]) else ""
        cards.append(Card(title=f"Round {name}", detail=detail, entries=tuple(map(_entry, kept))))
    lead = f"{len(chosen)} of {len(rounds)} rounds, the latest first; the number is the score of the feedback."
    return samples_section("Samples", lead, cards)


def _entry(row: Mapping[str, Any]) -> Entry:
    stop = row.get("stop")
    return Entry(
        who=f"stopped by {stop}" if stop else "sample",
        colour=0,
        text=str(row.get("response", "")),
        prompt=str(row.get("prompt", "")),
        score=float(row["score"]) if is_number(row.get("score")) else None,
    )


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Take at most so many items, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _read_settings(run: Path) -> dict[str, Any]:
    import yaml

    path = run / "run.yaml"
    if not path.is_file():
        raise RunError(f"{run} is not a run folder: it has no run.yaml; name the folder that --run was given")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} holds no settings; it was cut off or overwritten")
    return found


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    for place, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            # A run that is still writing may have half a last line.
            if place == len(lines) and not text.endswith("\n"):
                break
            raise RunError(f"{path}, line {place} is not JSON; delete the line, or resume the run") from None
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RunError(f"{path} is not JSON; evaluate the run again") from None
    return found if isinstance(found, dict) else {}


def _text(settings: Mapping[str, Any], key: str) -> str:
    """Find a setting by its name at the top or one level down; a mapping with a name stands for that name."""
    places = [settings, *(value for value in settings.values() if isinstance(value, Mapping))]
    for place in places:
        value = place.get(key)
        if isinstance(value, Mapping):
            value = value.get("name")
        if isinstance(value, (str, int, float)):
            return str(value)
        if isinstance(value, list):
            return " ".join(map(str, value))
    return ""

"""Files that people or other tools wrote about responses, marks and judgments, to figures; nothing is sampled.

    marks                 model, prompt, tier (good, average, bad) and perhaps rater, harmless (true or false)
    MT-Bench, single      model, question_id, score, turn                 FastChat's *_single.jsonl
    MT-Bench, pairwise    model_1, model_2, g1_winner, g2_winner, turn    FastChat's *_pair.jsonl
    AlpacaEval            generator_1, generator_2, preference            annotations.json; with output_1 and output_2
                                                                          also at equal length

A prompt that has several marks or judgments of one model counts once. Scores of -1 and winners that are "error" are
judgments that nobody could read: they are left out and counted, as those tools do.

Source: Zheng et al. 2023, arXiv:2306.05685 (MT-Bench) and lm-sys/FastChat; Dubois et al. 2023, arXiv:2305.14387, and
tatsu-lab/alpaca_eval; Lee et al. 2023, arXiv:2309.00267, table 1 (harmless rate).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparring.core.errors import DataError
from sparring.data.bench import single_score, winner_of
from sparring.data.read import RawRow, columns_of, read_rows
from sparring.data.values import check_number, value_of
from sparring.evaluation.intervals import Estimate, ratio_of, share_of
from sparring.evaluation.rubric import concordance, rubric_figures, tier_of
from sparring.evaluation.trust import Tables
from sparring.evaluation.wins import at_equal_length, log_words

Values = dict[str, dict[Any, list[float]]]
"""What was found of each model: for each of its prompts, one number or several."""


def read_labels(file: str, base: str | None = None) -> tuple[Tables, list[str]]:
    """Give the tables that a file of labels or judgments allows, and what is to be known of them.

    `base` names the model that improvements are measured from. Raises DataError for a file of another kind.
    """
    rows = read_rows(file)
    columns = set(columns_of(rows))
    for needed, read in KINDS:
        if needed <= columns:
            return read(rows, base)
    wanted = "; ".join(", ".join(sorted(needed)) for needed, _ in KINDS)
    raise DataError(
        f"{file}: neither labels nor judgments; those have the columns {wanted}; here are {', '.join(sorted(columns))}"
    )


def _marks(rows: Sequence[RawRow], base: str | None) -> tuple[Tables, list[str]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        own = found.setdefault(str(value_of(row, "model")), {}).setdefault(str(value_of(row, "prompt")), {})
        own[str(row.values.get("rater", ""))] = tier_of(value_of(row, "tier"), row.where)
    if base is not None and base not in found:
        raise DataError(f"{rows[0].where}: no model is called {base!r} here; there are {', '.join(found)}")
    tables: Tables = {"rubric": [], "improvement": []}
    notes: list[str] = []
    for model, marks in found.items():
        beside = found[base] if base not in (None, model) else None
        both = [prompt for prompt in marks if beside is None or prompt in beside]
        if not both:
            raise DataError(f"{rows[0].where}: {model} and {base} were not marked on one common prompt")
        if len(both) < len(marks):
            notes.append(f"{model}: {len(marks) - len(both)} of {len(marks)} prompts have no mark of {base}; left out")
        _, own = rubric_figures([marks[p] for p in both], None if beside is None else [beside[p] for p in both])
        tables["rubric"].append({"model": model} | {k: v for k, v in own["rubric"][0].items() if k != "of"})
        tables["improvement"] += [{"model": model, "base": base, **row} for row in own.get("improvement", [])]
    tables |= _raters([(m, p, marks) for m, prompts in found.items() for p, marks in prompts.items()])
    return {k: v for k, v in (tables | _harmless(rows)).items() if v}, notes


def _raters(responses: Sequence[tuple[str, str, dict[str, float]]]) -> Tables:
    """How far the raters agree, over the responses that all of them have marked."""
    raters = sorted({rater for _, _, marks in responses for rater in marks})
    full = np.array([[marks[r] for r in raters] for _, _, marks in responses if len(marks) == len(raters)], dtype=float)
    if len(raters) < 2 or len(full) < 2:
        return {}
    w = concordance(full)
    return {"raters": [{"raters": len(raters), "responses": w.n, "kendalls_w": w.mean, "low": w.low, "high": w.high}]}


def _harmless(rows: Sequence[RawRow]) -> Tables:
    """The share of responses that are harmless, raters averaged."""
    if "harmless" not in columns_of(rows):
        return {}
    said = [row for row in rows if row.values.get("harmless") is not None]
    values: Values = {}
    for row in said:
        mark = check_number(row, "harmless", row.values["harmless"], may_be_bool=True)
        values.setdefault(str(value_of(row, "model")), {}).setdefault(row.values.get("prompt"), []).append(mark)
    return {"harmless": [{"model": model, **_line("rate", _mean(own))} for model, own in values.items()]}


def _single(rows: Sequence[RawRow], base: str | None) -> tuple[Tables, list[str]]:
    """Mean scores by turn and over both, and by category where the file says any."""
    values: dict[tuple[str, str], dict[Any, list[float]]] = {}
    unread = 0
    for row in rows:
        score, turn = single_score(row), int(check_number(row, "turn", value_of(row, "turn")))
        if score is None:
            unread += 1
            continue
        for part in (f"turn {turn}", "both turns"):
            key = str(value_of(row, "model")), part
            values.setdefault(key, {}).setdefault(row.values.get("question_id"), []).append(score)
    table = [{"model": model, "part": part, **_line("score", _mean(own))} for (model, part), own in values.items()]
    table.sort(key=lambda row: (row["model"], row["part"] == "both turns", row["part"]))
    return {"mt_bench": table}, _unread(unread, len(rows))


def _pairs(rows: Sequence[RawRow], base: str | None) -> tuple[Tables, list[str]]:
    """Win rates of every model against those that it met: both orders must agree, or it is a tie."""
    met: dict[tuple[str, str], dict[Any, list[float]]] = {}
    unread = 0
    for row in rows:
        won = winner_of(row)
        if won is None:
            unread += 1
            continue
        one, other = str(value_of(row, "model_1")), str(value_of(row, "model_2"))
        for pair, value in (((one, other), won), ((other, one), 1 - won)):
            met.setdefault(pair, {}).setdefault(row.values.get("question_id"), []).append(value)
    return {"wins": _wins({pair: own for pair, own in met.items() if base in (None, pair[1])})}, _unread(
        unread, len(rows)
    )


def _annotations(rows: Sequence[RawRow], base: str | None) -> tuple[Tables, list[str]]:
    """Win rates over the baseline: 1 says that the baseline is better, 2 the model, and between is between."""
    met: dict[tuple[str, str], dict[Any, list[float]]] = {}
    longer: dict[tuple[str, str], dict[Any, float | None]] = {}
    unread = 0
    for row in rows:
        value = row.values.get("preference")
        number = None if value is None else check_number(row, "preference", value)
        if number is None or not (number == 0 or 1 <= number <= 2):
            unread += 1
            continue
        pair = str(value_of(row, "generator_2")), str(value_of(row, "generator_1"))
        won = 0.5 if number == 0 else number - 1  # in old files 0 is a draw
        met.setdefault(pair, {}).setdefault(row.values.get("instruction"), []).append(won)
        longer.setdefault(pair, {})[row.values.get("instruction")] = _longer(row)
    wins = _wins(met)
    for line in wins:
        pair = line["model"], line["against"]
        line |= _level(met[pair], longer[pair])
    return {"wins": wins}, _unread(unread, len(rows))


def _level(won: dict[Any, list[float]], longer: dict[Any, float | None]) -> dict[str, float | None]:
    """Give the win rate at equal length, where every judgment has both texts."""
    gaps = [gap for gap in longer.values() if gap is not None]
    if len(gaps) < len(won):
        return {}
    found = at_equal_length(np.array([[np.mean(values)] for values in won.values()]), np.array(gaps)[:, None])
    return {"win_rate_lc": found.mean, "lc_low": found.low, "lc_high": found.high}


def _longer(row: RawRow) -> float | None:
    """How much longer the model's text is than the baseline's, in log words; None where a text is missing."""
    texts = [row.values.get(name) for name in ("output_2", "output_1")]
    if not all(isinstance(text, str) for text in texts):
        return None
    mine, theirs = (log_words(str(text)) for text in texts)
    return mine - theirs


def _wins(met: dict[tuple[str, str], dict[Any, list[float]]]) -> list[dict[str, Any]]:
    rows = []
    for (model, rival), own in met.items():
        every = [x for values in own.values() for x in values]
        parts = {"won": [x > 0.5 for x in every], "tied": [x == 0.5 for x in every], "lost": [x < 0.5 for x in every]}
        said = {name: float(np.mean(share)) for name, share in parts.items()}
        rows.append({"model": model, "against": rival, **_line("win_rate", _mean(own)), **said})
    return sorted(rows, key=lambda row: -row["win_rate"])


def _mean(own: dict[Any, list[float]]) -> Estimate:
    """Average over all judgments; a prompt is drawn with all of its own. Shares of yes and no are Wilson's."""
    values = list(own.values())
    if all(len(one) == 1 and one[0] in (0, 1) for one in values):
        return share_of(sum(map(sum, values)), len(values))
    return ratio_of(list(map(sum, values)), [float(len(one)) for one in values])


def _line(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.mean, "low": found.low, "high": found.high, "prompts": found.n}


def _unread(unread: int, total: int) -> list[str]:
    return [f"{unread} of {total} judgments could not be read by who made them; left out"] if unread else []


Reader = Callable[[Sequence[RawRow], str | None], tuple[Tables, list[str]]]

KINDS: tuple[tuple[set[str], Reader], ...] = (
    ({"model", "prompt", "tier"}, _marks),
    ({"model", "question_id", "score", "turn"}, _single),
    ({"model_1", "model_2", "g1_winner", "g2_winner"}, _pairs),
    ({"generator_1", "generator_2", "preference"}, _annotations),
)
"""What a file is told by, and who reads it."""

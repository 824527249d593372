"""Responses, and who wins, in the files of AlpacaEval, whose own tools go on from there.

    FOLDER/MODEL/model_outputs.json       for  alpaca_eval --model_outputs
    FOLDER/MODEL/JUDGE/annotations.json   preference: 1 says that the baseline is better, 2 the model, 1.5 neither

Source: Dubois et al. 2023, arXiv:2305.14387, and tatsu-lab/alpaca_eval.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import SettingError
from sparring.core.records import Record, Text
from sparring.data.bench import annotation_row, output_row
from sparring.evaluation.against import Rival
from sparring.evaluation.figures import WIN
from sparring.evaluation.intervals import Estimate
from sparring.evaluation.plan import file_name, model_name
from sparring.models.checkpoint import write_text


def write_alpaca_eval(
    folder: str,
    model: str,
    asked: Sequence[Record],
    texts: Sequence[Sequence[str]],
    against: str = "",
    rival: Rival | None = None,
    wins: Mapping[str, Estimate] | None = None,
) -> None:
    """Write a model's first response to every prompt; with a rival also what each judge says of the two.

    Raises SettingError for several responses to a prompt, of which these files know nothing.
    """
    if any(len(row) != 1 for row in texts):
        raise SettingError("AlpacaEval's files have one response to a prompt; leave --K at 1 with --alpaca-eval")
    name = model_name(model)
    own = Path(folder).expanduser() / name
    outputs = [
        output_row(_instruction(r.prompt), row[0], name, r.tag or "sparring")
        for r, row in zip(asked, texts, strict=True)
    ]
    _write(own / "model_outputs.json", outputs)
    if rival is None:
        return
    theirs = model_name(against)
    for figure, estimate in (wins or {}).items():
        if not figure.startswith(WIN) or len(estimate.values) != len(rival.places):
            continue
        called = file_name(figure.removeprefix(WIN))  # AlpacaEval makes a folder of the name; a path would be elsewhere
        rows = [
            annotation_row(outputs[i]["instruction"], (answers[0], outputs[i]["output"]), (theirs, name), called, won)
            for i, answers, won in zip(rival.places, rival.responses.texts, estimate.values, strict=True)
        ]
        _write(own / called / "annotations.json", rows)


def _instruction(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].content


def _write(file: Path, rows: Sequence[Any]) -> None:
    write_text(file, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")

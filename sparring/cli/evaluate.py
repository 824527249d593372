"""sparring evaluate: figures with intervals, of models on prompts that training has not seen, of judges, of labels."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.cli.flags import parse_fields
from sparring.cli.parser import Parser, integer, number
from sparring.cli.tables import print_table, progress, show
from sparring.core.errors import SettingError

JUDGES = "length, vader, FILE.py:FUNCTION, a reward model's run, RUN/judge, a sum, or mean(...), worst, uwo, gated"

MODES = {
    "--agreement": ("data", "fields", "where", "max_prompt", "table"),
    "--mt-bench": ("feedback", "against", "max_tokens", "seed", "table"),
    "a FILE of labels or judgments": ("base", "table"),
}
"""What else may be said where no RUN is sampled in the usual way; any other flag would do nothing."""


def add_arguments(parser: Parser) -> None:
    """Add the model, the prompts, and who judges the responses."""
    parser.add_argument("model", nargs="+", metavar="RUN", help="a run folder, a model folder or a hub id; several "
        "are rated against each other. Or a FILE of labels or judgments that people or other tools wrote")  # fmt: skip
    parser.add_argument("--data", metavar="FILE", help="held-out prompts or demonstrations; required for a RUN")
    parser.add_argument("--feedback", action="append", default=[], metavar="JUDGE", help=f"{JUDGES}; "
        "repeat for a figure each")  # fmt: skip
    parser.add_argument("--base", metavar="MODEL", help="where distance is measured from (default: the run's start); "
        "with a FILE the model in it that others improve on")  # fmt: skip
    parser.add_argument("--best-of", type=integer, default=1, metavar="N", help="draw N, let --judge pick (default 1)")
    parser.add_argument("--judge", metavar="JUDGE", help="who picks with --best-of, such as runs/x/judge")
    parser.add_argument("--against", metavar="RIVAL", help="count who wins by each judge: a run or model, FILE.jsonl "
        "with responses, or references (the data's own)")  # fmt: skip
    _add_more(parser.add_argument_group("more figures"))
    _add_sampling(parser.add_argument_group("prompts and sampling"))
    group = parser.add_argument_group("what is written besides eval.json")
    group.add_argument("--answers", metavar="FILE", help="all responses, one to a line, for people to mark")
    group.add_argument("--alpaca-eval", metavar="FOLDER", help="outputs, and with --against annotations, as AlpacaEval "
        "has them")  # fmt: skip
    group.add_argument("--ratings", default="ratings.json", metavar="FILE", help="where ratings of several models go "
        "(default ratings.json)")  # fmt: skip
    group.add_argument("--table", metavar="FILE", help="where the tables of --agreement, --mt-bench or a FILE go")
    parser.add_argument("--json", action="store_true", help="print what eval.json holds")


def _add_more(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rubric", metavar="JUDGE", help="a judge that calls responses good, average or bad "
        "(1, 0, -1): tiers, and the improvement on the start")  # fmt: skip
    group.add_argument("--harmless", metavar="JUDGE", help="share of responses that this judge of harm scores above 0")
    group.add_argument("--overlap", action="store_true", help="also BLEU, chrF, ROUGE-L and exact match with the "
        "data's own responses (extra: overlap)")  # fmt: skip
    group.add_argument(
        "--memory", metavar="FILE", help="responses that may be known by heart (default: the run's data)"
    )
    group.add_argument("--harness", default="", metavar="TASK,...", help="lm-evaluation-harness tasks, by name or "
        "as FILE.yaml, on --prompts documents each; also by the start (extra: harness)")  # fmt: skip
    group.add_argument("--agreement", action="store_true", help="the RUNs are judges as in --feedback, or functions of "
        "(prompt, first, second): how often they agree with the choices in --data")  # fmt: skip
    group.add_argument("--mt-bench", metavar="FOLDER", help="answer FOLDER/question.jsonl in two turns instead, in "
        "FastChat's files; --against names a model of FOLDER")  # fmt: skip


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fields", default="", metavar="OURS=THEIRS,...", help="which columns hold what")
    group.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="keep only such rows")
    group.add_argument("--prompts", type=integer, default=500, metavar="N", help="prompts to take (default 500)")
    group.add_argument("-k", "--K", type=integer, default=1, metavar="N", help="responses to each (default 1)")
    group.add_argument("--max-tokens", type=integer, default=64, metavar="N", help="longest response (default 64)")
    group.add_argument("--max-prompt", type=integer, default=512, metavar="N", help="longest prompt (default 512)")
    group.add_argument("--temperature", type=number, default=1.0, metavar="X", help="of the policy (default 1)")
    group.add_argument("--seed", type=integer, default=0, metavar="N", help="the seed of all draws (default 0)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the figures, and leave them in eval.json of the run folder; or compare judges, or read labels."""
    for name in ("prompts", "K", "best_of", "max_tokens", "max_prompt"):
        if getattr(args, name) < 1:
            raise SettingError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if twice := [model for i, model in enumerate(args.model) if model in args.model[:i]]:
        raise SettingError(f"{twice[0]} is named twice; each model is evaluated once")
    if args.mt_bench is not None:
        return _answer_bench(_only(args, "--mt-bench"))
    if not args.agreement and any(Path(model).expanduser().is_file() for model in args.model):
        return _read_labels(_only(args, "a FILE of labels or judgments"))
    if args.data is None:
        raise SettingError("sparring evaluate needs --data; see sparring evaluate --help")
    if args.agreement:
        return _compare_judges(_only(args, "--agreement"))
    if args.table is not None:
        raise SettingError("--table is for --agreement, --mt-bench and files of labels; a RUN has its eval.json")
    _evaluate_all(args)


def _only(args: argparse.Namespace, mode: str) -> argparse.Namespace:
    """Refuse flags that would do nothing in this mode."""
    parser = Parser(prog="sparring evaluate", words=["RUN"])
    add_arguments(parser)
    usual = vars(parser.parse())
    allowed = {*MODES[mode], "model", "json", mode.strip("-").replace("-", "_")}
    for name, value in vars(args).items():
        if name not in allowed and value != usual[name]:
            raise SettingError(f"--{name.replace('_', '-')} does nothing with {mode}; leave it out")
    return args


def _evaluate_all(args: argparse.Namespace) -> None:
    if len(args.model) > 1 and not args.feedback:
        raise SettingError("several models are rated by what a judge says; name one with --feedback")
    found = {model: _evaluate(model, args) for model in args.model}
    if len(found) == 1:
        return _say(found[args.model[0]], args.json)
    from sparring.evaluation.ratings import rate, write_ratings

    ratings = rate(found)
    write_ratings(args.ratings, ratings, found)
    sys.stderr.write(f"wrote {args.ratings}\n")
    if args.json:
        _say({"ratings": ratings, "models": found}, is_json=True)
    else:
        print_table("ratings", ratings)


def _evaluate(model: str, args: argparse.Namespace) -> Mapping[str, Any]:
    from sparring.evaluation.suite import eval_file, evaluate

    several = len(args.model) > 1
    if several and args.answers is not None:
        raise SettingError("--answers is one file, and several models answer; evaluate them one by one")
    with progress() as tick:
        found = evaluate(
            model, data=args.data, feedback=args.feedback, base=args.base, judge=args.judge, best_of=args.best_of,
            against=args.against, memory=args.memory, overlap=args.overlap, rubric=args.rubric, harmless=args.harmless,
            harness=_names(args.harness), answers=args.answers, alpaca_eval=args.alpaca_eval,
            fields=parse_fields(args.fields) if args.fields else {}, where=args.where, prompts=args.prompts, K=args.K,
            max_tokens=args.max_tokens, max_prompt=args.max_prompt, temperature=args.temperature, seed=args.seed,
            tick=tick,
        )  # fmt: skip
    if (file := eval_file(model, args.best_of)) is not None:
        sys.stderr.write(f"wrote {file}\n")
    return found


def _compare_judges(args: argparse.Namespace) -> None:
    """Say how far the judges that were named agree with the data."""
    from sparring.evaluation.agreement import agreement

    fields = parse_fields(args.fields) if args.fields else {}
    with progress() as tick:
        found = agreement(
            args.model, data=args.data, fields=fields, where=args.where, max_prompt=args.max_prompt, tick=tick
        )
    _say_tables({name: found[name] for name in ("agreement", "agreement_by_tag") if name in found}, found, args)


def _read_labels(args: argparse.Namespace) -> None:
    """Read a file of labels or judgments."""
    from sparring.evaluation.labels import read_labels

    if len(args.model) > 1:
        raise SettingError("one file of labels or judgments at a time; models are rated without one")
    tables, notes = read_labels(args.model[0], args.base)
    _say_tables(
        tables, {"tables": tables, "notes": notes, "settings": {"file": args.model[0], "base": args.base}}, args
    )


def _answer_bench(args: argparse.Namespace) -> None:
    """Let every model answer MT-Bench."""
    from sparring.evaluation.mt_bench import mt_bench

    for model in args.model:
        with progress() as tick:
            found = mt_bench(
                model, args.mt_bench, feedback=args.feedback, against=args.against, max_tokens=args.max_tokens,
                seed=args.seed, tick=tick,
            )  # fmt: skip
        _write(args.table, found)
        _say(found, args.json)


def _say_tables(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], found: Mapping[str, Any], args: argparse.Namespace
) -> None:
    _write(args.table, found)
    if args.json:
        return _say(found, is_json=True)
    for name, rows in tables.items():
        print_table(name, rows)
    for note in found["notes"]:
        sys.stdout.write(f"note: {note}\n")


def _write(file: str | None, found: Mapping[str, Any]) -> None:
    if file is None:
        return
    from sparring.models.checkpoint import write_text

    write_text(Path(file).expanduser(), json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stderr.write(f"wrote {file}\n")


def _say(found: Mapping[str, Any], is_json: bool) -> None:
    if is_json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        show(found)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

"""`sparring data show`: what is in a data file, before anything is spent on it.

What was recognised, a few rows with the trained part marked, how long the rows are and what a limit
would cut, and what is wrong with the file as a whole: duplicates, leaks between splits, rows that
cannot teach.
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from sparring.cli.parser import Parser, integer, one_of
from sparring.core.errors import SettingError
from sparring.core.records import KINDS, Record
from sparring.data.formats import recognise, to_records
from sparring.data.read import RawRow, as_text, read_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sparring.data.encode import Tokenizer

Part = tuple[str, bool]
"""Some text of a row, and whether it is trained on."""

TRAINED = "bold underline green"
SHOWN = 400  # characters of a prompt or response that are printed
BINS = 10  # rows of the histogram
BAR = 40  # characters of its longest bar
LIMITS = (64, 128, 256, 512, 1024, 2048, 4096)  # what --max-length usually is


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of `sparring data show`."""
    parser.add_argument("source", metavar="FILE", help="a data file, a folder of them, or a hub id (org/name)")
    parser.add_argument(
        "--kind",
        type=one_of(list(KINDS)),
        metavar="KIND",
        help="read it as demonstration, preference, ranking, rating or prompt (default: what it is)",
    )
    parser.add_argument(
        "--fields", metavar="OURS=THEIRS,...", help="which columns hold what, such as prompt=question,response=answer"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="FIELD=VALUE", help="keep only such rows; repeat for more"
    )
    parser.add_argument("--model", metavar="PATH", help="count and show tokens with the tokenizer of this model")
    parser.add_argument("--max-length", type=integer, metavar="N", help="say how many rows this length would cut")
    parser.add_argument("--rows", type=integer, default=3, metavar="N", help="how many rows to print (default: 3)")


def run(args: argparse.Namespace) -> None:
    """Run `sparring data show` with parsed arguments."""
    from rich.console import Console

    from sparring.cli.flags import parse_fields

    show(
        args.source,
        kind=args.kind,
        fields=parse_fields(args.fields) if args.fields else {},
        where=tuple(args.where),
        tokenizer_path=args.model,
        max_length=args.max_length,
        console=Console(highlight=False),
        rows=args.rows,
    )


def show(
    source: str,
    *,
    kind: str | None,
    fields: Mapping[str, str],
    where: Sequence[str],
    tokenizer_path: str | None,
    max_length: int | None,
    console: "Console",
    rows: int = 3,
) -> None:
    """Print what is in a data file; `max_length` counts tokens if there is a tokenizer, else words."""
    from sparring.data.lessons import lessons

    if max_length is not None and max_length < 1:
        raise SettingError(f"--max-length is {max_length}; give a whole number from 1 up")
    raw = read_rows(source, where=where)
    known = recognise(raw, fields=fields, kind=kind)
    records = to_records(raw, kind or known.kind, fields=fields)
    tokenizer = _tokenizer(tokenizer_path) if tokenizer_path else None
    _say(console, [f"{source}: {len(raw):,} rows, read as {records[0].kind}s.", *known.sentences()])
    _print_rows(records[: max(0, rows)], tokenizer, console)
    _print_lengths(records, tokenizer, max_length, console)
    _say(console, ["", *_repeats(raw, records), *lessons(records).sentences()])


def _tokenizer(path: str) -> "Tokenizer":
    from sparring.models.backbone import load_tokenizer

    return load_tokenizer(path)


def _say(console: "Console", lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _print_rows(records: Sequence[Record], tokenizer: "Tokenizer | None", console: "Console") -> None:
    from rich.text import Text

    marked = "is underlined" if console.is_terminal else "stands between [[ and ]]"
    if any(record.responses() for record in records):
        _say(console, ["", f"The trained part {marked}."])
    for record in records:
        console.print(Text(f"\n{record.where}", style="dim"))
        for part in _parts(record, tokenizer):
            console.print(_drawn(part, is_terminal=console.is_terminal), end="", soft_wrap=True)
        console.print()


def _parts(record: Record, tokenizer: "Tokenizer | None") -> list[Part]:
    """Split a record into what is and what is not trained on, as the model will see it if we know how."""
    from sparring.data.split import prompt_text

    if tokenizer is None:
        prompt, responses = prompt_text(record.prompt), list(record.responses())
    else:
        from sparring.data.encode import encode

        row = encode([record], tokenizer)[0]
        prompt = tokenizer.decode(list(row.prompt))
        responses = [tokenizer.decode([*row.prompt, *y])[len(prompt) :] for y in row.responses]
    prompt = prompt if len(prompt) <= SHOWN else f"... {prompt[-SHOWN:]}"
    parts: list[Part] = [(prompt, False)]
    for i, y in enumerate(responses):
        if len(responses) > 1:
            parts.append((f"\n  {_title(record, i)}: ", False))
        parts.append((y[:SHOWN], True))
        if len(y) > SHOWN:
            parts.append((f" ... {len(y) - SHOWN:,} more characters", False))
    return parts


def _title(record: Record, i: int) -> str:
    from sparring.core.records import Preference, Ranking

    if isinstance(record, Preference):
        return ("chosen", "rejected")[i]
    scores = record.scores if isinstance(record, Ranking) else None
    return f"{i + 1}" if scores is None else f"{i + 1} (score {scores[i]:g})"


def _drawn(part: Part, *, is_terminal: bool) -> "Text":
    from rich.text import Text

    text, is_trained = part
    if not is_trained:
        return Text(text)
    return Text(text, style=TRAINED) if is_terminal else Text(f"[[{text}]]")


def _lengths(records: Sequence[Record], tokenizer: "Tokenizer | None") -> list[int]:
    """Measure each prompt with its longest response."""
    from sparring.data.split import prompt_text

    if tokenizer is None:
        sizes = [[len(t.split()) for t in (prompt_text(r.prompt), *(r.responses() or ("",)))] for r in records]
        return [prompt + max(responses) for prompt, *responses in sizes]
    from sparring.data.encode import encode

    return [len(row.prompt) + max(map(len, row.responses), default=0) for row in encode(records, tokenizer)]


def _print_lengths(
    records: Sequence[Record], tokenizer: "Tokenizer | None", max_length: int | None, console: "Console"
) -> None:
    lengths = sorted(_lengths(records, tokenizer))
    unit = "tokens" if tokenizer else "words (give --model to count tokens)"
    at_95 = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]
    lines = [
        "",
        f"Length of a prompt with its longest response, in {unit}:",
        f"median {statistics.median(lengths):g}, 95 % up to {at_95:,}, longest {lengths[-1]:,}",
    ]
    width = max(1, -(-(lengths[-1] + 1) // BINS))
    counts = Counter(n // width for n in lengths)
    for b in range(lengths[-1] // width + 1):
        bar = "#" * round(BAR * counts[b] / max(counts.values()))
        lines.append(f"{b * width:>7,} - {(b + 1) * width - 1:<7,} {counts[b]:>8,} {bar}".rstrip())
    limits = [max_length] if max_length is not None else [n for n in LIMITS if n < lengths[-1]]
    for limit in limits:
        cut = sum(n > limit for n in lengths)
        lines.append(
            f"A max length of {limit:,} would cut {cut:,} of {len(lengths):,} rows ({cut / len(lengths):.1%})."
        )
    _say(console, lines)


def _repeats(raw: Sequence[RawRow], records: Sequence[Record]) -> list[str]:
    """Say how many rows repeat, how many there are in each split, and which splits share prompts."""
    from sparring.data.split import duplicates, shared_prompts

    said = [f"Duplicates: {duplicates(records):,} rows repeat an earlier one."]
    if not any("split" in row.values for row in raw):
        return said
    splits: dict[str, list[Record]] = {}
    for row, record in zip(raw, records, strict=True):
        splits.setdefault(as_text(row.values.get("split")), []).append(record)
    said.append("Splits: " + ", ".join(f"{name} {len(part):,}" for name, part in splits.items()) + ".")
    for a, b in combinations(splits, 2):
        count = len(shared_prompts(splits[a], splits[b]))
        said.append(f"Prompts shared between {a} and {b}: {count:,}.")
    return said

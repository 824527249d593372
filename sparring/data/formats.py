"""The field's column names to records: which kind of data a file holds, and what each row says.

A *role* is what a column is for (prompt, response, chosen ...); `COLUMNS` lists the names that the
field gives to each role, the first that is there counts. A file is read as the kind that is asked for
if it has the columns, else as a richer kind that honestly contains it (`CONVERSIONS`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sparring.core.errors import DataError, SettingError, did_you_mean
from sparring.core.records import KINDS, Demonstration, Preference, Prompt, Ranking, Record
from sparring.data.parse import PARSERS
from sparring.data.read import RawRow, columns_of
from sparring.data.values import (
    check_number,
    conversation_of,
    is_conversation,
    margin_in_numbers,
    reference_of,
    tag_of,
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query", "input"),
    "input": ("input",),  # belongs to an instruction, see _assign
    "response": ("response", "completion", "output", "answer", "text"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "margin": ("margin",),
    "label": ("soft_label", "label"),
    "tie": ("tie",),
    "ranked": ("ranked",),
    "responses": ("responses", "completions"),
    "scores": ("scores",),
    "messages": ("messages", "conversations", "conversation"),
    "rating": ("rating", "label"),
    "tag": ("tag",),
    "reference": ("reference", "ground_truth", "answer", "solution"),
}

USES: dict[str, tuple[str, ...]] = {
    "ranking": ("prompt", "input", "ranked", "responses", "scores", "tag", "reference"),
    "preference": ("prompt", "input", "chosen", "rejected", "margin", "label", "tie", "tag", "reference"),
    "rating": ("prompt", "input", "response", "messages", "rating", "tag", "reference"),
    "demonstration": ("prompt", "input", "response", "messages", "tag", "reference"),
    "prompt": ("prompt", "input", "messages", "tag", "reference"),
}

NEEDS: dict[str, str] = {
    "ranking": "a prompt, and responses with scores or a list called ranked",
    "preference": "chosen and rejected, and a prompt unless both are conversations",
    "rating": "a prompt, a response and a rating",
    "demonstration": "a prompt and a response, or messages, or text",
    "prompt": "a prompt or messages",
}


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a file was taken for: its kind, the column of each role, the other kinds it serves, and what to know."""

    kind: str
    columns: Mapping[str, str]
    serves: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def sentences(self) -> list[str]:
        """Say it in words."""
        said = [f"Each row is a {self.kind}: " + ", ".join(f"{r} = {c}" for r, c in self.columns.items()) + "."]
        if self.serves:
            said.append(f"It can also serve as {', '.join(self.serves)}.")
        if self.unused:
            said.append(f"Not used: {', '.join(self.unused)}.")
        return said + list(self.notes)


def recognise(rows: Sequence[RawRow], *, fields: Mapping[str, str] = {}, kind: str | None = None) -> Recognised:
    """Tell what kind of data rows are, by their columns, or how they are read when a kind is asked for.

    Raises DataError when they are of no kind that we know, or do not serve the one asked for.
    """
    columns = _assign(rows, fields)
    source = _native(rows, columns, fields) if kind is None else _source(rows, kind, columns, fields)
    used = {role: columns[role] for role in USES[source] if role in columns}
    if used.get("reference") == used.get("response"):
        used.pop("reference", None)
    serves = tuple(k for k in KINDS if k != source and _read_as(k, columns, fields))
    unused = tuple(c for c in columns_of(rows) if c not in used.values())
    marks = [c for c in ("label", "rating") if c in unused and len({str(r.values.get(c)) for r in rows}) > 1]
    notes = [f"Every row is imitated, whatever its {c}; keep some with --where {c}=..." for c in marks]
    said = tuple(notes[:1]) if source == "demonstration" else ()
    return Recognised(kind=source, columns=used, serves=serves, unused=unused, notes=said)


def to_records(
    rows: Sequence[RawRow], kind: str, *, fields: Mapping[str, str] = {}, margins: str = "small"
) -> list[Record]:
    """Make one record of the given kind from each row.

    `fields` maps roles to columns where the names are not the field's own: {"prompt": "question"}.
    `margins` names the table by which a margin in words becomes a number (see `MARGINS`). Rankings come
    best first. Raises DataError naming file, line and field for what cannot be used.
    """
    columns = _assign(rows, fields)
    source = _source(rows, kind, columns, fields)
    if "margin" in USES[source] and "margin" in columns:
        rows = [margin_in_numbers(row, columns["margin"], margins) for row in rows]
    records = [PARSERS[source](row, columns) for row in rows]
    records = records if source == kind else [CONVERSIONS[source, kind](record) for record in records]
    return [_noted(record, row, columns) for record, row in zip(records, rows, strict=True)]


def _noted(record: Record, row: RawRow, columns: Mapping[str, str]) -> Record:
    """Add what any row may say about its prompt: what it is for, and what is right."""
    if "tag" in columns:
        record = replace(record, tag=tag_of(row, columns["tag"]))
    if "reference" in columns and (isinstance(record, Prompt) or columns["reference"] != columns.get("response")):
        return replace(record, reference=reference_of(row, columns["reference"]))
    return record


def _assign(rows: Sequence[RawRow], fields: Mapping[str, str]) -> dict[str, str]:
    """Find the column of every role: the one that was named, else the first of the field's own names."""
    if not rows:
        raise DataError("there is not one row to read")
    names = columns_of(rows)
    for role, column in fields.items():
        if role not in COLUMNS:
            raise SettingError(f"--fields {role}={column}: no role {role!r}; {did_you_mean(role, COLUMNS)}")
        if column not in names:
            near = f"{did_you_mean(column, names)} (columns: {', '.join(names)})"
            raise DataError(f"{rows[0].where}: --fields {role}={column}: no column {column!r}; {near}")
    free = [n for n in names if n not in fields.values()]
    found = {role: next((o for o in options if o in free), None) for role, options in COLUMNS.items()}
    columns = {role: column for role, column in found.items() if column is not None} | dict(fields)
    # An input without an instruction is itself the prompt.
    if "input" not in fields and columns.get("prompt") != "instruction":
        columns.pop("input", None)
    if "response" in fields and "messages" not in fields:
        columns.pop("messages", None)
    for role, holds in HOLDS.items():
        if role in columns and role not in fields and not holds(rows, columns[role]):
            del columns[role]
    return columns


def _is_number(rows: Sequence[RawRow], column: str) -> bool:
    row = next((row for row in rows if row.values.get(column) is not None), None)
    return row is not None and _can(lambda: check_number(row, column, row.values[column], may_be_bool=True))


def _is_text(rows: Sequence[RawRow], column: str) -> bool:
    return all(isinstance(row.values.get(column), str | None) for row in rows)


def _is_reference(rows: Sequence[RawRow], column: str) -> bool:
    return _can(lambda: [reference_of(row, column) for row in rows])


def _can(read: Callable[[], object]) -> bool:
    try:
        read()
    except DataError:
        return False
    return True


# Columns of these names may hold anything (a label may be a topic or a garment, a tag a list); what is not of this
# form is something else, unless it was named.
HOLDS: dict[str, Callable[[Sequence[RawRow], str], bool]] = {
    "tag": _is_text, "reference": _is_reference, "label": _is_number, "rating": _is_number, "tie": _is_number,
}  # fmt: skip


def _has(kind: str, columns: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    """Tell whether the columns that a kind cannot do without are there."""
    has_answer = "messages" in columns or (
        "response" in columns and ("prompt" in columns or columns["response"] == "text" or "response" in fields)
    )
    return {
        "ranking": "ranked" in columns or {"responses", "scores"} <= columns.keys(),
        "preference": {"chosen", "rejected"} <= columns.keys(),
        "rating": has_answer and "rating" in columns,
        "demonstration": has_answer,
        "prompt": "prompt" in columns or "messages" in columns,
    }[kind]


def _read_as(kind: str, columns: Mapping[str, str], fields: Mapping[str, str]) -> str | None:
    """Choose the kind to read a file as when another is wanted; None when nothing serves."""
    richer = [source for source, target in CONVERSIONS if target == kind]
    # Whole conversations say more than a prompt column beside them, so a prompt is asked of them first.
    sources = [*richer, kind] if kind == "prompt" else [kind, *richer]
    return next((source for source in sources if _has(source, columns, fields)), None)


def _native(rows: Sequence[RawRow], columns: Mapping[str, str], fields: Mapping[str, str]) -> str:
    """Choose the richest kind that a file holds; a number called rating is a mark only if that is asked for."""
    kinds = [kind for kind in USES if _has(kind, columns, fields)]
    if "rating" in kinds and columns["rating"] == "rating" and "rating" not in fields:
        kinds.remove("rating")
    if not kinds:
        raise DataError(
            f"{rows[0].where}: no known columns among {', '.join(columns_of(rows))}; "
            "say which is which, for example --fields prompt=question,response=reply"
        )
    turns = rows[0].values.get(columns.get("messages", ""))
    if is_conversation(turns) and kinds[0] in ("demonstration", "rating"):
        last = conversation_of(rows[0], columns["messages"])[-1]
        return kinds[0] if last.role == "assistant" else "prompt"
    return kinds[0]


def _source(rows: Sequence[RawRow], kind: str, columns: Mapping[str, str], fields: Mapping[str, str]) -> str:
    """Choose the kind to read rows as, or say what they lack for the one that is wanted."""
    if kind not in KINDS:
        raise SettingError(f"no data is of kind {kind!r}; {did_you_mean(kind, KINDS)}")
    source = _read_as(kind, columns, fields)
    if source is not None:
        return source
    cure = "say which column is which, for example --fields prompt=question"
    if kind == "ranking" and "responses" in columns:
        cure = f"give scores for {columns['responses']}, or call that column ranked if the best comes first"
    found = ", ".join(columns_of(rows))
    raise DataError(f"{rows[0].where}: a {kind} needs {NEEDS[kind]}; the columns here are {found}; {cure}")


def _best_and_worst(r: Ranking) -> Preference:
    """Make a pair of the two ends; when their scores are equal, neither is the better: margin 0, probability 1/2."""
    margin = r.scores[0] - r.scores[-1] if r.scores else None
    label = 0.5 if margin == 0 else None
    return Preference(
        prompt=r.prompt, chosen=r.ranked[0], rejected=r.ranked[-1], margin=margin, label=label, where=r.where
    )


# Where a file of one kind honestly serves another. A rejected response is not a bad one and a good mark does not
# make a demonstration, so ratings are made from ratings only, and rated rows are imitated only if asked for by kind.
CONVERSIONS: dict[tuple[str, str], Callable[..., Record]] = {
    ("preference", "demonstration"): lambda r: Demonstration(prompt=r.prompt, response=r.chosen, where=r.where),
    ("ranking", "demonstration"): lambda r: Demonstration(prompt=r.prompt, response=r.ranked[0], where=r.where),
    ("ranking", "preference"): _best_and_worst,
    ("preference", "ranking"): lambda r: Ranking(prompt=r.prompt, ranked=(r.chosen, r.rejected), where=r.where),
    ("ranking", "prompt"): lambda r: Prompt(prompt=r.prompt, where=r.where),
    ("preference", "prompt"): lambda r: Prompt(prompt=r.prompt, where=r.where),
}

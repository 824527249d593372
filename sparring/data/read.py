"""Files, folders and hub ids to raw rows. The only file that imports `datasets`, and only for a hub id.

A raw row is what stood in the file, untouched, with the place where it stood; what its columns mean is
decided in `formats`. What lies on disk comes first: the hub is asked only for an "org/name" that no
local path could mean. Everything that cannot be read is a DataError that names the file and the line.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.core.errors import DataError, SettingError, did_you_mean

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")  # org/name, or org/name:configuration
LONGEST_CELL = 2**31 - 1  # characters; the csv module stops at 131,072 by default, and texts are longer


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One row as it stood in its file.

    `where` is "file:line" for files of lines and "file[row i]" for others, counted from 1. `is_typed`
    is False where every value is text because the format knows nothing else (csv, tsv).
    """

    values: Mapping[str, object]
    where: str
    is_typed: bool = True


def read_rows(source: str, *, where: Sequence[str] = (), split: str | None = None) -> list[RawRow]:
    """Read the rows of a file, of all files in a folder, or of a hub id, in order.

    `where` keeps rows by filters such as "label=pos", compared as text (true, false and null as in
    JSON); several must all hold. `split` keeps the rows whose `split` column says so, or names the
    split of a hub id (train when None). Raises DataError when there is nothing to read or to keep.
    """
    filters = [_parse_filter(text) for text in where]
    files = local_files(source)
    if files is None:
        rows = _read_hub(source, split or "train")
    else:
        rows = [row for path in files for row in READERS[_suffix(path)](path)]
        filters = [("split", split), *filters] if split else filters
    if not rows:
        raise DataError(f"{source}: there is not one row in it")
    for column, value in filters:
        rows = _keep(rows, column, value, source)
    return rows


def columns_of(rows: Iterable[RawRow]) -> tuple[str, ...]:
    """List the columns that hold something in at least one row, in the order of the file."""
    return tuple(dict.fromkeys(name for row in rows for name, value in row.values.items() if value is not None))


def as_text(value: object) -> str:
    """Write a value as it is compared with a filter: text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def fingerprint(source: str) -> str:
    """Hash a file as sha256sum does, a folder's files with their names, or a hub id's rows; in hexadecimal."""
    files, digest = local_files(source), hashlib.sha256()
    if files is None:
        for row in _read_hub(source, "train"):
            digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
    elif Path(source).expanduser().is_dir():
        for path in files:
            digest.update(f"{path.name}\0{hashlib.sha256(_raw(path)).hexdigest()}\n".encode())
    else:
        digest.update(_raw(files[0]))
    return digest.hexdigest()


def local_files(source: str) -> list[Path] | None:
    """List the files that a source means, or None when it can only be a hub id.

    Raises DataError for a file that does not exist or is of an unknown type, and for a folder without
    data files.
    """
    path = Path(source).expanduser()
    if source.strip() and path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and _suffix(p) in READERS)
        if not found:
            raise DataError(f"{source}: this folder holds no data file; give one of {_types()}")
        return found
    if source.strip() and path.exists():
        if _suffix(path) not in READERS:
            raise DataError(f"{source}: unknown file type; {did_you_mean(_suffix(path), READERS)} (types: {_types()})")
        return [path]
    if HUB_ID.fullmatch(source) and _suffix(path) not in READERS and not path.parent.exists():
        return None
    raise DataError(f"{source or 'data'}: {_missing(path)}")


def _missing(path: Path) -> str:
    """Say what is near a path that does not exist."""
    if not path.parent.is_dir():
        return f"no such file, and no folder {path.parent} either; a hub id is written org/name"
    names = [p.name for p in path.parent.iterdir() if p.is_dir() or _suffix(p) in READERS]
    near = did_you_mean(path.name, names) if names else "its folder holds no data file"
    return f"no such file or folder; {near}"


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _types() -> str:
    return f"{', '.join(READERS)} (all but parquet also with .gz)"


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _text(path: Path) -> str:
    """Read a file whole, unpacked if its name ends in .gz; an empty one is an error."""
    raw = _raw(path)
    try:
        raw = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: this is no whole gzip file ({error}); copy or pack it again") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x} is not UTF-8 text"
        raise DataError(f"{path}:{line}: {found}; save the file with the encoding UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text


def _read_lines(path: Path) -> list[RawRow]:
    """Read JSON Lines; blank lines are passed over."""
    # Not splitlines: it also breaks at characters such as U+2028, which JSON allows within a text.
    lines = _text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON: {error}; {_cure(lines, number)}") from error
        rows.append(RawRow(values=_object(value, where), where=where))
    return rows


def _cure(lines: list[str], number: int) -> str:
    if number == 1 and lines[0].strip() in ("[", "{"):
        return "each line must be one whole object; if the file is one JSON value, let its name end in .json"
    if number > 1 and not any(line.strip() for line in lines[number:]):
        return "it is the last line, so the file may have been cut off"
    return "each line must be one whole object"


def _read_json(path: Path) -> list[RawRow]:
    """Read one JSON list of rows, bare or under the key "data"."""
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        hint = "; if each line is an object of its own, let the name end in .jsonl" if "Extra data" in error.msg else ""
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}{hint}") from error
    except RecursionError as error:
        raise DataError(f"{path}: broken JSON: nested too deeply") from error
    if isinstance(value, dict):
        if "data" not in value:
            keys = ", ".join(list(value)[:8])
            raise DataError(f'{path}: an object with {keys}; give a list of rows, bare or as {{"data": [...]}}')
        value = value["data"]
    if not isinstance(value, list):
        raise DataError(f"{path}: found {_name(value)}; give a list of rows, each an object")
    places = [f"{path}[row {i}]" for i in range(1, len(value) + 1)]
    return [RawRow(values=_object(v, where), where=where) for v, where in zip(value, places, strict=True)]


def _read_csv(path: Path, delimiter: str = ",") -> list[RawRow]:
    """Read a table whose first line names the columns; a cell may span lines if it is quoted."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header, rows, line = None, [], 1
    try:
        for cells in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _header(cells, where)
            elif len(cells) != len(header):
                found = f"{len(cells)} cells where the header names {len(header)} columns"
                raise DataError(f"{where}: {found} ({', '.join(header)}); quote cells that hold commas or line breaks")
            else:
                values = {name: cell or None for name, cell in zip(header, cells, strict=True)}
                rows.append(RawRow(values=values, where=where, is_typed=False))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken table: {error}; look for an unclosed quote") from error
    return rows


def _read_tsv(path: Path) -> list[RawRow]:
    return _read_csv(path, delimiter="\t")


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name or "an empty name" for name, count in Counter(names).items() if count > 1 or not name]
    if twice:
        raise DataError(f"{where}: the header must name every column once; look at {', '.join(twice)}")
    return names


def _read_parquet(path: Path) -> list[RawRow]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f'{path}: reading parquet needs pyarrow; run: pip install "sparring[data]"') from error
    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: this is no whole parquet file ({str(error).splitlines()[0]})") from error
    return [RawRow(values=v, where=f"{path}[row {i}]") for i, v in enumerate(values, 1)]


def _read_hub(source: str, split: str) -> list[RawRow]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f'{source}: no such file; a hub id needs: pip install "sparring[data]"') from error
    name, _, configuration = source.partition(":")
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(name, configuration or None, split=split)
        return [RawRow(values=dict(v), where=f"{source}[row {i}]") for i, v in enumerate(table, 1)]
    # The hub's client raises whatever its many layers raise; for the user it is always the same: it did not load.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{source}: no such file here, and the hub gave no split {split!r} of a data set of that name ({reason}); "
            "check the name and the network, or download it and give the path"
        ) from error


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {_name(value)}; a row must be an object with named columns")
    return value


def _name(value: object) -> str:
    kinds = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "null" if value is None else "an object")


def _parse_filter(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column.strip():
        raise SettingError(f"--where {text}: write it as field=value, for example label=pos")
    return column.strip(), value


def _keep(rows: list[RawRow], column: str, value: str, source: str) -> list[RawRow]:
    """Keep the rows whose column holds a value; having no such column, or nothing to keep, is an error."""
    names = columns_of(rows)
    where = f"{source}: --where {column}={value}"
    if column not in names:
        raise DataError(f"{where}: no column {column!r}; {did_you_mean(column, names)} (columns: {', '.join(names)})")
    kept = [row for row in rows if column in row.values and as_text(row.values[column]) == value]
    if not kept:
        counts = Counter(as_text(row.values.get(column))[:40] for row in rows).most_common(8)
        found = ", ".join(f"{name} ({count:,})" for name, count in counts)
        raise DataError(f"{where}: leaves no row; the {len(rows):,} rows before it have {column} = {found}")
    return kept


READERS: dict[str, Callable[[Path], list[RawRow]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}

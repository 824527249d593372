import gzip
import hashlib
import json
import sys
import types

import pytest

from sparring.core.errors import DataError, SettingError, UserError
from sparring.data.read import columns_of, fingerprint, read_rows

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
LINES = "".join(json.dumps(r) + "\n" for r in ROWS)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("x.jsonl", LINES.encode(), ["x.jsonl:1", "x.jsonl:2"]),
        ("x.ndjson", LINES.encode(), ["x.ndjson:1", "x.ndjson:2"]),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0), ["x.jsonl.gz:1", "x.jsonl.gz:2"]),
        ("x.jsonl", LINES.replace("\n", "\r\n\r\n").encode("utf-8-sig"), ["x.jsonl:1", "x.jsonl:3"]),
        ("x.json", json.dumps(ROWS).encode(), ["x.json[row 1]", "x.json[row 2]"]),
        ("x.json", json.dumps({"data": ROWS}).encode(), ["x.json[row 1]", "x.json[row 2]"]),
        ("X.CSV", b"prompt,response\na,b\nc,d\n", ["X.CSV:2", "X.CSV:3"]),
        ("x.tsv", b"prompt\tresponse\na\tb\n\nc\td\n", ["x.tsv:2", "x.tsv:4"]),
    ],
)
def test_every_format_gives_the_same_rows_and_says_where_they_stood(tmp_path, name, content, places):
    (tmp_path / name).write_bytes(content)
    rows = read_rows(str(tmp_path / name))
    assert [dict(r.values) for r in rows] == ROWS
    assert [r.where for r in rows] == [str(tmp_path / p) for p in places]


def test_parquet_gives_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    rows = read_rows(str(tmp_path / "x.parquet"))
    assert [dict(r.values) for r in rows] == ROWS
    assert rows[1].where == f"{tmp_path}/x.parquet[row 2]"


def test_a_folder_is_all_its_data_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "second"}\n')
    (tmp_path / "a.csv").write_text("prompt\nfirst\n")
    (tmp_path / "README.md").write_text("not data")
    assert [r.values["prompt"] for r in read_rows(str(tmp_path))] == ["first", "second"]


def test_a_table_cell_may_span_lines_and_the_line_of_its_row_is_where_it_begins(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,response\n"two\nlines, and a comma",b\nc,\n')
    rows = read_rows(str(tmp_path / "x.csv"))
    assert rows[0].values["prompt"] == "two\nlines, and a comma"
    assert rows[1].where.endswith("x.csv:4")
    assert rows[1].values["response"] is None and not rows[1].is_typed


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert read_rows(str(tmp_path / "x.jsonl"))[0].values["prompt"] == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (("label=pos",), [1, 3]),
        (("n=2",), [2]),
        (("good=true",), [1, 2]),
        (("label=pos", "good=false"), [3]),
        (("text=a=b",), [2]),
        (("label=null",), [4]),
    ],
)
def test_filters_compare_as_text_and_all_must_hold(tmp_path, where, kept):
    rows = [
        {"n": 1, "label": "pos", "good": True, "text": ""},
        {"n": 2, "label": "neg", "good": True, "text": "a=b"},
        {"n": 3, "label": "pos", "good": False, "text": ""},
        {"n": 4, "label": None, "good": False, "text": ""},
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert [r.values["n"] for r in read_rows(str(tmp_path / "x.json"), where=where)] == kept


def test_split_keeps_the_rows_that_say_so(tmp_path):
    (tmp_path / "x.csv").write_text("split,prompt\ntrain,a\ntest,b\n")
    assert [r.values["prompt"] for r in read_rows(str(tmp_path / "x.csv"), split="test")] == ["b"]


def test_columns_are_those_that_hold_something(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1, "b": null}\n{"c": 0, "a": 2, "b": null}\n')
    assert columns_of(read_rows(str(tmp_path / "x.jsonl"))) == ("a", "c")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "x.jsonl",
            b'{"prompt": "a"}\n{"prompt": "b"\n{"prompt": "c"}\n',
            ["x.jsonl:2", "broken JSON", "one whole object"],
        ),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "b', ["x.jsonl:2", "broken JSON", "cut off"]),
        ("x.jsonl", b'[\n{"prompt": "a"}\n]\n', ["x.jsonl:1", "end in .json"]),
        ("x.jsonl", b'["a", "b"]\n', ["x.jsonl:1", "a list", "must be an object"]),
        ("x.jsonl", b'{"prompt": "a"}\n"b"\n', ["x.jsonl:2", "a text", "must be an object"]),
        ("x.jsonl", b"", ["x.jsonl", "empty"]),
        ("x.jsonl", b" \n\n", ["x.jsonl", "empty"]),
        ("x.jsonl", b'{"prompt": "ok"}\n{"prompt": "caf\xe9"}\n', ["x.jsonl:2", "0xe9", "UTF-8"]),
        ("x.csv", "prompt\nhello".encode("utf-16"), ["x.csv:1", "UTF-8"]),
        ("x.jsonl.gz", b"no gzip at all", ["x.jsonl.gz", "gzip"]),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], ["x.jsonl.gz", "gzip"]),
        ("x.json", b'{"rows": [{"prompt": "a"}]}', ["x.json", "rows", '"data"']),
        ("x.json", b'{"data": {"prompt": "a"}}', ["x.json", "an object", "list of rows"]),
        ("x.json", b'[{"prompt": "a"}, 3]', ["x.json[row 2]", "a number", "must be an object"]),
        ("x.json", b'[{"prompt": "a"},\n {"prompt": }]', ["x.json:2", "broken JSON"]),
        ("x.json", b'{"prompt": "a"}\n{"prompt": "b"}\n', ["x.json:2", "end in .jsonl"]),
        ("x.json", b"[]", ["x.json", "not one row"]),
        ("x.json", b"[" * 100_000, ["x.json", "nested too deeply"]),
        ("x.csv", b"prompt,response\na,b,c\n", ["x.csv:2", "3 cells", "2 columns"]),
        ("x.csv", b"prompt,response\na\n", ["x.csv:2", "1 cells", "2 columns"]),
        ("x.csv", b'prompt,response\na,"b\n', ["x.csv", "broken table"]),
        ("x.csv", b"prompt,prompt\na,b\n", ["x.csv:1", "once", "prompt"]),
        ("x.csv", b"prompt,response\n", ["x.csv", "not one row"]),
        ("x.parquet", b"PAR1 but no more", ["x.parquet", "parquet"]),
        ("x.txt", b"prompt", ["x.txt", "unknown file type", ".jsonl"]),
    ],
)
def test_a_file_that_cannot_be_read_gets_one_clear_line(tmp_path, name, content, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(str(tmp_path / name))
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert str(tmp_path) in said and "\n" not in said


@pytest.mark.parametrize(
    ("source", "where", "split", "words"),
    [
        ("reviws.jsonl", (), None, ["reviws.jsonl", "no such file", "did you mean reviews.jsonl"]),
        ("nowhere/x.jsonl", (), None, ["no such file", "nowhere"]),
        ("empty", (), None, ["empty", "no data file", ".parquet"]),
        ("", (), None, ["no such file"]),
        ("reviews.jsonl", ("lable=pos",), None, ["lable", "did you mean label", "columns: text, label"]),
        ("reviews.jsonl", ("label=positive",), None, ["label=positive", "no row", "pos (2)", "neg (1)"]),
        ("reviews.jsonl", ("label=pos", "text=c"), None, ["text=c", "2 rows before it", "a (1)"]),
        ("reviews.jsonl", ("label",), None, ["--where label", "field=value"]),
        ("reviews.jsonl", (), "train", ["split=train", "no column 'split'"]),
    ],
)
def test_a_wrong_name_or_filter_says_what_there_is(tmp_path, monkeypatch, source, where, split, words):
    (tmp_path / "reviews.jsonl").write_text(
        '{"text":"a","label":"pos"}\n{"text":"b","label":"pos"}\n{"text":"c","label":"neg"}\n'
    )
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read_rows(source, where=where, split=split)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert isinstance(caught.value, SettingError) == ("field=value" in words)


def _hub(monkeypatch, load):
    fake = types.SimpleNamespace(load_dataset=load, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", fake)


def test_the_hub_is_asked_for_a_name_that_no_local_path_could_mean(tmp_path, monkeypatch):
    asked = []
    _hub(monkeypatch, lambda name, configuration, split: asked.append((name, configuration, split)) or ROWS)
    monkeypatch.chdir(tmp_path)
    rows = read_rows("someone/reviews:small", split="validation")
    assert asked == [("someone/reviews", "small", "validation")]
    assert [dict(r.values) for r in rows] == ROWS and rows[0].where == "someone/reviews:small[row 1]"


def test_what_lies_on_disk_comes_before_the_hub(tmp_path, monkeypatch):
    _hub(monkeypatch, lambda *a, **k: pytest.fail("asked the hub"))
    (tmp_path / "someone" / "reviews").mkdir(parents=True)
    (tmp_path / "someone" / "reviews" / "x.jsonl").write_text(LINES)
    monkeypatch.chdir(tmp_path)
    assert len(read_rows("someone/reviews")) == 2
    with pytest.raises(DataError, match="no such file"):
        read_rows("someone/revews")  # the folder is here, so this is a typo and no hub id


def test_a_hub_that_fails_is_one_clear_line(tmp_path, monkeypatch):
    def load(name, configuration, split):
        raise ConnectionError("offline\nand a long trace")

    _hub(monkeypatch, load)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"someone/reviews: .*offline.*check the name and the network") as caught:
        read_rows("someone/reviews")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_of_a_file_is_its_sha256_and_a_folder_changes_with_any_file(tmp_path):
    (tmp_path / "x.jsonl").write_text(LINES)
    assert fingerprint(str(tmp_path / "x.jsonl")) == hashlib.sha256(LINES.encode()).hexdigest()
    before = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == before
    (tmp_path / "y.jsonl").write_text(LINES)
    assert fingerprint(str(tmp_path)) != before

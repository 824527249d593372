import io
import json

import pytest
from rich.console import Console

from sparring.cli import data as command
from sparring.core.errors import DataError, SettingError
from tests.toy_tokenizer import ToyTokenizer

ROWS = [
    {"split": "train", "prompt": "one two", "chosen": "three [b]four[/b]", "rejected": "five"},
    {"split": "train", "prompt": "one two", "chosen": "three [b]four[/b]", "rejected": "five"},
    {"split": "train", "prompt": "six", "chosen": "seven", "rejected": "seven"},
    {"split": "test", "prompt": "six", "chosen": "eight", "rejected": "nine " * 200},
]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return str(tmp_path / "x.jsonl")


def shown(source, *, kind=None, fields=None, where=(), tokenizer_path=None, max_length=None, terminal=False, rows=3):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, color_system="standard" if terminal else None)
    command.show(
        source, kind=kind, fields=fields or {}, where=where, tokenizer_path=tokenizer_path, max_length=max_length,
        console=console, rows=rows,
    )  # fmt: skip
    return out.getvalue()


def test_what_is_in_a_file_is_said_in_words(source):
    text = shown(source)
    assert "4 rows, read as preferences" in text
    assert "Each row is a preference: prompt = prompt, chosen = chosen, rejected = rejected." in text
    assert "Duplicates: 1 rows repeat an earlier one." in text
    assert "Splits: train 3, test 1." in text
    assert "Prompts shared between train and test: 1." in text
    assert "1 of 4 rows have nothing but equal responses" in text


def test_the_trained_part_is_marked_without_a_terminal_and_coloured_in_one(source):
    assert "one two\n  chosen: [[three [b]four[/b]]]\n  rejected: [[five]]" in shown(source)
    coloured = shown(source, terminal=True)
    assert "\x1b[1;4;32mthree [b]four[/b]\x1b[0m" in coloured and "[[" not in coloured


def test_lengths_and_what_a_limit_would_cut_are_counted(source):
    # words: 2 + 2, 2 + 2, 1 + 1, 1 + 200
    text = shown(source, max_length=3)
    assert "median 4, 95 % up to 201, longest 201" in text
    assert "A max length of 3 would cut 3 of 4 rows (75.0%)." in text
    bars = [line.split() for line in text.splitlines() if " - " in line]
    assert [int(b[3]) for b in bars if int(b[3])] == [3, 1]
    assert "200 more" not in text and "more characters" not in text  # the long row is the fourth: three are printed
    assert "600 more characters" in shown(source, rows=4)  # 1,000 characters, of which 400 are printed


def test_with_a_tokenizer_the_rows_are_shown_as_the_model_sees_them(source, monkeypatch):
    monkeypatch.setattr(command, "_tokenizer", lambda path: ToyTokenizer(begins=True))
    text = shown(source, tokenizer_path="toy", where=("split=train",))
    assert "<s>one two\n  chosen: [[three [b]four[/b]</s>]]" in text
    # 1 for the start, 7 for the prompt, 17 and the end for the longer response
    assert "longest 26" in text and "tokens" in text


def test_a_kind_a_field_and_a_filter_can_be_asked_for(source):
    text = shown(source, kind="demonstration", where=("split=test",), fields={"response": "rejected"})
    assert "1 rows, read as demonstrations" in text and "response = rejected" in text
    assert "chosen:" not in text and "[[nine nine" in text


def test_a_ranking_shows_its_scores(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"prompt": "p", "responses": ["a", "b"], "scores": [0.5, 2]}]))
    assert "1 (score 2): [[b]]\n  2 (score 0.5): [[a]]" in shown(str(tmp_path / "x.json"))


def test_the_command_reads_its_flags(source, capsys):
    from sparring.cli.parser import Parser

    words = [source, "--kind", "demonstration", "--fields", "response=rejected", "--where", "split=test", "--rows", "1"]
    parser = Parser(prog="sparring data show", words=words)
    command.add_arguments(parser)
    command.run(parser.parse())
    assert "1 rows, read as demonstrations" in capsys.readouterr().out


def test_bad_input_is_an_error_before_anything_is_printed(source):
    with pytest.raises(DataError, match=r"did you mean x\.jsonl"):
        shown(source + "x")
    with pytest.raises(SettingError, match="max-length"):
        shown(source, max_length=0)
    with pytest.raises(DataError, match="a rating needs"):
        shown(source, kind="rating")

"""The report pages: whole, self-contained, escaped, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import DataError, RunError
from sparring.core.metrics import METRICS
from sparring.report.page import comparison_page
from sparring.report.run import run_page

EVIL = "<script>alert('x')</script> & \"quoted\""


class Outline(HTMLParser):
    """What a browser would see: whether all elements are closed, the texts, the attributes that load things."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for key, value in attrs if key in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def results() -> dict[str, Any]:
    return {
        "title": "Three methods",
        "verdict": "RLGAF is 0.2 ahead.",
        "methods": [
            {"name": "base", "gold": {"mean": 0.25, "low": 0.2, "high": 0.3}, "kl": None, "seconds": 39.0},
            {"name": "sft", "gold": {"mean": 0.5, "low": 0.45, "high": 0.55}, "kl": 7.25, "seconds": 131},
            {"name": EVIL, "gold": {"mean": 0.7, "low": 0.65, "high": 0.75}, "kl": 11, "perplexity": 3.25},
        ],
        "seeds": [0, 1, 2],
        "prompts": 400,
        "command": "sparring demo --note '<b>'",
        "machine": "2 cores",
        "settings": {"lr": 0.001},
    }


def curves() -> dict[str, list[dict[str, Any]]]:
    return {
        "sft": [{"step": i, "loss": 2 / i, "lr": 0.1} for i in range(1, 20)],
        EVIL: [{"round": i, "step": 4 * i, "judge_accuracy": 0.5 + i / 50, "kl": i / 2} for i in range(1, 20)],
    }


def samples() -> list[dict[str, Any]]:
    answer = {"text": EVIL, "gold": 0.125}
    return [{"prompt": f"the film {i}", "answers": {"base": answer, "sft": answer}} for i in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "rlgaf-1"
    folder.mkdir()
    (folder / "run.yaml").write_text("method: rlgaf\ncommand: sparring train rlgaf --run <here>\n")
    rows = [{"round": i, "step": i, "kl": i / 3, "judge_accuracy": 0.7} for i in range(1, 30)]
    rows[-1]["judge_accuracy"] = 1.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = [
        {"round": i, "prompt": "the film", "response": f"{EVIL} {i}.{k}", "score": 0.5, "stop": "eos"}
        for i in range(20)
        for k in range(9)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn))
    (folder / "eval.json").write_text(json.dumps({"gold": {"mean": 0.5, "low": 0.4, "high": 0.6}, "data": "test"}))
    return folder


def test_the_comparison_is_one_closed_document_that_loads_nothing() -> None:
    page = comparison_page(results(), curves(), samples())
    found = outline(page)
    assert page.startswith("<!doctype html>")
    assert found.loads == []
    assert found.tags.count("script") == 2  # one runs, the other is the browser's data
    assert not re.search(r"https?://|@import|url\(", page)


def test_nothing_from_outside_becomes_markup() -> None:
    page = comparison_page(results(), curves(), samples())
    assert "<script>alert" not in page
    assert "<b>" not in page
    texts = outline(page).texts
    assert EVIL in texts
    # Once per method on each of three cards.
    assert sum(text == EVIL for text in texts) >= 6


def test_the_comparison_says_what_was_found_and_how_to_make_it_again() -> None:
    text = "\n".join(outline(comparison_page(results(), curves(), samples())).texts)
    for said in ("RLGAF is 0.2 ahead.", "0.250", "0.450 to 0.550", "seeds: 3 (0, 1, 2)", "2 min 11 s", "2 cores"):
        assert said in text
    assert "sparring demo --note '<b>'" in text
    assert "perplexity" in text
    assert '"lr": 0.001' in text


def test_every_curve_comes_with_its_meaning_and_its_healthy_band() -> None:
    text = " ".join(outline(comparison_page(results(), curves(), [])).texts)
    for key in ("loss", "kl", "judge_accuracy", "lr"):
        metric = METRICS[key]
        assert metric.meaning[1:] in text
        assert metric.healthy in text


def test_a_few_samples_are_there_without_script_and_the_controls_are_not() -> None:
    page = comparison_page(results(), {}, [*samples(), {"prompt": "a fourth", "answers": samples()[0]["answers"]}])
    assert "<div data-app hidden>" in page
    assert page.count('<article class="card">') == 3 and '["a fourth",' in page


def test_a_comparison_with_one_bare_method_is_still_a_page() -> None:
    outline(comparison_page({"methods": [{"name": "sft"}]}, {}, []))
    outline(comparison_page({"methods": [{"name": "sft", "gold": 0.5}]}, {"sft": [{"step": 1, "loss": 1.0}]}, []))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({}, "methods must be a list"),
        ({"methods": []}, "at least one method"),
        ({"methods": [{"gold": 1}]}, r"methods\[0\]: name is missing"),
        ({"methods": [{"name": "a"}, {"name": "b", "kl": "high"}]}, r"methods\[1\] \(b\): kl is 'high'"),
        ({"methods": [{"name": "a", "kl": True}]}, "kl is True"),
    ],
)
def test_broken_results_are_refused_by_field(broken: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        comparison_page(broken, {}, [])


def test_broken_samples_are_refused_by_place() -> None:
    with pytest.raises(DataError, match=r"samples\[1\]"):
        comparison_page(results(), {}, [samples()[0], {"prompt": 3, "answers": {}}])
    with pytest.raises(DataError, match=r"samples\[0\]: sft: text is missing"):
        comparison_page(results(), {}, [{"prompt": "x", "answers": {"sft": {"gold": 1}}}])


def test_the_page_of_a_run_shows_its_folder_and_loads_nothing(run: Path) -> None:
    page = run_page(run)
    found = outline(page)
    text = "\n".join(found.texts)
    assert found.loads == []
    assert "<script>alert" not in page
    for said in ("rlgaf, rlgaf-1", "sparring train rlgaf --run <here>", "0.400 to 0.600", "29 steps", "29 rounds"):
        assert said in text
    # The accuracy ended at 1, above the band's edge of 0.95; kl at 9.67 is inside.
    assert METRICS["judge_accuracy"].high == 0.95
    assert "1 (look)" in text
    assert text.count("(look)") == 1


def test_the_page_of_a_run_spreads_the_samples_and_says_how_many_it_left_out(run: Path) -> None:
    text = "\n".join(outline(run_page(run)).texts)
    assert "6 of 20 rounds" in text
    assert text.count("6 of 9") == 6
    assert "Round 0" in text
    assert "Round 19" in text


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: sft\n")
    assert "has not finished a step" in run_page(tmp_path)


def test_half_a_last_line_is_a_run_still_writing_and_a_broken_one_before_it_is_an_error(run: Path) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"round": 30, "k')
    outline(run_page(run))
    path.write_text('{"round": 30, "k\n' + whole)
    with pytest.raises(RunError, match="line 1 is not JSON"):
        run_page(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.yaml"):
        run_page(tmp_path)
    (tmp_path / "run.yaml").write_text("a: [")
    with pytest.raises(RunError, match="cannot be read"):
        run_page(tmp_path)


def test_a_run_with_a_figure_that_is_not_finite_still_has_a_page(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 30, "step": 30, "kl": NaN, "judge_accuracy": 0.7}\n')
    outline(run_page(run))

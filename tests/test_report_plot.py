"""The figures for papers: whole files, with the methods' names in them; without matplotlib only a note."""

import builtins
import json
from pathlib import Path

import pytest

from sparring.cli import main
from tests import pages


def test_every_figure_is_written_as_png_and_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from sparring.report.plot import write_figures

    results, curves, samples = pages.large(prompts=12, words=5)
    results["frontier"]["trails"] = results["frontier"]["trails"][:1]
    few = {
        name: [{key: row[key] for key in ("round", "loss", "kl")} for row in curves[name]] for name in ("PPO", "RLGAF")
    }
    written = write_figures(tmp_path / "figures", results, few, samples)
    names = {"reward", "frontier", "overoptimisation", "spread", "heatmap", "curves"}
    assert {(p.stem, p.suffix) for p in written} == {(n, kind) for n in names for kind in (".png", ".svg")}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {p.name for p in written}
    assert all((tmp_path / f"figures/{n}.png").read_bytes().startswith(b"\x89PNG") for n in names)
    for name in ("reward", "frontier", "spread", "heatmap"):
        drawn = (tmp_path / f"figures/{name}.svg").read_text()
        assert all(method in drawn for method in ("RLGAF", "DPO beta=0.1"))


def test_a_run_without_matplotlib_has_its_page_and_is_told_how_to_get_figures(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "run.yaml").write_text("method: rlgaf\n")
    rows = [
        {"round": i, "step": i, "kl": i / 3, "score": 1.0 * i, "judge_loss": 0.6, "seconds": 60.0} for i in range(1, 9)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {"samples": [{"prompt": f"p{i}", "response": " good", "scores": {"gold": i / 7}} for i in range(5)]}
    (tmp_path / "eval.json").write_text(json.dumps(found))
    real = builtins.__import__

    def without(name, *more, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main.main(["report", str(tmp_path)]) == 0
    assert 'pip install "sparring[plot]"' in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Its judge learns along" in page and "1 min 00 s" in page and '"rows":[["p0",["good"],[0.0]]' in page
    assert not (tmp_path / "figures").exists()

"""The whole demo at a hundredth of its size: from an empty cache to results, a page and a verdict."""

import json
import signal
from dataclasses import replace

import pytest

from sparring.cli import main
from sparring.compare import cells, embedded
from sparring.compare.embedded import embedded_plan
from sparring.compare.run import prepare
from sparring.compare.world import Base
from tests.small import Here

SMALL = {"epochs": 1, "batch": 8, "eval_every": 10, "save_every": 10, "held_out": 0.1}
SPAR = {
    "rounds": 2,
    "batch": 4,
    "K": 2,
    "max_tokens": embedded.TOKENS,
    "judge_warmup": 2,
    "save_every": 2,
    "held_out": 0.0,
}


@pytest.fixture(autouse=True)
def ended_as_before():
    """The command takes SIGTERM for a request to save; the process of the tests goes on without that."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_the_demo_goes_from_nothing_to_a_verdict_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    base = Base(width=16, layers=1, heads=2, reviews=40, epochs=0.5, batch=8)

    def small(out, **more):
        made = embedded_plan(out, base=base, **more)
        methods = (replace(made.methods[0], settings=SPAR),)
        return replace(made, sft=SMALL, methods=methods)

    monkeypatch.setattr(embedded, "embedded_plan", small)
    monkeypatch.setattr(cells, "launcher", lambda command, work: Here)  # instead of processes, which take seconds
    command = ["demo", "--out", str(tmp_path / "demo"), "--demonstrations", "16", "--prompts", "6", "--seeds", "1"]
    assert main.main(command) == 0
    found = json.loads((tmp_path / "demo/results.json").read_text())
    assert [m["name"] for m in found["methods"]] == ["base", "SFT", "SFT + best of 4", "RLGAF"]
    assert all(-1 <= m["gold"]["mean"] <= 1 for m in found["methods"])
    assert found["verdict"].startswith("One seed cannot tell from SFT: RLGAF")
    assert found["command"].startswith("sparring demo --out")
    page = (tmp_path / "demo/report.html").read_text()
    assert found["verdict"].split(" (")[0] in page and "<svg" in page

    trained = [p for p in tmp_path.glob("demo/cells/*/*/model/*") if p.is_file()]
    before = [p.stat().st_mtime_ns for p in trained]
    assert main.main(command) == 0 and "4 of 4 cells are done already" in capsys.readouterr().err
    assert trained and [p.stat().st_mtime_ns for p in trained] == before


def test_with_rivals_every_other_method_that_takes_demonstrations_alone_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    base = Base(width=16, layers=1, heads=2, reviews=40, epochs=0.5, batch=8)
    sizes = {"demonstrations": 16, "prompts": 6, "seeds": 1, "base": base, "quiet": True}
    work = prepare(embedded_plan(tmp_path / "out", rivals=True, **sizes), tmp_path / "out")
    assert list(work.lines) == ["base", "SFT", "SFT + best of 4", "RLGAF", "SPIN"]

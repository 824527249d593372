"""The whole demo at a hundredth of its size: from an empty cache to results, a page's inputs and a verdict."""

import json

import pytest

from sparring.compare import demo
from sparring.compare.demo import BASE, BEST, RLGAF, SFT, Plan, run_demo, run_seed, verdict
from sparring.compare.world import Base
from sparring.report.page import comparison_page

SMALL = {"epochs": 1, "batch": 8, "eval_every": 10, "save_every": 10, "held_out": 0.1, "precision": "fp32"}
SPAR = {
    "rounds": 2, "batch": 4, "K": 2, "max_tokens": demo.TOKENS, "judge_warmup": 2, "save_every": 2,
    "held_out": 0.0, "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    base = Base(width=16, layers=1, heads=2, reviews=40, epochs=0.5, batch=8)
    return Plan(out=tmp_path / "demo", seeds=1, demonstrations=16, prompts=6, base=base, sft=SMALL, rlgaf=SPAR)


def test_the_demo_goes_from_nothing_to_a_verdict_and_goes_on_where_it_was(plan, monkeypatch):
    # Seeds run in processes of their own with the real sizes; here they run one after another with these.
    def one_after_another(commands):
        assert [c[c.index("--only-seed") + 1] for c in commands] == ["0"]
        run_seed(plan, 0, quiet=True)

    monkeypatch.setattr(demo, "_in_parallel", one_after_another)
    outcome = run_demo(plan, quiet=True)
    found = json.loads((plan.out / "results.json").read_text())
    assert [m["name"] for m in found["methods"]] == [BASE, SFT, BEST, RLGAF]
    assert all(-1 <= m["gold"]["mean"] <= 1 for m in found["methods"])
    assert found["verdict"].startswith("one seed cannot tell RLGAF from SFT")
    assert [len(s["answers"]) for s in outcome.samples] == [4] * len(outcome.samples) and outcome.samples
    page = comparison_page(outcome.results, outcome.curves, outcome.samples)
    assert found["verdict"].split(";")[0].split(" (")[0] in page and "<svg" in page

    trained = [p for p in plan.out.rglob("model/*") if p.is_file()]
    before = [p.stat().st_mtime_ns for p in trained]
    run_demo(plan, quiet=True)
    assert trained and [p.stat().st_mtime_ns for p in trained] == before


def cells(*golds):
    return [{"score gold": {"mean": g}} for g in golds]


@pytest.mark.parametrize(
    ("rlgaf", "word"),
    [((0.80, 0.81, 0.79), "beats SFT"), ((0.2, 0.21, 0.19), "is worse than SFT"), ((0.5, 0.9, 0.1), "cannot be told")],
)
def test_the_verdict_says_what_the_interval_says(rlgaf, word):
    # paired differences of about +0.3, -0.3 and 0.0 with spreads of 0.01, 0.01 and 0.4
    sentence = verdict({SFT: cells(0.5, 0.51, 0.49), BEST: cells(0.5, 0.5, 0.5), RLGAF: cells(*rlgaf)})
    assert word in sentence and sentence.endswith("3 seeds.")

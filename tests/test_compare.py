"""sparring compare: plans, cells, budgets and what is written down, on a model with random weights."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from sparring.cli import main
from sparring.compare.cells import error_of
from sparring.compare.lines import BASE, SFT, lines_of
from sparring.compare.plan import differences, load_plan, read_plan
from sparring.compare.results import collect, samples, share_above, win_rates
from sparring.compare.run import compare, load, prepare
from sparring.core.errors import RunError, SettingError, UserError
from sparring.data.read import read_rows
from sparring.report.page import comparison_page
from tests.small import Here, weights, world

PLANS = sorted((Path(__file__).parent.parent / "examples/plans").glob("*.yaml"))
BATCHES = {"batch": 4, "held_out": 0.0, "keep_best": "last"}
SAMPLES = {"rounds": 1, "batch": 4, "K": 2, "max_tokens": 4, "save_every": 2}


def raw(**more):
    """A plan with one method, as the file would hold it."""
    return {
        "model": str(world() / "model"), "data": str(world() / "pairs.jsonl"), "feedback": ["length"], "seeds": 2,
        "settings": {"precision": "fp32", "lr": 1e-2}, "sft": {"steps": 2, **BATCHES},
        "evaluate": {"max_tokens": 4, "prompts": 4},
        "methods": [{"method": "dpo", "settings": {"steps": 2, **BATCHES}}],
    } | more  # fmt: skip


def run(plan, out, said=None):
    """Run a comparison; returns what was found and which cells were run, in order."""
    ran = []

    def launch(out, name, seed):
        ran.append((name, seed))
        return Here(out, name, seed)

    tell = (lambda *what: None) if said is None else lambda *what: said.append(what)
    found = compare(prepare(plan, out), launch, workers=2, tell=tell, command="sparring compare plan.yaml")
    return found, ran


# Cells


def test_methods_and_seeds_are_run_skipped_repaired_and_one_that_fails_stops_nothing_else(tmp_path):
    (tmp_path / "bad.py").write_text("def fails(response):\n    raise ValueError('no')\n")
    judged = {"method": "rloo", "settings": SAMPLES}
    methods = [*raw()["methods"], {**judged, "feedback": "length"},
               {**judged, "name": "bad", "feedback": f"{tmp_path}/bad.py:fails"},
               {**judged, "name": "waits", "feedback": "{bad}"}]  # fmt: skip
    plan, out, said = read_plan(raw(methods=methods, best_of=2)), tmp_path / "out", []
    found, ran = run(plan, out, said)

    names = [BASE, SFT, "SFT + best of 2", "dpo", "rloo"]
    assert sorted(ran) == sorted((n, s) for n in [*names, "bad"] for s in (0, 1))
    assert [m["name"] for m in found["methods"]] == names and all("length" in m for m in found["methods"])
    errors = {(f["name"], f["seed"]): f["error"] for f in found["failed"]}
    assert set(errors) == {(n, s) for n in ("bad", "waits") for s in (0, 1)}
    assert "ValueError: no" in errors["bad", 0] and errors["waits", 1] == "not run, for bad failed"
    assert len(said) == 14 and "Failed: bad, seed 0 (rule" in found["verdict"]
    assert "cells that need one of these were not run." in found["verdict"] and "waits" not in found["verdict"]
    assert found == json.loads((out / "results.json").read_text())
    table = (out / "results.csv").read_text().splitlines()
    assert len(table) == 1 + 14 and table[0].startswith("name,method,seed,length,kl,")
    assert "dpo" in comparison_page(found, {}, [])
    _shows_all_responses_and_what_reward_costs(found, load(out))
    _counts_wins_over_the_start(found, load(out), table)
    assert (out / "cells/dpo/seed-1/run.yaml").is_file() and (out / "cells/dpo/seed-1/eval.json").is_file()
    # Each is three times as large as the model; whoever failed may go on from its own.
    assert {p.parts[-3] for p in out.rglob("checkpoints")} == {"bad"}
    assert not (world() / "model/eval.json").exists()

    again, ran = run(plan, out)
    assert sorted(ran) == [("bad", 0), ("bad", 1)] and again["methods"] == found["methods"]

    made = (out / "cells/dpo/seed-1/model/model.safetensors").read_bytes()
    shutil.rmtree(out / "cells/dpo/seed-0")  # removed, and two that were killed before they were done
    shutil.rmtree(out / "cells/dpo/seed-1/model")
    (out / "cells/SFT/seed-0/cell.json").write_text('{"seco')
    repaired, ran = run(plan, out)
    assert sorted(key for key in ran if key[0] != "bad") == [("SFT", 0), ("dpo", 0), ("dpo", 1)]
    assert (out / "cells/dpo/seed-1/model/model.safetensors").read_bytes() == made
    assert [m["length"] for m in repaired["methods"]] == [m["length"] for m in found["methods"]]


def _counts_wins_over_the_start(found, work, table):
    cells = collect(work)
    one, two = (cells[name][1]["values"]["score length"] for name in ("dpo", SFT))
    want = sum((a > b) + 0.5 * (a == b) for a, b in zip(one, two, strict=True)) / len(one)
    assert win_rates(work, cells)["dpo"][1] == pytest.approx(want)
    rows = {m["name"]: m for m in found["methods"]}
    assert "win_rate" not in rows[SFT] and rows["dpo"]["win_rate"].keys() == {"mean", "low", "high"}
    at = table[0].split(",").index("win_rate")
    assert {tuple(line.split(",")[0:3:2]): line.split(",")[at] for line in table[1:]}["dpo", "1"] == str(want)


def test_a_win_is_a_higher_score_on_the_same_prompt_and_a_tie_half_of_one():
    assert share_above([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 6.0]) == (1 + 0.5) / 4


def _shows_all_responses_and_what_reward_costs(found, work):
    cells = collect(work)
    shown = samples(work, cells)
    assert len(shown) == 4  # as many prompts as were measured
    for place, sample in enumerate(shown):
        assert list(sample["answers"]) == [BASE, SFT, "SFT + best of 2", "dpo", "rloo"]
        scores = [cells["dpo"][seed]["values"]["score length"][place] for seed in (0, 1)]
        answer = sample["answers"]["dpo"]
        assert answer["mean"] == pytest.approx(sum(scores) / 2) and answer["gold"] == scores[0]
        assert answer["gold"] == len(answer["text"].split())
    way = found["frontier"]
    points = {p["name"]: p for p in way["points"]}
    assert way["start"] == SFT and list(points) == [SFT, "SFT + best of 2", "dpo", "rloo"]
    assert points[SFT]["kl"]["mean"] == 0 and points["SFT + best of 2"]["kl"]["mean"] == pytest.approx(
        math.log(2) - 0.5
    )
    assert points["dpo"]["kl"]["mean"] != next(m["kl"]["mean"] for m in found["methods"] if m["name"] == "dpo")
    assert [row["n"] for row in way["best_of"]] == [1, 2] and way["best_of"][0]["kl"] == 0
    (rloo,) = way["trails"]
    assert [(row["seed"], row["round"]) for row in rloo["rows"]] == [(0, 1), (1, 1)] and way["fits"] == []
    # What it learnt from is the yardstick itself here, so both say the same of the logged samples.
    assert all(row["proxy"] == row["gold"] and row["samples"] == 8 for row in rloo["rows"])


def test_a_comparison_that_has_only_begun_has_a_page_already(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sparring.report.write.write_figures", lambda *what: [])
    prepare(read_plan(raw()), tmp_path / "out")
    assert main.main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert "without seed 0, 1" in (tmp_path / "page.html").read_text()


def test_the_data_is_split_by_prompt_and_both_sides_are_read_as_before(tmp_path):
    work = prepare(read_plan(raw(held_out=0.25)), tmp_path / "out")
    before = {json.dumps(r.values) for r in read_rows(str(world() / "pairs.jsonl"))}
    sides = [read_rows(source.file) for source in (work.plan.data, work.plan.eval_data)]
    assert {json.dumps(r.values) for side in sides for r in side} == before
    train, held_out = ({r.values["prompt"] for r in side} for side in sides)
    assert not train & held_out and len(held_out) == round(0.25 * len(train | held_out))


def test_a_judge_that_one_method_trains_scores_for_another_and_picks_the_best(tmp_path):
    methods = [{"name": "reward", "method": "reward_model", "settings": {"steps": 2, **BATCHES}},
               {"method": "rloo", "feedback": "{reward}", "settings": SAMPLES}]  # fmt: skip
    out = tmp_path / "out"
    found, ran = run(read_plan(raw(methods=methods, seeds=[3], best_of=2, judge="{reward}")), out)
    assert ran.index(("reward", 3)) < min(ran.index((n, 3)) for n in ("rloo", "SFT + best of 2"))
    assert found["failed"] == [] and [j["name"] for j in found["judges"]] == ["reward"]
    record = yaml.safe_load((out / "cells/rloo/seed-3/run.yaml").read_text())
    assert record["feedback"] == [str(out / "cells/reward/seed-3")]
    assert record["model"] == str(out / "cells/SFT/seed-3") and record["settings"]["seed"] == 3
    assert "One seed cannot tell from SFT: rloo" in found["verdict"]


def test_a_comparison_goes_on_with_more_methods_and_seeds_and_keeps_what_it_has(tmp_path):
    out, reward = tmp_path / "out", {"name": "reward", "method": "reward_model", "settings": {"steps": 2, **BATCHES}}
    paid = {"method": "rloo", "feedback": "{reward}", "settings": SAMPLES}
    before, _ = run(read_plan(raw(seeds=1, methods=[*raw()["methods"], reward, paid])), out)
    split, asked = load(out).plan.eval_data, (out / "plan.yaml").read_text()
    ipo = {"method": "ipo", "settings": {"steps": 1, **BATCHES}}
    more = [ipo, *raw()["methods"], reward, paid]
    grown = read_plan(raw(seeds=[1, 0], methods=more, title="more"))
    found, ran = run(grown, out)
    assert sorted(ran) == sorted([("ipo", 0), *((n, 1) for n in (BASE, SFT, "ipo", "dpo", "reward", "rloo"))])
    assert [m["name"] for m in found["methods"]] == [BASE, SFT, "ipo", "dpo", "rloo"] and found["title"] == "more"
    assert load(out).plan.eval_data == split and found["settings"]["dpo"] == before["settings"]["dpo"]
    (out / "plan.yaml").write_text(asked)  # as a kill leaves it that comes before the last of what is written
    assert run(grown, out)[1] == [] and load_plan(out / "plan.yaml") == grown

    # What is here must be what the plan says: neither itself nor what it was made from may change under it.
    other = {**reward, "settings": {"steps": 1, **BATCHES}}
    for change in ({"seeds": [1]}, {"methods": more[:-1]}, {"methods": [*more[:2], other, paid]}):
        with pytest.raises(RunError, match=r"\d of its cells are of another plan, such as .*seed-[01]; put the plan b"):
            prepare(read_plan(raw(**{"seeds": [1, 0], "methods": more, "title": "more"} | change)), out)
    assert run(grown, out)[1] == []
    for name in ("reward", "rloo"):
        shutil.rmtree(out / "cells" / name)
    changed, ran = run(read_plan(raw(seeds=[1, 0], methods=[*more[:2], other, paid])), out)
    assert sorted(ran) == [(n, s) for n in ("reward", "rloo") for s in (0, 1)]
    assert changed["settings"]["reward"]["steps"] == 1


@pytest.mark.parametrize("method", ["raft", "rloo"])
def test_a_yardstick_that_reads_right_answers_follows_what_learns_from_pairs(tmp_path, method):
    rows = [json.loads(line) for line in (world() / "pairs.jsonl").read_text().splitlines()]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r | {"reference": ["x", r["prompt"]]}) + "\n" for r in rows))
    (tmp_path / "rules.py").write_text("def told(prompt, response, reference): return reference == ('x', prompt)\n")
    settings = {"rounds": 1, "K": 2, "max_tokens": 4, "batch": 4} | ({"prompts": 4} if method == "raft" else {})
    methods = [{"method": method, "feedback": "length", "settings": settings}]
    plan = raw(data=str(data), feedback=[f"{tmp_path}/rules.py:told"], seeds=1, methods=methods, sft=None)
    found, _ = run(read_plan(plan), tmp_path / "out")
    assert found["failed"] == [] and [m["told"]["mean"] for m in found["methods"]] == [1.0, 1.0]
    (trail,) = found["frontier"]["trails"]
    assert trail["rows"] and all(point["gold"] == 1.0 for point in trail["rows"])


def test_an_error_is_the_last_line_that_a_process_said(tmp_path):
    assert "without a word" in error_of(tmp_path / "seed-0")
    (tmp_path / "seed-0.log").write_text("Traceback\n  file\nKeyError: 'x'\n\n")
    assert error_of(tmp_path / "seed-0") == "KeyError: 'x'"


# Budgets


def test_every_method_gets_as_many_rounds_or_steps_as_the_budget_pays_for_and_not_one_more(tmp_path):
    methods = [{"method": "dpo", "settings": BATCHES}, {"method": "rloo", "feedback": "length",
               "settings": {n: v for n, v in SAMPLES.items() if n != "rounds"}}]  # fmt: skip
    plan = read_plan(raw(methods=methods, budget={"tokens": 4000}, seeds=1))
    work = prepare(plan, tmp_path / "out")
    dpo, rloo = work.costs["dpo"], work.costs["rloo"]
    for cost, clock in ((dpo, "steps"), (rloo, "rounds")):
        one = cost.tokens / cost.settings[clock]
        assert 4000 - 1.5 * one < cost.tokens <= 4000
    assert dpo.settings["reference"] == "stored" and "reference" not in work.costs["SFT"].settings
    numbers = sum(w.numel() for w in weights(world()).values())
    sft = work.costs["SFT"]
    assert sft.flops == 6 * numbers * sft.tokens  # all of its tokens are trained on
    assert 2 * numbers * rloo.tokens < rloo.flops < 6 * numbers * rloo.tokens  # some are only read or sampled
    assert (dpo.labels, rloo.labels) == (len(read_rows(work.plan.data.file)), 0)


@pytest.mark.parametrize(
    ("budget", "method", "words"),
    [
        (
            {"tokens": 10},
            {"method": "dpo", "settings": BATCHES},
            "dpo: one of its steps costs .* the budget has 10 for it",
        ),
        (
            {"seconds": 9},
            {"method": "rloo", "feedback": "{dpo}", "settings": {"max_tokens": 4}},
            "rloo: .* judge is still to be trained",
        ),
        ({"tokens": 1e6}, raw()["methods"][0], "dpo: the budget decides how many steps there are; leave steps out"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(budget, method, words, tmp_path):
    others = [{"method": "dpo", "settings": {"batch": 4}}] if method["method"] == "rloo" else []
    with pytest.raises(SettingError, match=words):
        prepare(read_plan(raw(budget=budget, methods=[method, *others])), tmp_path / "out")


# Plans


def test_a_judge_keeps_its_own_number_of_steps_under_a_budget(tmp_path):
    judge = {"method": "reward_model", "name": "judge", "settings": {"steps": 3, **BATCHES}}
    work = prepare(read_plan(raw(budget={"tokens": 1e5}, methods=[judge])), tmp_path / "out")
    assert work.costs["judge"].settings["steps"] == 3 and work.costs["judge"].trains_judge


def test_a_line_pays_for_the_judge_that_pays_it(tmp_path):
    judge = {"method": "reward_model", "name": "judge", "settings": {"steps": 3, **BATCHES}}
    own = {n: v for n, v in SAMPLES.items() if n != "rounds"}
    methods = [{"method": "rloo", "feedback": "{judge}", "settings": own}, judge]
    paid = prepare(read_plan(raw(budget={"tokens": 4000}, methods=methods)), tmp_path / "out")
    rule = [{"method": "rloo", "feedback": "length", "settings": own}]
    free = prepare(read_plan(raw(budget={"tokens": 4000}, methods=rule)), tmp_path / "free").costs["rloo"]
    rloo, judge = paid.costs["rloo"], paid.costs["judge"]
    assert rloo.judges == ["judge"] and judge.tokens > 0 and rloo.labels == judge.labels > 0 == free.labels
    each = free.tokens / free.settings["rounds"]
    assert rloo.settings["rounds"] < free.settings["rounds"]
    assert 4000 - 1.5 * each < rloo.tokens <= 4000
    with pytest.raises(SettingError, match=r"rloo: .* the budget has 10 for it"):
        prepare(read_plan(raw(budget={"tokens": judge.tokens + 10}, methods=methods)), tmp_path / "little")


def test_a_budget_that_a_judges_warm_up_eats_up_says_so(tmp_path):
    own = {n: v for n, v in SAMPLES.items() if n != "rounds"}
    game = [
        {"method": "rlgaf", "feedback": "bag_of_words", "settings": own | {"judge_warmup": 1000, "overflow": "cut"}}
    ]
    with pytest.raises(SettingError, match=r"rlgaf: .* raise it, or lower judge_warmup, batch or K"):
        prepare(read_plan(raw(budget={"tokens": 4000}, methods=game)), tmp_path / "out")


def test_a_line_that_judges_for_others_may_say_how_long_it_learns_and_is_not_measured(tmp_path):
    short = {
        "method": "rlgaf",
        "name": "words",
        "feedback": "bag_of_words",
        "settings": {**SAMPLES, "rounds": 1, "overflow": "cut"},
    }
    paid = {"method": "rloo", "feedback": "{words}", "settings": {n: v for n, v in SAMPLES.items() if n != "rounds"}}
    work = prepare(read_plan(raw(budget={"tokens": 1e5}, methods=[short, paid])), tmp_path / "out")
    assert work.costs["words"].settings["rounds"] == 1 and work.costs["words"].trains_judge
    assert work.costs["rloo"].settings["rounds"] > 1 and not work.costs["rloo"].trains_judge
    with pytest.raises(SettingError, match="words: the budget decides how many rounds"):
        prepare(read_plan(raw(budget={"tokens": 1e5}, methods=[short])), tmp_path / "other")


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
def test_a_plan_of_the_examples_reads_and_reads_back(file):
    plan = load_plan(file)
    assert read_plan(plan.to_dict()) == plan and differences(plan, plan) == []
    assert len(lines_of(plan)) > 4


def test_a_grid_becomes_a_line_for_each_combination(tmp_path):
    entry = {"method": "dpo", "name": "D", "grid": {"beta": [0.1, 1], "lr": ["1e-3"]}}
    lines = lines_of(read_plan(raw(methods=[entry])))
    assert list(lines) == [BASE, SFT, "D beta=0.1 lr=0.001", "D beta=1 lr=0.001"]
    assert lines["D beta=1 lr=0.001"].settings == {"precision": "fp32", "lr": 0.001, "beta": 1}
    assert len({line.place(tmp_path, 0) for line in lines.values()}) == 4


DPO = {"method": "dpo"}
WRONG = [
    ({"sedes": 3}, "unknown name 'sedes'; did you mean seeds"),
    ({"model": None}, "model is missing"),
    ({"seeds": "three"}, "seeds is 'three'; give a whole number"),
    ({"seeds": [1, 1]}, "seeds is .* different ones"),
    ({"budget": {"tokens": 1, "flops": 1}}, "budget is .*give one of tokens, flops, seconds"),
    ({"budget": {"token": 1}}, "budget: unknown name 'token'; did you mean tokens"),
    ({"budget": {"tokens": -1}}, "budget: tokens is -1; give a number"),
    ({"evaluate": {"prompt": 3}}, "evaluate: unknown name 'prompt'"),
    ({"methods": []}, "methods is .*give a list"),
    ({"methods": [{**DPO, "sttings": {}}]}, r"methods\[0\]: unknown name 'sttings'; did you mean settings"),
    ({"methods": [{**DPO, "grid": {"beta": 1}}]}, r"methods\[0\]: grid: beta is 1; give a list"),
    ({"methods": [{**DPO, "settings": {"seed": 1}}]}, "leave it to `seeds`"),
    ({"methods": ["dpo", "dpo"]}, "two lines are called dpo"),
    ({"methods": ["dpo", {**DPO, "name": "DPO"}]}, "too much alike"),
    ({"methods": [{**DPO, "settings": {"beta": 1}, "grid": {"beta": [1, 2]}}]}, "both in settings and in grid"),
    ({"methods": [{"method": "rloo", "feedback": "{dop}"}, "dpo"]}, "there is no run {dop}; did you mean dpo"),
    ({"methods": [{"method": "rloo", "feedback": "{rloo}"}]}, "rloo wait for each other"),
    ({"methods": [{**DPO, "start": "sft"}], "sft": None}, "starts from sft, and there is none"),
    ({"judge": "length"}, "say of how many with best_of"),
    ({"methods": ["dop"]}, "dop: .*did you mean .*dpo"),
    ({"methods": [{**DPO, "settings": {"betta": 1}}]}, "dpo: dpo has no setting 'betta'; did you mean beta"),
    ({"methods": [{**DPO, "settings": {"beta": -1}}]}, "dpo: .*beta must be above 0"),
    ({"methods": [{**DPO, "feedback": "length"}]}, "dpo: dpo learns from a file and has no use for --feedback"),
    ({"methods": ["rloo"]}, "rloo: rloo learns from scores; name a judge"),
    ({"methods": [{"method": "rloo", "feedback": "lenght", "settings": SAMPLES}]}, "rloo: there is no feedback called"),
    ({"feedback": ["lenght"]}, "there is no feedback called 'lenght'"),
    ({"feedback": ["discriminator"]}, "a discriminator lives only in its run"),
    ({"model": "nowhere"}, "SFT: nowhere: no such model folder"),
    ({"methods": [{**DPO, "data": "texts.jsonl"}]}, "name eval_data"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_a_wrong_plan_is_refused_before_anything_runs(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        prepare(read_plan(raw(**change)), tmp_path / "out")
    assert not (tmp_path / "out/prepared.json").exists()


def test_a_name_given_twice_or_no_yaml_is_an_error_of_the_file(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("model: a\nseeds: 2\nmodel: b\n")
    with pytest.raises(SettingError, match=r"plan\.yaml: .*'model' is given twice.*line 1"):
        load_plan(file)
    file.write_text("model: [")
    with pytest.raises(SettingError, match="not readable as YAML"):
        load_plan(file)
    with pytest.raises(SettingError, match="no such plan"):
        load_plan(tmp_path / "none.yaml")


def test_a_plan_can_be_changed_on_the_command_line(tmp_path, capsys):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(raw()))
    changed = load_plan(file, ["model=gpt2", "seeds=[4, 5]", "budget={tokens: 2e6}"])
    assert (changed.model, changed.seeds, changed.budget) == ("gpt2", (4, 5), {"tokens": 2e6})
    for change, words in (
        (["model"], "give NAME=VALUE"),
        (["model=["], "not readable"),
        (["modell=a"], "unknown name"),
    ):
        with pytest.raises(SettingError, match=words):
            load_plan(file, change)
    assert main.main(["compare", "--demo", "--set", "seeds=1"]) == 2
    assert "--demo has its own" in capsys.readouterr().err


def test_a_changed_plan_and_a_folder_of_something_else_are_refused(tmp_path):
    out = tmp_path / "out"
    prepare(read_plan(raw()), out)
    with pytest.raises(RunError, match=r"best_of was 0 and is now 4; put it back"):
        prepare(read_plan(raw(best_of=4)), out)
    with pytest.raises(SettingError, match="two lines are called dpo"):
        prepare(read_plan(raw(methods=["dpo", "dpo"])), tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"no comparison here, but letter\.txt is"):
        prepare(read_plan(raw()), tmp_path / "other")


def test_the_command_checks_and_counts_and_says_what_is_wrong_with_its_words(tmp_path, capsys):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(raw()))
    assert main.main(["compare", str(file), "--out", str(tmp_path / "out"), "--check"]) == 0
    assert "dpo" in capsys.readouterr().out
    assert not list((tmp_path / "out/cells").glob("*/*/run.yaml"))
    for words, error in ((["--out", "x"], "takes a PLAN, or --demo"), ([str(file)], "needs --out")):
        assert main.main(["compare", *words]) == 2
        assert error in capsys.readouterr().err

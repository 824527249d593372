"""Runs that train on what they select: the folder, its stages, and what happens when one of them is lost."""

import json
import os
import shutil
import signal

import pytest

import sparring
from sparring import methods
from sparring.cli.main import main
from sparring.core.errors import Interrupted, RunError, SettingError
from sparring.core.metrics import METRICS
from sparring.core.records import Demonstration, Message, Preference, Prompt, Ranking, Rating
from sparring.core.registry import SELECTIONS
from sparring.core.selection import Scored
from sparring.data.formats import recognise, to_records
from sparring.data.read import read_rows
from sparring.data.write import as_row
from sparring.loops.collect import as_samples, from_samples
from sparring.loops.job import make_job
from sparring.loops.rounds import _without_empty
from tests.small import quick, rows, same, weights, world, write

LENGTH = ["length"]
CERTAIN = {"rest": {"thresholds": "0.1"}}  # so that something is selected of any samples


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds of raft, undisturbed."""
    return quick("raft", tmp_path_factory.mktemp("finished") / "run", feedback=LENGTH)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_same(run, other):
    assert same(weights(run), weights(other)) and rows(run) == rows(other)
    assert (run / "samples.jsonl").read_text() == (other / "samples.jsonl").read_text()


def test_every_stage_is_a_file_that_can_be_read(finished):
    for place in (finished / "rounds" / "01", finished / "rounds" / "02"):
        samples = lines(place / "samples.jsonl")
        assert len(samples) == 22 and all(len(s["responses"]) == len(s["scores"]) == 4 for s in samples)
        assert all(x == len(y.split()) for s in samples for x, y in zip(s["scores"], s["responses"], strict=True))
        selected = read_rows(str(place / "selected.jsonl"))
        assert recognise(selected).kind == "demonstration"
        best = {s["prompt"]: max(s["scores"]) for s in samples}
        assert all(len(r.values["response"].split()) == best[r.values["prompt"]] for r in selected)
        assert (place / "train" / "run.yaml").is_file() and (place / "train" / "model").is_dir()
    first, second = (lines(finished / "rounds" / n / "samples.jsonl") for n in ("01", "02"))
    assert all(s["logps"] == pytest.approx(s["ref_logps"], abs=1e-4) for s in first), "it starts at the reference"
    assert any(s["logps"] != pytest.approx(s["ref_logps"], abs=1e-3) for s in second)


def test_metrics_have_one_row_a_round_and_every_figure_is_explained(finished):
    found = rows(finished)
    assert [row["round"] for row in found] == [1, 2]
    assert all(set(row) <= set(METRICS) for row in found)
    assert {"score", "score_selected", "kept", "kept_prompts", "kl", "loss", "eval_score"} <= found[0].keys()
    assert all(row["score_selected"] >= row["score"] for row in found)
    assert found[0]["kl"] == pytest.approx(0.0, abs=1e-4) and found[1]["kl"] > 0


def test_the_folder_is_a_run_like_any_other(finished):
    assert same(weights(finished), weights(finished / "rounds" / "02" / "train"))
    assert "y* = the response with the highest rank" in (finished / "README.md").read_text()
    assert (finished / "README.md").read_text() == (finished / "model" / "README.md").read_text()
    assert len(sparring.sample(str(finished), ["ba be"], K=2, max_tokens=3)[0]) == 2
    result = sparring.evaluate(str(finished), data=str(world() / "texts.jsonl"), feedback=LENGTH, max_tokens=4)
    assert result is not None and (finished / "eval.json").is_file()
    assert main(["report", str(finished)]) == 0


@pytest.mark.parametrize(
    "lost",
    [
        ("rounds/02/figures.json", "metrics.jsonl"),
        ("rounds/02/figures.json", "rounds/02/train/model"),
        ("rounds/02/figures.json", "rounds/02/train", "rounds/02/selected.jsonl"),
        ("rounds/02",),
        ("rounds/01/figures.json", "rounds/01/train/model", "rounds/02", "metrics.jsonl", "samples.jsonl"),
        ("rounds", "run.yaml", "metrics.jsonl", "samples.jsonl"),
    ],
)
def test_whatever_a_kill_left_out_is_made_again_exactly(finished, tmp_path, lost):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("model", "README.md", "eval.json", "figures", *lost):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    for page in run.glob("*.html"):
        page.unlink()
    assert_same(quick("raft", run, feedback=LENGTH, resume=True), finished)


def test_a_run_that_is_asked_to_end_does_so_after_the_stage_it_is_in(finished, tmp_path):
    calls = []

    def length(response):
        calls.append(1)
        if len(calls) == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return float(len(response.split()))

    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="--resume"):
        quick("raft", run, feedback=[length])
    assert (run / "rounds" / "01" / "samples.jsonl").is_file() and not (run / "rounds" / "01" / "train").exists()
    assert_same(quick("raft", run, feedback=[length], resume=True), finished)


def test_a_threshold_that_nothing_exceeds_trains_nothing_and_says_so(tmp_path, capsys):
    few = {"thresholds": "0.5,1.0", "temperature": 1.0}
    run = quick("rest", tmp_path / "run", feedback=LENGTH, settings=few, quiet=False)
    said = capsys.readouterr().err
    assert "round 2: no response was selected (scores go from 0 to 6), so nothing is trained" in said
    found = rows(run)
    assert found[1]["kept"] == 0 and "loss" not in found[1] and found[0]["threshold"] == 0.5
    assert same(weights(run), weights(run / "rounds" / "01" / "train"))
    assert not (run / "rounds" / "02" / "samples.jsonl").exists(), "improve steps share the samples of a grow step"


def test_a_run_in_which_nothing_was_ever_selected_has_no_model(tmp_path):
    with pytest.raises(RunError, match=r"nothing was selected in any of the 2 rounds.*lower the threshold"):
        quick("farl", tmp_path / "run", feedback=LENGTH, settings={"threshold": 99.0})
    assert not (tmp_path / "run" / "model").exists()


def test_the_best_round_by_held_out_score_can_be_kept(tmp_path, capsys):
    # Longer is worse, but what is imitated is the longest: the score on held-out prompts falls.
    settings = {"keep_best": "eval_score", "rounds": 3, "lr": 0.05, "kl": 0.0}
    run = quick("raft", tmp_path / "run", feedback=LENGTH, settings=settings, quiet=False)
    scores = [row["eval_score"] for row in rows(run)]
    best = scores.index(max(scores)) + 1
    assert same(weights(run), weights(run / "rounds" / f"{best:02d}" / "train"))
    assert best == 3 or f"the model is that of round {best}" in capsys.readouterr().err


def test_an_empty_sample_does_not_cost_the_others_of_its_ranking():
    full = Ranking(prompt="p", ranked=(" a", " ", " b"), scores=(3.0, 2.0, 1.0))
    assert _without_empty(full) == Ranking(prompt="p", ranked=(" a", " b"), scores=(3.0, 1.0))
    alone = Ranking(prompt="p", ranked=(" a", ""), scores=(3.0, 2.0))
    assert _without_empty(alone) == alone, "one response is no ranking, so it is left to be counted and dropped"


EVERY = [(name, policy) for name in SELECTIONS for policy in methods.find(name).policies]


@pytest.mark.parametrize(("name", "policy"), EVERY)
def test_every_selection_can_train_every_policy_that_it_names(name, policy):
    job = make_job(
        name, model="m", data="d", run="r", policy=policy, feedback=LENGTH[: methods.find(name).needs_feedback]
    )
    assert job.equation.name == policy and job.rule is not None


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_leaves_the_stages_of_a_round_behind_it(tmp_path, name):
    found = methods.find(name)
    settings = {"rounds": 1, **({"accepted": 4} if name == "sample_rank" else {}), **CERTAIN.get(name, {})}
    run = quick(name, tmp_path / "run", feedback=LENGTH[: found.needs_feedback], settings=settings)
    place = run / "rounds/01"
    made = {p.name for p in place.iterdir()}
    assert made == {"samples.jsonl", "sampling.json", "selected.jsonl", "train", "figures.json"}
    samples, kept = lines(place / "samples.jsonl"), read_rows(str(place / "selected.jsonl"))
    kind = methods.get(found.policies[0]).data
    known = [(s["prompt"], y) for s in samples for y in (*s["responses"], s.get("given"))]
    for record in to_records(kept, kind):
        assert all((record.prompt, y) in known for y in record.responses())
    assert rows(run)[0].keys() <= METRICS.keys() and rows(run)[0]["kept"] == len(kept) > 0


def test_spin_needs_no_judge_and_plays_against_the_round_before(tmp_path):
    run = quick("spin", tmp_path / "run", settings={"K": 1, "mix": "last"})
    first, second = (lines(run / "rounds" / n / "selected.jsonl") for n in ("01", "02"))
    assert len(second) > len(first)
    given = {(r.values["prompt"], r.values["response"]) for r in read_rows(str(world() / "texts.jsonl"))}
    assert all((r["prompt"], r["chosen"]) in given and r["chosen"] != r["rejected"] for r in second)
    assert "score" not in rows(run)[0] and "eval_score" not in rows(run)[0]
    assert lines(run / "rounds" / "02" / "samples.jsonl")[0]["scores"] == []
    model = (run / "rounds" / "02" / "train" / "run.yaml").read_text()
    assert "rounds/01/train" in model, "the reference is the model of the round before"


def test_adapters_go_from_round_to_round(tmp_path):
    settings = {"adapter": "lora", "rank": 2, "K": 8, "accepted": 4, "pairs": "tournament"}
    run = quick("sample_rank", tmp_path / "run", feedback=LENGTH, settings=settings)
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert rows(run)[1]["kl"] != 0 and 0 < rows(run)[1]["acceptance_rate"] < 1
    assert len(sparring.sample(str(run), ["ba"], max_tokens=3)) == 1


def test_a_cut_sample_is_not_taught_to_end_where_it_was_cut(tmp_path):
    run = quick("best_of_n", tmp_path / "run", feedback=LENGTH, settings={"rounds": 1, "max_tokens": 2})
    from sparring.loops.load import load_data, load_model
    from tests.small import machine

    work = make_job(
        "sft", model=str(world() / "model"), data=str(run / "rounds/01/selected.jsonl"), run=tmp_path / "x",
        settings={"max_response": 2, "overflow": "cut", "held_out": 0.0},
    )  # fmt: skip
    trunk = load_model(work, machine())
    cut = [r for r in load_data(work, trunk, lambda text: None).train if len(r.responses[0]) == 2]
    assert any(r.responses[0][-1] != trunk.tokenizer.eos_token_id for r in cut)
    assert "max_response: 2" in (run / "rounds/01/train/run.yaml").read_text()


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("raft", {}, "--feedback length"),
        ("spin", {"feedback": LENGTH}, "learns from demonstrations and has no use for --feedback"),
        ("raft", {"feedback": ["discriminator"]}, "RUN/judge"),
        ("raft", {"feedback": LENGTH, "policy": "ppo"}, "raft has no policy 'ppo'"),
        ("raft", {"feedback": LENGTH, "settings": {"patience": 2}}, "raft has no setting 'patience'"),
        ("rest", {"feedback": LENGTH, "settings": {"thresholds": "0.9,0.1"}}, "rest: thresholds is '0.9,0.1'"),
        ("sample_rank", {"feedback": LENGTH, "settings": {"K": 4}}, "sample_rank: accepted is 8, but only K 4"),
        ("raft", {"feedback": LENGTH, "settings": {"keep_best": "eval_score", "held_out": 0.0}}, "held-out prompts"),
        ("spin", {"settings": {"keep_best": "eval_score"}}, "needs a judge"),
        ("spin", {"settings": {"join": "data"}}, "this method has no judge"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_sampled(method, more, words):
    with pytest.raises(SettingError, match=words):
        make_job(method, model="m", data="d.jsonl", run="r", **more)


def test_a_rule_whose_records_the_policy_cannot_read_is_refused(monkeypatch):
    from sparring import methods
    from sparring.core.selection import Selected, demonstration

    def imitate(self, scored):
        return Selected(records=tuple(demonstration(s, 0) for s in scored))

    monkeypatch.setattr(methods.find("sample_rank").rule, "select", imitate)
    with pytest.raises(SettingError, match="selects demonstrations, but rso learns from preferences"):
        make_job("sample_rank", model="m", data="d.jsonl", run="r", feedback=LENGTH)


@pytest.mark.parametrize(("method", "flags"), [("raft", ["--scope", "--share", "--rounds", "--feedback"]),
                                               ("spin", ["--mix", "--beta", "--policy"])])  # fmt: skip
def test_the_command_line_knows_them(capsys, method, flags):
    assert main(["train", method, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f in shown for f in flags) and "--patience" not in shown and "--judge-lr" not in shown
    assert ("--feedback" in shown) is (method == "raft")
    assert main(["methods", method]) == 0
    assert "Loop: rounds" in capsys.readouterr().out


def test_a_run_is_made_and_gone_on_with_from_the_command_line(tmp_path):
    flags = ["--model", str(world() / "model"), "--data", str(world() / "texts.jsonl"), "--run", str(tmp_path / "run")]
    flags += [
        "--feedback",
        "length",
        "--rounds",
        "1",
        "-k",
        "2",
        "--max-tokens",
        "3",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["train", "raft", *flags, "--precision", "fp32"]) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    assert main(["train", "--run", str(tmp_path / "run"), "--resume"]) == 0
    assert (tmp_path / "run" / "model").is_dir()


TURNS = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Yes?"),
    Message(role="user", content="Go"),
)


@pytest.mark.parametrize("prompt", ["plain", TURNS], ids=["text", "conversation"])
@pytest.mark.parametrize(
    "record",
    [
        lambda x: Demonstration(prompt=x, response=" a"),
        lambda x: Preference(prompt=x, chosen=" a", rejected=" b"),
        lambda x: Preference(prompt=x, chosen=" a", rejected=" b", margin=0.5, label=0.7),
        lambda x: Ranking(prompt=x, ranked=(" a", " b", " c"), scores=(3.0, 2.0, 1.0)),
        lambda x: Ranking(prompt=x, ranked=(" a", " b")),
        lambda x: Rating(prompt=x, response=" a", rating=1.0),
        lambda x: Prompt(prompt=x),
    ],
    ids=lambda f: type(f("x")).__name__,
)
def test_a_record_that_was_written_reads_back_as_itself(tmp_path, record, prompt):
    one = record(prompt)
    file = write(tmp_path / "rows.jsonl", [as_row(one)])
    (again,) = to_records(read_rows(str(file)), one.kind)
    assert {**vars(again), "where": ""} == vars(one)


def test_samples_that_were_written_read_back_as_themselves():
    sample = Scored(
        prompt=TURNS, responses=(" a", ""), scores=(0.1, 1 / 3), logps=(-1.5, -0.1), ref_logps=(-2.0, -1e-9),
        given=" g", joined=1, where="file:1",
    )  # fmt: skip
    for one in (sample, Scored(prompt="p", responses=(" a",), logps=(-1.0,), ref_logps=(-1.0,), where="f:2")):
        assert from_samples(json.loads(json.dumps(as_samples(one)))) == one

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sparring.cli.main import main
from sparring.core.errors import RunError
from sparring.models import checkpoint
from tests.small import ONLINE, quick, rows, same, weights, world, write

ROOT = Path(__file__).parent.parent
SFT = {"steps": 6, "eval_every": 3}


def test_runs_that_are_killed_at_random_moments_end_exactly_as_if_they_had_not_been():
    # 200 kills: python benchmarks/kills.py
    kills = [
        sys.executable,
        "benchmarks/kills.py",
        "--kills",
        "5",
        "--jobs",
        "1",
        "--runs",
        "sft",
        "dpo-stored",
        "rlgaf",
    ]
    done = subprocess.run(kills, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills, resumes = (int(done.stdout.split(word)[0].split()[-1]) for word in (" kills", " exact resumes"))
    assert kills == resumes >= 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished run, with a checkpoint after steps 2, 4 and 6 of which the newest two are there."""
    return quick("sft", tmp_path_factory.mktemp("undisturbed") / "run", settings=SFT)


def unfinished(run, place, *gone):
    """The same run without its model and without some of its checkpoints."""
    shutil.copytree(run, place)
    for part in ("model", "judge", *(f"checkpoints/step-{n:08d}" for n in gone)):
        shutil.rmtree(place / part, ignore_errors=True)
    return place


def again(run, **more):
    return quick("sft", run, resume=True, settings=SFT, **more)


def assert_same(run, other):
    assert same(weights(run), weights(other)) and rows(run) == rows(other)


def test_a_finished_run_is_left_as_it_is(undisturbed, capsys):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    again(undisturbed, quiet=False)
    assert "this run is finished; its model is in" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before


def test_a_run_that_was_never_started_is_started(undisturbed, tmp_path):
    assert_same(again(tmp_path / "new"), undisturbed)


@pytest.mark.parametrize("gone", [(), (6,), (6, 4)])
def test_a_run_goes_on_from_its_newest_checkpoint_or_from_the_beginning(undisturbed, tmp_path, gone):
    run = unfinished(undisturbed, tmp_path / "run", *gone)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')  # a kill cut this row short
    assert_same(again(run), undisturbed)
    assert (run / "README.md").read_text() == (run / "model" / "README.md").read_text()


def damage_cut(place):
    (place / "state.pt").write_bytes((place / "state.pt").read_bytes()[:-100])


def damage_flipped(place):
    content = bytearray((place / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "state.pt").write_bytes(content)


def damage_lost(place):
    (place / "state.pt").unlink()


def damage_unreadable(place):
    (place / "manifest.json").write_text("{")


@pytest.mark.parametrize("damage", [damage_cut, damage_flipped, damage_lost, damage_unreadable])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(undisturbed, tmp_path, capsys, damage):
    run = unfinished(undisturbed, tmp_path / "run")
    damage(run / "checkpoints" / "step-00000006")
    assert_same(again(run, quiet=False), undisturbed)
    said = " ".join(capsys.readouterr().err.split())
    assert "step-00000006: this checkpoint is damaged" in said and "goes on from step-00000004" in said


def test_without_a_whole_checkpoint_the_run_starts_from_its_beginning_and_says_so(undisturbed, tmp_path, capsys):
    run = unfinished(undisturbed, tmp_path / "run")
    for place in checkpoint.found(run / "checkpoints"):
        damage_lost(place)
    assert_same(again(run, quiet=False), undisturbed)
    assert "starts from its beginning" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_without_the_optimizer_is_refused(undisturbed, tmp_path):
    run = unfinished(undisturbed, tmp_path / "run", 6)
    state = checkpoint.load(run / "checkpoints" / "step-00000004")
    del state["updater"]["optimizer"]
    checkpoint.save(run / "checkpoints", 4, state)
    with pytest.raises(RunError, match="no optimizer state"):
        again(run)


def test_a_run_is_resumed_unchanged_or_not_at_all(undisturbed, tmp_path):
    run = unfinished(undisturbed, tmp_path / "run")
    with pytest.raises(RunError, match=r"started with lr 0.01, not 0.02; resume it unchanged"):
        quick("sft", run, resume=True, settings=SFT | {"lr": 0.02})
    with pytest.raises(RunError, match=r"started with method 'sft', not 'dpo'"):
        quick("dpo", run, resume=True, settings=SFT)
    with pytest.raises(RunError, match=r"started with where \[\], not \['prompt=ba'\]"):
        again(run, where=["prompt=ba"])
    with pytest.raises(RunError, match=r"started with eval_data None"):
        again(run, eval_data=str(world() / "texts.jsonl"))


def test_data_that_changed_is_named_and_data_that_moved_is_found(undisturbed, tmp_path):
    text = (world() / "texts.jsonl").read_text()
    moved = tmp_path / "moved.jsonl"
    moved.write_text(text)
    assert_same(again(unfinished(undisturbed, tmp_path / "a", 6), data=moved), undisturbed)
    moved.write_text(text.replace("ba", "be", 1))
    with pytest.raises(RunError, match=r"moved.jsonl: the data changed since .* was started"):
        again(unfinished(undisturbed, tmp_path / "b", 6), data=moved)


def test_a_model_that_changed_is_named(undisturbed, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world() / "model", other)
    shutil.copyfile(undisturbed / "model" / "model.safetensors", other / "model.safetensors")
    with pytest.raises(RunError, match=r"other: the model changed"):
        again(unfinished(undisturbed, tmp_path / "run"), model=other)


def test_a_disk_that_does_not_take_a_checkpoint_is_told_and_the_run_goes_on_later(undisturbed, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full(state, file):
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half of it")
            raise RuntimeError("unexpected pos 64 vs 0")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"step-.*unexpected pos.* if the disk is full, free some space"):
        quick("sft", tmp_path / "run", settings=SFT)
    monkeypatch.undo()
    assert_same(again(tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("judge", ["rule", "words", "reward model"])
def test_a_judge_that_changed_is_found(tmp_path, judge):
    place = tmp_path / "judge"
    if judge == "rule":
        place, name = tmp_path / "rule.py", f"{tmp_path / 'rule.py'}:length"
        place.write_text("def length(response):\n    return len(response)\n")
    elif judge == "words":
        source, name = quick("ppo", tmp_path / "source", feedback=["bag_of_words"]), str(tmp_path / "source")
        place = source / "bag_of_words" / "bag_of_words.json"
    else:
        name = str(quick("reward_model", place))
    run = quick("ppo", tmp_path / "run", feedback=[f"0.5*{name}"])
    assert len(yaml.safe_load((run / "run.yaml").read_text())["hashes"]) == 3
    if judge == "reward model":
        shutil.rmtree(place)
        quick("reward_model", place, settings={"seed": 5})
    else:
        place.write_text(place.read_text() + "\n")
    with pytest.raises(RunError, match=rf"{name}: the judge changed since"):
        quick("ppo", unfinished(run, tmp_path / "again"), feedback=[f"0.5*{name}"], resume=True)


def test_another_number_of_threads_is_worth_a_warning(undisturbed, tmp_path, capsys):
    run = unfinished(undisturbed, tmp_path / "run")
    content = yaml.safe_load((run / "run.yaml").read_text())
    content["machine"]["threads"] = torch.get_num_threads() + 3
    (run / "run.yaml").write_text(yaml.safe_dump(content))
    again(run, quiet=False)
    assert f"started with threads {torch.get_num_threads() + 3}" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_never_touched(tmp_path):
    write(tmp_path / "notes.jsonl", [{"a": 1}])
    for resume, words in ((False, "not empty"), (True, r"no run here to resume .*notes.jsonl")):
        with pytest.raises(RunError, match=words):
            quick("sft", tmp_path, resume=resume)
    with pytest.raises(RunError, match="a run is a folder"):
        quick("sft", tmp_path / "notes.jsonl", resume=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.yaml").write_text("method: [")
    with pytest.raises(RunError, match=r"run.yaml: not readable"):
        quick("sft", tmp_path / "broken", resume=True)


def test_the_record_makes_the_run_again(undisturbed, tmp_path):
    record = yaml.safe_load((undisturbed / "run.yaml").read_text())
    assert record["hashes"].keys() == {"model", "data"} and record["versions"]["torch"] == str(torch.__version__)
    from sparring.loops.train import train

    made = train(
        record["method"], model=record["model"], data=record["data"], run=tmp_path / "run",
        settings=record["settings"], quiet=True,
    )  # fmt: skip
    assert_same(made, undisturbed)


def test_a_run_out_of_patience_stays_stopped(tmp_path):
    settings = {"lr": 0.1, "schedule": "constant", "steps": 30, "eval_every": 1, "save_every": 100, "patience": 2}
    run = quick("sft", tmp_path / "run", settings=settings)
    resumed = quick("sft", unfinished(run, tmp_path / "again"), resume=True, settings=settings)
    assert len(rows(run)) < 30
    assert_same(resumed, run)


RLGAF = {"rounds": 4, "judge_warmup": 5, "sft_epochs": 0.5}


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory):
    """A finished run of the whole recipe, its warm-ups included."""
    return quick("rlgaf", tmp_path_factory.mktemp("adversarial") / "run", settings=RLGAF)


def test_the_record_of_a_recipe_names_the_model_before_its_warm_up(adversarial):
    assert yaml.safe_load((adversarial / "run.yaml").read_text())["model"] == str(world() / "model")
    assert yaml.safe_load((adversarial / "sft" / "run.yaml").read_text())["method"] == "sft"


@pytest.mark.parametrize(
    "lost",
    [
        ("checkpoints/step-00000005",),
        ("run.yaml", "README.md", "checkpoints", "metrics.jsonl", "samples.jsonl", "before_after.jsonl", "sft/model"),
    ],
)
def test_a_recipe_goes_on_in_its_last_rounds_and_in_its_warm_up(adversarial, tmp_path, lost):
    run = unfinished(adversarial, tmp_path / "run")
    for name in lost:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    quick("rlgaf", run, resume=True, settings=RLGAF)
    assert_same(run, adversarial)
    assert same(weights(run, "judge"), weights(adversarial, "judge"))


def test_a_learning_judge_within_a_sum_is_resumed_exactly(tmp_path):
    ask = {"feedback": ["discriminator+0.1*length"], "settings": {"judge_steps": 2, "kl_target": 1.0}}
    run = quick("ppo", tmp_path / "run", **ask)
    resumed = quick("ppo", unfinished(run, tmp_path / "again", 5), resume=True, **ask)
    assert_same(resumed, run)
    assert same(weights(resumed, "judge"), weights(run, "judge"))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_copy_that_lags_behind_is_resumed_between_two_copies(tmp_path, adapter):
    # The copy is made in rounds 1 and 4, the run resumed after round 2.
    ask = {"feedback": ["length"], "settings": {"nucleus": 0.6, "nucleus_least": 1, "nucleus_every": 3, "lr": 3e-2}}
    ask["settings"] |= {"adapter": adapter, "rank": 2}
    run = quick("nlpo", tmp_path / "run", **ask)
    resumed = quick("nlpo", unfinished(run, tmp_path / "again", 4), resume=True, **ask)
    assert rows(resumed) == rows(run)
    assert adapter == "lora" or same(weights(resumed), weights(run))


def test_pre_training_text_goes_on_where_it_was(tmp_path):
    texts = [{"text": f"ba {a}{b} bo"} for a in "bdgk" for b in "aeiou"]
    ask = {"feedback": ["length"], "pretrain": str(write(tmp_path / "texts.jsonl", texts))}
    ask["settings"] = {"pretrain_batch": 3, "epochs": 2, "minibatches": 2}
    run = quick("ppo_ptx", tmp_path / "run", **ask)
    assert_same(quick("ppo_ptx", unfinished(run, tmp_path / "again", 4), resume=True, **ask), run)
    write(tmp_path / "texts.jsonl", texts[1:])
    with pytest.raises(RunError, match=r"texts.jsonl: the pretrain changed"):
        quick("ppo_ptx", unfinished(run, tmp_path / "other", 4), resume=True, **ask)


RULE = """
import os, signal
calls = []
def length(response):
    calls.append(1)
    if os.environ.get("TERMINATE_AT") == str(len(calls)):
        os.kill(os.getpid(), signal.SIGTERM)
    return len(response.split())
"""


def test_a_run_that_is_asked_to_end_saves_says_how_to_go_on_and_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "rule.py").write_text(RULE)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in ONLINE.items() if name != "save_every"]
    flags += [f"--model={world() / 'model'}", f"--data={world() / 'texts.jsonl'}", "--held-out=0", "--save-every=100"]
    flags += [f"--feedback={tmp_path / 'rule.py'}:length"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(["train", "ppo", *flags, f"--run={whole}"]) == 0
    monkeypatch.setenv("TERMINATE_AT", "10")  # 8 responses a round: in the second
    assert main(["train", "ppo", *flags, f"--run={run}"]) == 143
    said = " ".join(capsys.readouterr().err.split())
    assert "saved after round 2 and ended, as asked" in said and "--resume" in said and "Traceback" not in said
    assert len(rows(run)) == 2 and not (run / "model").exists()
    monkeypatch.delenv("TERMINATE_AT")
    assert main(["train", "ppo", *flags, f"--run={run}", "--resume"]) == 0
    assert_same(run, whole)
    samples = [[json.loads(s) for s in (f / "samples.jsonl").read_text().splitlines()] for f in (run, whole)]
    assert samples[0] == samples[1]

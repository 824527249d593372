import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sparring import methods
from sparring.cli import main, train
from sparring.cli.flags import choose
from sparring.cli.methods import describe
from sparring.cli.pages import page, write_pages
from sparring.core.errors import DataError, Diverged, UserError

ROOT = Path(__file__).parent.parent
FILES = ["--model", "m", "--data", "d.jsonl", "--run", "r"]


def words(*more: str, method: str = "dpo") -> list[str]:
    return ["train", method, *FILES, *more]


def arguments(argv: list[str]) -> dict:
    return train.arguments(main.parse(argv)[1])


def error(capsys, *argv: str) -> str:
    """Run a wrong command and return its one line."""
    code = main.main(argv)
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    return err


# Help


def child(*command: str) -> tuple[float, str]:
    """CPU seconds and output of a child process: the best of three, since the machine has other things to do."""
    best, out = float("inf"), ""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best, out


def test_help_is_instant_and_names_every_command():
    seconds, out = child(sys.executable, "-m", "sparring", "--help")
    assert seconds < 0.4
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in main.COMMANDS)


def test_importing_sparring_and_listing_methods_loads_no_torch():
    code = "import sys, sparring; sparring.methods.names(); print({'torch', 'numpy', 'rich'} & {*sys.modules})"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "set()"
    )


def test_train_without_a_method_lists_them_all(capsys):
    assert main.main(["train"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_help_of_a_method_is_short_and_has_the_required_flags_first_and_every_knob(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main.main(["train", name, "--help"]) == 0
    out = capsys.readouterr().out
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, re.MULTILINE)
    assert flags[:4] == ["--help", "--model", "--data", "--run"]
    assert len(out.splitlines()) < 130
    assert f"sparring train {name} --model MODEL --data FILE --run FOLDER" in out


def test_each_method_has_the_flags_that_it_can_use_and_no_others(capsys):
    def flags(name: str) -> set[str]:
        main.main(["train", name, "--help"])
        return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))

    dpo, ppo, rlgaf = flags("dpo"), flags("ppo"), flags("rlgaf")
    assert {"--beta", "--patience"} <= dpo and not {"--rounds", "--feedback", "--gate", "--policy"} & dpo
    assert {"--clip", "--rounds", "--feedback"} <= ppo and not {
        "--patience",
        "--gate",
        "--policy",
        "--sft-epochs",
    } & ppo
    assert {"--clip", "--rounds", "--gate", "--policy", "--negatives", "--sft-epochs"} <= rlgaf


def test_the_policy_of_a_recipe_brings_its_own_knobs(capsys):
    main.main(["train", "rlgaf", "--policy", "reinforce", "--help"])
    out = capsys.readouterr().out
    assert "knobs of reinforce:" in out and "--value-clip" not in out


def test_a_recipe_without_a_judge_asks_for_one_and_needs_no_policy_or_fine_tuning(capsys):
    assert main.main(["train", "ppo_ptx", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--feedback JUDGE [flags]" in out and "--pretrain FILE" in out and "default 1)" in out
    assert "--policy" not in out and "--sft-epochs" not in out
    argv = words("--feedback", "length", "--pretrain", "t.jsonl", method="ppo_ptx")
    assert arguments(argv)["pretrain"] == "t.jsonl"


def test_flags_that_few_need_come_when_they_are_named(capsys):
    main.main(["train", "rloo", "--help"])
    assert not {"--nucleus-every", "--pretrain-batch"} & set(capsys.readouterr().out.split())
    main.main(["train", "rloo", "--nucleus", "0.9", "--pretrain", "t.jsonl", "--help"])
    assert {"--nucleus-every", "--pretrain-batch"} <= set(capsys.readouterr().out.split())
    main.main(["train", "nlpo", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "share of its probability that the tokens hold; 1 allows all (default 0.9" in said


def test_a_discriminator_as_feedback_brings_its_settings(capsys):
    main.main(["train", "rloo", "--feedback", "discriminator", "--help"])
    assert "--judge-lr" in capsys.readouterr().out


# What is passed on


def test_only_what_the_user_gave_is_passed_on():
    call = arguments(words("--max-prompt", "1e2", "--beta=0.3", "--where", "a=1", "--where", "b=2"))
    assert call["settings"] == {"max_prompt": 100, "beta": 0.3}
    assert call["where"] == ["a=1", "b=2"] and call["resume"] is False
    assert (call["model"], call["data"], call["run"], call["eval_data"]) == ("m", "d.jsonl", "r", None)


def test_a_recipe_passes_on_its_policy_and_what_is_unwanted():
    argv = words("--policy", "rloo", "--negatives", "n.jsonl", "--negatives-where", "label=neg", method="rlgaf")
    call = arguments([*argv, "--sft-epochs", "2", "-k", "8", "--fields", "prompt=q, response=a"])
    assert call["settings"] == {"sft_epochs": 2.0, "K": 8}
    assert (call["policy"], call["negatives"], call["negatives_where"]) == ("rloo", "n.jsonl", ["label=neg"])
    assert call["fields"] == {"prompt": "q", "response": "a"}


def config(tmp_path, **content) -> str:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "run.yaml")


def test_a_run_file_makes_the_run_again_and_flags_go_over_it(tmp_path):
    made = {"method": "dpo", "model": "m", "data": "d", "run": "old", "settings": {"beta": 0.2, "lr": 1e-4}}
    path = config(tmp_path, **made, command="sparring ...", versions={"torch": "2"}, where=["a=1"])
    call = arguments(["train", "--config", path, "--run", "new", "--lr", "1e-3"])
    assert (call["model"], call["run"], call["where"]) == ("m", "new", ["a=1"])
    assert call["settings"] == {"beta": 0.2, "lr": 1e-3}


def test_resume_needs_nothing_but_the_run_folder(tmp_path):
    config(tmp_path, method="sft", model="m", data="d", run=str(tmp_path), settings={"lr": 1e-4})
    call = arguments(["train", "--run", str(tmp_path), "--resume"])
    assert call["resume"] is True and call["settings"] == {"lr": 1e-4} and call["data"] == "d"


# Every mistake is one line and exit code 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["data", "shwo", "f"], "sparring data is followed by show"),
        (["data", "show", "f", "--row", "1"], "unknown flag --row; did you mean --rows"),
        (["--verison"], "no command '--verison'"),
        (["train", "dop"], "no method is called 'dop'; did you mean dpo"),
        (["train", "--model", "m", "dpo"], "needs a METHOD, and it comes first"),
        (["train", "dpo"], "sparring train dpo needs --model, --data, --run"),
        (["train", "ppo", *FILES], "sparring train ppo needs --feedback"),
        (["train", "dpo", "--modle", "m"], "unknown flag --modle; did you mean --model?"),
        (words("--betta", "1"), "unknown flag --betta; did you mean --beta?"),
        (words("--betta=1"), "unknown flag --betta; did you mean --beta?"),
        (words("--max_prompt", "1"), "unknown flag --max_prompt; did you mean --max-prompt?"),
        (words("--learning-rate", "1"), "unknown flag --learning-rate; did you mean --lr?"),
        (words("--rounds", "1"), "unknown flag --rounds"),
        (words("--bet", "1"), "unknown flag --bet; did you mean --beta?"),
        (words("--lr"), "--lr needs a value"),
        (words("--lr", "fast"), "--lr: 'fast' is not a number"),
        (words("--batch", "1.5"), "--batch: '1.5' is not a whole number"),
        (words("--batch", "many"), "--batch: 'many' is not a whole number"),
        (words("--lr", "-1"), "lr must lie between 0 and 10, got -1"),
        (words("--lr", "nan"), "lr is nan; give a finite number"),
        (words("--rank", "0"), "rank must lie between 1 and"),
        (words("--beta", "0"), "dpo: beta must be above 0"),
        (words("--schedule", "cosin"), "--schedule: 'cosin' is not a choice; did you mean cosine?"),
        (words("extra"), "'extra' was not expected after sparring train dpo"),
        (words("--fields", "prompt"), "--fields: 'prompt' is not OURS=THEIRS"),
        (words("--policy", "ppo3", method="rlgaf"), "--policy: 'ppo3' is not a choice; did you mean ppo, grpo?"),
        (words("--policy", "ppo"), "unknown flag --policy"),
        (words("--config", "none.yaml"), "none.yaml does not exist"),
        (["train", "--run", "nowhere", "--resume"], "nowhere/run.yaml does not exist"),
        (["sample", "m"], "sparring sample needs --prompt"),
        (["sample", "--prompt", "x"], "sparring sample needs MODEL"),
        (["sample", "m", "--promt", "x"], "unknown flag --promt; did you mean --prompt"),
        (["sample", "m", "--prompts", "none.txt"], "none.txt: no such file"),
        (["sample", "m", "--prompt", "x", "-k", "0"], "--K must be at least 1, got 0"),
        (["evaluate", "m"], "sparring evaluate needs --data"),
        (["evaluate", "m", "--data", "d", "--prompts", "0"], "--prompts must be at least 1"),
        (["doctor", "--all"], "unknown flag --all"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in error(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("method: [", "not readable as YAML"),
        ("- 1", "holds list, not settings"),
        ("methods: dpo", "unknown setting 'methods'; did you mean method"),
        ("method: dpo\nsettings: 3", "settings is 3; give names with values"),
        ("method: dpo\nwhere: a=1", "where is 'a=1'; give a list"),
        (
            "method: dpo\nmodel: m\ndata: d\nrun: r\nsettings: {betta: 1}",
            "dpo has no setting 'betta'; did you mean beta?",
        ),
        ("method: dpo\nmodel: m\nrun: r", "sparring train dpo needs --data"),
    ],
)
def test_a_run_file_that_cannot_be_used_is_refused(content, said, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(content)
    assert said in error(capsys, "train", "--config", str(tmp_path / "c.yaml"))


def test_a_value_of_the_wrong_type_in_a_run_file_is_refused(tmp_path):
    # In a child process: here the type checker of the tests would object before the library does.
    path = config(tmp_path, method="dpo", model="m", data="d", run="r", settings={"beta": "high"})
    command = [sys.executable, "-m", "sparring", "train", "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, "error: dpo: beta is 'high'; give a number such as 0.1\n")


def test_a_run_file_of_another_method_is_refused(capsys, tmp_path):
    path = config(tmp_path, method="sft")
    assert "is of method sft, not dpo" in error(capsys, "train", "dpo", "--config", path)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (DataError("a.jsonl, line 3: no"), 2, "error: a.jsonl, line 3: no\n"),
        (Diverged("loss is NaN in round 3"), 3, "error: loss is NaN in round 3\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "error: runs/x: permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_end_has_its_exit_code_and_no_traceback(raised, code, said, capfd, monkeypatch):
    def fail(argv):
        raise raised

    monkeypatch.setattr(main, "run", fail)
    assert main.main(["doctor"]) == code
    assert capfd.readouterr().err == said


def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "sparring", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch):
    monkeypatch.setenv("SPARRING_DEBUG", "1")
    with pytest.raises(UserError):
        main.main(["trian"])


def test_libraries_are_told_to_be_quiet_unless_the_user_said_otherwise():
    code = "import os; from sparring.cli import main; main.main(['--version']); print(dict(os.environ))"
    env = {k: v for k, v in os.environ.items() if k not in main.QUIET} | {"TRANSFORMERS_VERBOSITY": "debug"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT).stdout
    told = eval(out.splitlines()[-1])
    assert told["HF_HUB_DISABLE_TELEMETRY"] == "1" and told["TRANSFORMERS_VERBOSITY"] == "debug"


# Doctor and README


def test_the_doctor_says_what_is_there_and_gives_a_verdict(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    assert main.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("Python", "torch", "threads", "bf16", "memory", "disk", "vaderSentiment"))
    assert re.search(r"^Ready: training runs on \w+, .*million parameters", out, re.MULTILINE)


def readme_commands() -> list[str]:
    return re.findall(r"^sparring .+$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", readme_commands())
def test_a_command_of_the_readme_parses(line, tmp_path, monkeypatch):
    import shlex

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/dpo").mkdir(parents=True)  # for the command that resumes
    (tmp_path / "runs/dpo/run.yaml").write_text("{method: dpo, model: m, data: d, run: runs/dpo}")
    module, args = main.parse(shlex.split(line)[1:])
    if module is train:
        train.arguments(args)


def test_the_readme_names_every_method_as_the_method_does():
    text = (ROOT / "README.md").read_text()
    for name in methods.names():
        first = methods.docstring(name).splitlines()[0]
        assert f"| `{name}` | {describe(name)['data']}s | {first} |" in text


def test_the_pages_of_the_methods_are_as_the_methods_are_now(tmp_path):
    pages = write_pages(tmp_path)
    for made in pages:
        kept = ROOT / "docs/methods" / made.name
        assert kept.exists() and kept.read_text() == made.read_text(), "run: make docs"
    assert len(list((ROOT / "docs/methods").iterdir())) == len(pages)


def test_a_page_of_a_method_holds_its_equation_its_knobs_its_signals_and_its_figures():
    text = page("dpo")
    assert "    L = - q log sigmoid(z)" in text and "arXiv:2305.18290" in text
    assert "| `--beta` | 0.1 | above 0 |" in text and "| `ref_token_logps` | B K T | nats |" in text
    assert "| `reward_accuracy` |" in text and "judge_accuracy" not in text
    assert "| `judge_accuracy_held_out` |" in page("rlgaf") and "--feedback" not in page("spin")
    assert "--feedback length" in page("raft") and "`--share`" in page("raft")


def test_the_readme_has_a_line_for_every_folder():
    text = (ROOT / "README.md").read_text()
    folders = [p.parent.name for p in (ROOT / "sparring").glob("*/__init__.py")]
    assert all(f"| `sparring/{name}/` |" in text for name in folders)


@pytest.mark.parametrize("name", methods.names())
def test_no_setting_has_two_meanings_in_one_command(name):
    choice = choose([name, "--feedback", "discriminator"])
    names = [knob.name for group in choice.groups() for knob in group.knobs()]
    assert len(names) == len(set(names))

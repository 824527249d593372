"""docs/pipelines.md: every command can be given, and every folder that one starts from was written by one before it."""

import re
import shlex
from pathlib import Path

import pytest

from sparring.cli import main, train
from sparring.loops.job import make_job

PAGE = (Path(__file__).parent.parent / "docs/pipelines.md").read_text()
PIPELINES = {
    block.splitlines()[0]: re.findall(r"^sparring .+$", block, re.MULTILINE) for block in PAGE.split("\n## ")[1:]
}


def call_of(line):
    """What a command asks for: the method, and what `sparring.train` is called with."""
    module, args = main.parse(shlex.split(line)[1:])
    assert module is train
    call = train.arguments(args)
    del call["resume"]
    return args.choice.name, {**call, "policy": args.choice.policy}


@pytest.mark.parametrize("line", [line for lines in PIPELINES.values() for line in lines])
def test_a_command_of_a_pipeline_is_a_run_that_can_be_made(line):
    name, call = call_of(line)
    assert make_job(name, **call).method == name


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_starts_from_what_it_has_made(pipeline):
    assert PIPELINES[pipeline], "a pipeline without a command"
    written = []
    for line in PIPELINES[pipeline]:
        _, call = call_of(line)
        used = re.findall(r"runs/[\w/]+", " ".join([call["model"], *call["feedback"]]))
        assert {folder.removesuffix("/model") for folder in used} <= set(written), line
        assert call["run"] not in written
        written.append(call["run"])

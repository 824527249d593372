import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sparring

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted((ROOT / "sparring").rglob("*.py"))


def test_the_version_is_written_once():
    found = [p for p in SOURCES if sparring.__version__ in p.read_text()]
    assert [p.name for p in found] == ["version.py"]
    assert "version" not in PROJECT["project"]


def test_an_unknown_name_of_the_package_is_an_attribute_error_that_lists_the_right_ones():
    with pytest.raises(AttributeError, match=r"'trian'; it has .*train"):
        sparring.trian  # noqa: B018  # the access is the test


def test_the_pure_pieces_are_reached_from_the_package():
    assert sparring.methods.get("dpo")(beta=0.5).beta == 0.5


def test_every_direct_dependency_is_pinned():
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = PROJECT["project"]["dependencies"] + [
        d
        for name in ("data", "qlora", "vader", "plot", "dev")
        for d in PROJECT["project"]["optional-dependencies"][name]
    ]
    names = {re.match(r"[\w-]+", d)[0].lower() for d in wanted} - {"sparring"}
    assert names <= pinned, names - pinned


def test_beartype_is_needed_by_developers_only():
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name for name, needs in extras.items() if any("beartype" in n for n in needs)] == ["dev"]


def test_what_continuous_integration_runs_is_executable_and_is_make_test():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()


def test_the_licence_is_complete():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000


def test_files_are_ascii_and_short_and_functions_fit_on_a_screen():
    for path in SOURCES:
        text = path.read_text()
        assert text.isascii(), path
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                doc = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                assert node.end_lineno - node.lineno + 1 - doc <= 50, f"{path}: {node.name}"


def test_no_function_takes_whatever_comes():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.arguments) and node.kwarg), f"{path} has **{node.kwarg.arg}"


def test_types_are_checked_while_the_tests_run():
    # The hook of conftest.py is what makes a wrong shape fail here.
    import torch

    from sparring.core.masked import masked_sum

    with pytest.raises(Exception, match=r"(?i)type-check"):
        masked_sum(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))


def test_no_subpackage_hides_a_function_of_the_root() -> None:
    """Importing a subpackage sets it as an attribute of the root, over a function of the same name."""
    code = "import sparring.evaluation.suite, sparring.loops.train, sparring.rollout.answer; import sparring as s; "
    code += "assert all(callable(f) for f in (s.train, s.sample, s.evaluate))"
    subprocess.run([sys.executable, "-c", code], check=True)

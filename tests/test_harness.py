"""The lm-evaluation-harness on a model as it is loaded, by a task of our own that needs no network."""

import json
import math

import pytest

from sparring.core.errors import SettingError
from sparring.evaluation.harness import MISSING
from sparring.evaluation.suite import evaluate
from sparring.models.backbone import save_trunk, tiny_model

try:
    import lm_eval  # noqa: F401 - whether it is there decides what is tested

    is_installed = True
except ImportError:
    is_installed = False

WORDS = ["good", "bad", "film", "was", "the"]


@pytest.fixture
def place(tmp_path):
    """A model, its start, prompts, and a task: which of two words goes on from a text."""
    for seed, name in enumerate(("model", "start")):
        made = tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=seed)
        made.lm.get_input_embeddings().weight.data.mul_(8)
        save_trunk(made, tmp_path / name)
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
    rows = [{"text": t, "choices": ["good", "bad"], "label": i % 2} for i, t in enumerate(texts)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.yaml").write_text(f"""\
task: sparring_words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "task.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
""")
    return tmp_path


def run(place, **more) -> dict:
    return evaluate(str(place / "model"), data=str(place / "d.jsonl"), base=str(place / "start"), max_tokens=3, **more)


@pytest.mark.skipif(is_installed, reason="it is installed")
def test_without_the_extra_the_error_says_what_to_install(place):
    with pytest.raises(SettingError, match="harness"):
        run(place, harness=["hellaswag"])
    assert "pip install" in MISSING


@pytest.mark.skipif(not is_installed, reason="needs the extra harness")
@pytest.mark.filterwarnings("default")
def test_a_task_of_one_s_own_is_done_by_the_model_and_its_start(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    got = run(place, harness=[str(place / "words.yaml")])
    found, (row,) = got["harness sparring_words acc"], got["tables"]["harness"]
    right = len(got["values"]["harness sparring_words acc"]) * found["mean"]
    assert found["n"] == 25 and math.isclose(right, round(right), abs_tol=1e-9) and found["low"] < found["high"]
    assert row["model"] == found["mean"] and row["change"] == pytest.approx(row["model"] - row["start"])
    assert row["change_low"] <= row["change"] <= row["change_high"] and row["documents"] == 25
    few = run(place, harness=[str(place / "words.yaml")], prompts=5)
    assert few["harness sparring_words acc"]["n"] == 5
    with pytest.raises(SettingError, match="no task 'wrods'"):
        run(place, harness=["wrods"])
    with pytest.raises(SettingError, match="no such file"):
        run(place, harness=["none.yaml"])

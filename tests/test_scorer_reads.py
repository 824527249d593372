"""A reward model may read the mean of a response's states; it is saved and loaded as such."""

import json

from sparring.evaluation.suite import evaluate
from sparring.models.scorers import load_scorer
from tests.small import WORDS, quick, write

# The better response says "ba" somewhere in its middle, so that its last token tells nothing.
PAIRS = [
    {"prompt": WORDS[i % 7], "chosen": f" {WORDS[3 + i % 9]} ba {WORDS[5 + i % 4]}",
     "rejected": f" {WORDS[3 + i % 9]} be {WORDS[5 + i % 4]}"}
    for i in range(40)
]  # fmt: skip


def test_a_reward_model_that_reads_the_mean_learns_and_comes_back_as_it_was(tmp_path):
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    settings = {"reads": "mean", "steps": 8, "lr": 1e-3, "batch": 8}
    run = quick("reward_model", tmp_path / "rm", data=str(data), settings=settings)
    assert load_scorer(str(run)).reads == "mean"
    assert "reads: mean" in (run / "run.yaml").read_text()
    assert evaluate(str(run), data=str(data))["reward_accuracy"]["mean"] > 0.9
    assert json.loads((run / "model" / "config.json").read_text())["sparring_reads"] == "mean"

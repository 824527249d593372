"""A reward model may read the mean of a response's states; it is saved and loaded as such."""

import json

import pytest
import torch

from sparring.data.batch import Row, collate
from sparring.evaluation.suite import evaluate
from sparring.feedback.reward_model import score_texts
from sparring.models.backbone import tiny_model
from sparring.models.roles import new_scorer
from sparring.models.scorers import load_scorer
from sparring.models.signals import score
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


@pytest.mark.parametrize("reads", ["last", "mean"])
def test_texts_that_share_a_prompt_or_are_equal_score_as_each_does_alone(reads):
    judge = new_scorer(tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=0), "judge", 0, reads=reads)
    torch.nn.init.normal_(judge.head.weight, generator=torch.Generator().manual_seed(0))
    texts = [((3, 4), (5, 6, 7)), ((8,), (5, 6, 7)), ((3, 4), (9,)), ((3, 4), (5, 6, 7))]
    rows = [Row(prompt=prompt, responses=(response,)) for prompt, response in texts]
    alone = torch.cat([score(judge, collate([row]))[0] for row in rows])
    together = score_texts(judge, rows)
    assert torch.allclose(together, alone, atol=1e-6) and together.std() > 1e-3
    # The text that stands there twice counts twice on the way back, too.
    both = torch.autograd.grad(together.sum(), judge.head.weight)[0]
    assert torch.allclose(both, torch.autograd.grad(alone.sum(), judge.head.weight)[0], atol=1e-5)

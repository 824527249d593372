import math

import pytest
import torch

from sparring.core.errors import FeedbackError, SettingError
from sparring.data.batch import Row, collate
from sparring.data.responses import read_out
from sparring.feedback.similarity import Similarity
from sparring.models.backbone import tiny_model
from sparring.models.roles import frozen_start
from sparring.models.signals import mean_states
from tests.small import WORDS, quick, rows

EOS = 1
SHOWN = [Row(prompt=(3 + i,), responses=((10 + i, 12, EOS),), where=str(i)) for i in range(4)]


@pytest.fixture(scope="module")
def trunk():
    return tiny_model(WORDS, width=16, layers=1, heads=2, context=16, seed=0)


def states(trunk, ids, prompt):
    """The mean state of a response, by the library's own forward pass of the whole text."""
    hidden = trunk.lm(input_ids=torch.tensor([[*prompt, *ids]]), output_hidden_states=True).hidden_states[-1][0]
    return hidden[len(prompt) :].mean(0).detach()


def test_mean_states_are_those_of_the_whole_text(trunk):
    batch = collate([Row(prompt=(3, 4), responses=((10, 11, EOS), (12, EOS)))])
    found = mean_states(frozen_start(trunk), batch)[0]
    want = [states(trunk, y, (3, 4)) for y in ((10, 11, EOS), (12, EOS))]
    torch.testing.assert_close(found, torch.stack(want), atol=1e-5, rtol=1e-4)


def test_the_score_is_the_cosine_of_centred_states(trunk):
    judge = Similarity(frozen_start(trunk), SHOWN)
    y = (11, 20, EOS)
    found = judge.score(read_out(collate([Row(prompt=(3,), responses=(y, SHOWN[0].responses[0]))]), trunk.tokenizer))
    known = [states(trunk, row.responses[0], row.prompt) for row in SHOWN]
    centre = [sum(float(k[d]) for k in known) / 4 for d in range(16)]
    a = [float(v) - c for v, c in zip(states(trunk, y, (3,)), centre, strict=True)]
    b = [float(v) - c for v, c in zip(known[0], centre, strict=True)]
    dot = sum(x * z for x, z in zip(a, b, strict=True))
    want = dot / math.sqrt(sum(x * x for x in a) * sum(z * z for z in b))
    assert found[0].tolist() == pytest.approx([want, 1.0], abs=1e-4)


def test_of_several_demonstrations_the_nearest_counts(trunk):
    both = [*SHOWN, Row(prompt=(3,), responses=((25, 26, EOS),), where="more")]
    judge = Similarity(frozen_start(trunk), both)
    asked = read_out(collate([Row(prompt=(3,), responses=((25, 26, EOS), SHOWN[0].responses[0]))]), trunk.tokenizer)
    assert judge.score(asked)[0].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_prompt_without_demonstration_is_named(trunk):
    judge = Similarity(frozen_start(trunk), SHOWN)
    with pytest.raises(FeedbackError, match="no demonstration for the prompt"):
        judge.score(read_out(collate([Row(prompt=(9, 9), responses=((10, EOS),))]), trunk.tokenizer))


def test_a_run_learns_from_it_and_a_selection_refuses_it(tmp_path):
    run = quick("rlsr", tmp_path / "run", feedback=["similarity"], settings={"rounds": 2})
    assert all(-1 <= row["score"] <= 1 for row in rows(run))
    with pytest.raises(SettingError, match="compares with demonstrations"):
        quick("raft", tmp_path / "raft", feedback=["similarity"])

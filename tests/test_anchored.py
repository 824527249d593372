"""A judge that remembers what it knew when its warm-up ended."""

import shutil

import pytest
import torch

from sparring.core.errors import SettingError
from sparring.feedback.anchored import AnchoredDiscriminator
from sparring.feedback.combine import learners
from sparring.loops.job import make_job
from sparring.loops.plan import plan
from sparring.models.roles import new_anchor
from sparring.models.twin import Twin
from tests.small import JUDGE, ONLINE, quick, rows, same, weights, world
from tests.test_discriminator import BAD, GOOD, judge, responses

SHARE = 0.25


def anchored(**changed):
    plain = judge(**changed)
    return AnchoredDiscriminator(plain, Twin(original=plain.network, copy=new_anchor(plain.network, 0)), SHARE)


def test_until_the_warm_up_ends_it_is_the_plain_judge_and_then_a_mean_of_now_and_then():
    found, plain = anchored(), judge()
    for _ in range(2):
        for one in (found, plain):
            one.learn(responses(BAD), updates=3)
        assert torch.equal(found.logits(responses(GOOD)), plain.logits(responses(GOOD)))
    then = plain.logits(responses(GOOD))
    for one in (found, plain):
        one.learn(responses(BAD, seed=1))
    now = plain.logits(responses(GOOD))
    assert (now - then).abs().max() > 1e-3, "the judge itself goes on learning, as it would without an anchor"
    torch.testing.assert_close(found.logits(responses(GOOD)), (1 - SHARE) * now + SHARE * then)
    torch.testing.assert_close(found.score(responses(GOOD)), found.logits(responses(GOOD)))
    assert learners(found) == (found,)


def test_what_it_remembers_is_part_of_its_state():
    one, other = anchored(), anchored()
    one.learn(responses(BAD), updates=3)
    one.learn(responses(BAD, seed=1))
    other.load(one.state())
    assert torch.equal(one.logits(responses(GOOD)), other.logits(responses(GOOD)))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_goes_on_exactly_from_within_the_warm_up_and_after_it(tmp_path, adapter):
    settings = {**JUDGE, "judge_anchor": 0.5, "judge_warmup": 10, "save_every": 1, "adapter": adapter, "rank": 2}
    run = quick("rlgaf", tmp_path / "run", settings=settings)
    plain = quick("rlgaf", tmp_path / "plain", settings=settings | {"judge_anchor": 0.0})
    scores = [[row["score"] for row in rows(r)] for r in (run, plain)]
    assert scores[0][:3] == pytest.approx(scores[1][:3]) and scores[0][3] != pytest.approx(scores[1][3])
    for left in (1, 3):
        cut = shutil.copytree(run, tmp_path / f"cut-{left}")
        for later in (cut / "checkpoints").iterdir():
            if int(later.name.split("-")[1]) > left:
                shutil.rmtree(later)
        for part in ("model", "judge"):
            shutil.rmtree(cut / part)
        quick("rlgaf", cut, settings=settings, resume=True)
        assert rows(cut) == rows(run)
        assert adapter == "lora" or same(weights(cut), weights(run))


def test_an_anchor_is_planned_for(tmp_path):
    def planned(**settings):
        job = make_job("rlgaf", model=str(world() / "model"), data=str(world() / "texts.jsonl"), run=tmp_path,
                       settings=ONLINE | settings)  # fmt: skip
        return plan(job, from_config=True)

    without, with_one = planned(), planned(judge_anchor=0.5)
    assert with_one.standing["anchor of the judge"] > 0 and "anchor of the judge" not in without.standing
    assert with_one.work.read > without.work.read
    lora = {"adapter": "lora", "rank": 2}
    gap = planned(judge_anchor=0.5, **lora).peak - planned(**lora).peak
    assert 0 < gap < with_one.standing["anchor of the judge"], "one more adapter, not one more model"


def test_an_anchor_is_refused_where_there_is_nothing_to_remember(tmp_path):
    for settings in ({"judge_sees": "prefix"}, {"judge_warmup": 0}):
        with pytest.raises(SettingError, match="judge_anchor keeps"):
            make_job("rlgaf", model="m", data="d", run=tmp_path, settings={"judge_anchor": 0.5} | settings)
    with pytest.raises(SettingError, match="leave judge_anchor at 0"):
        make_job("rlgaf_gumbel", model="m", data="d", run=tmp_path, settings={"judge_anchor": 0.5})

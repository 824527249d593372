"""What a plan counts is what a run does: by the passes that a real run makes, and by hand."""

from sparring.loops.job import Job, make_job
from sparring.loops.plan import plan
from tests.small import JUDGE, ONLINE, world

SHORT = {"batch": 4, "K": 2, "max_tokens": 6, "rounds": 2, "device": "cpu", "precision": "fp32", "held_out": 0.0}


def job_of(method: str, settings: dict, **more) -> Job:
    return make_job(method, model=str(world() / "model"), data=str(world() / "texts.jsonl"), run="none",
                    settings=settings, **more)  # fmt: skip


# What learns through relaxed tokens


def test_a_plan_goes_through_a_round_of_the_learner_that_the_run_has():
    found = plan(job_of("rlgaf_gumbel", ONLINE | JUDGE | SHORT))
    assert {"sampling", "scoring", "reading", "training", "judge"} <= found.seconds.keys()

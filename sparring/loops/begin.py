"""The fine-tuning that a recipe may begin with: a run of its own, inside the folder of the run."""

from dataclasses import replace
from typing import Any

from sparring.loops.job import Job, make_job
from sparring.loops.load import Data, Say, load_data
from sparring.models.trunk import Trunk

WARM_UP = "sft"  # the method, and the folder


def fine_tuning(job: Job) -> dict[str, Any] | None:
    """Say what is asked of that run, by the names that `train` and `make_job` know; None where there is none."""
    if job.recipe is None or job.recipe.sft_epochs == 0:
        return None
    shared = {**vars(job.data_settings), **vars(job.model_settings), **vars(job.optimizer)}
    shared |= {"epochs": job.recipe.sft_epochs, "seed": job.seed, "lr": job.recipe.sft_lr, "keep_best": "last"}
    shared |= {"max_response": min(job.data_settings.max_response, job.online.max_tokens if job.online else 10**6)}
    return {
        "model": job.model, "data": job.data, "run": job.run / WARM_UP, "eval_data": job.eval_data,
        "fields": job.fields, "where": job.where, "settings": shared, "command": f"warm-up of {job.run}",
    }  # fmt: skip


def beginning(job: Job) -> Job | None:
    """Make the job of that run; None where there is none."""
    asked = fine_tuning(job)
    return None if asked is None else make_job(WARM_UP, **asked)


def load_with_beginning(job: Job, trunk: Trunk, say: Say) -> Data:
    """Read the data of a run, and what its fine-tuning reads."""
    data, start = load_data(job, trunk, say), beginning(job)
    return data if start is None else replace(data, start=load_data(start, trunk, lambda text: None))

"""Settings that are each in range and do not go together: refused in words, rather than left without effect."""

from typing import TYPE_CHECKING

from sparring.core.errors import SettingError
from sparring.core.registry import needs
from sparring.feedback.expression import DISCRIMINATOR
from sparring.feedback.judge_loss import misfit
from sparring.loops.selections import rehearse

if TYPE_CHECKING:
    from sparring.loops.job import Job

RATIO = "ratio"
"""What a judge reads that is a language model and compares its likelihoods with the base's."""


def check_together(job: "Job") -> None:
    """Refuse settings that are each in range and do not go together, rather than leave one without effect."""
    check = _online_problem if job.online else _selection_problem if job.selection else _offline_problem
    problem = check(job)
    if problem:
        raise SettingError(f"{job.method}: {problem}")


def _online_problem(job: "Job") -> str:
    online, reward, mix, name = job.online, job.reward, job.mix, job.equation.name
    assert online is not None and reward is not None and mix is not None
    if online.epochs * online.minibatches > 1 and "old_token_logps" not in needs(job.equation.loss):
        return (
            f"epochs {online.epochs} and minibatches {online.minibatches} ask for several updates on the same samples, "
            f"but the loss of {name} is right for one only, for it has no ratio to the policy that sampled; "
            "set both to 1, or use ppo"
        )
    if reward.kl_horizon and not reward.kl_target:
        return "kl_horizon says how fast the price of KL follows its target, and there is none; set kl_target"
    if mix.pretrain_weight and job.pretrain is None:
        return (
            f"pretrain_weight is {mix.pretrain_weight:g}, but there is no text; name a file with --pretrain, or set 0"
        )
    if job.pretrain is not None and not mix.pretrain_weight:
        return "the --pretrain text has weight 0; set pretrain_weight above 0, or leave the file out"
    if job.judge is not None and (problem := _judge_problem(job)):
        return problem
    if job.relaxed is not None and (problem := _relaxed_problem(job)):
        return problem
    if online.minibatches > online.batch:
        return f"minibatches is {online.minibatches}, but there are only {online.batch} prompts in a batch to divide"
    if online.keep_best == "eval_score" and job.judge is not None:
        return "keep_best eval_score compares scores of different rounds, but this judge's move; leave it at last"
    if online.keep_best == "eval_score" and not job.has_held_out:
        return "keep_best eval_score needs held-out prompts; set held_out above 0 or give eval_data"
    return ""


def _judge_problem(job: "Job") -> str:
    """Refuse what a judge cannot do, or does not look at."""
    judge = job.discriminator
    if job.opponent is not None and job.judge is not None and not job.judge.judge_warmup:
        return (
            "the --base is whom the judge meets in its warm-up, and judge_warmup is 0; raise it, or leave the base out"
        )
    if judge is None:
        return ""
    if job.compares and job.base is None:
        return "judge_reads ratio holds the judge's likelihoods against those of another model; name it with --base"
    if job.compares and judge.judge_sees == "pair":
        return (
            "judge_sees pair reads two responses as one text, and judge_reads ratio finds single ones likelier or not"
        )
    if judge.judge_anchor and (job.compares or judge.judge_sees != "one"):
        return "judge_anchor keeps a judge that scores single responses by its states; leave it at 0"
    if judge.judge_anchor and job.judge is not None and not job.judge.judge_warmup:
        return "judge_anchor keeps what the judge's warm-up taught it, and judge_warmup is 0; raise it"
    return misfit(judge.judge_loss, judge.judge_sees, job.judge.reward if job.judge else "logit")


def _relaxed_problem(job: "Job") -> str:
    """Refuse what has no effect where the judge is differentiated and its scores are only looked at."""
    reward, nucleus = job.reward, job.nucleus
    assert reward is not None and nucleus is not None
    if job.feedback != (DISCRIMINATOR,):
        return "it differentiates through its judge, which must be the discriminator alone; --feedback discriminator"
    if job.discriminator is not None and job.discriminator.judge_sees != "one":
        return "it differentiates through single responses; leave judge_sees at one"
    if job.discriminator is not None and job.discriminator.judge_anchor:
        return "it differentiates through the judge of the moment; leave judge_anchor at 0"
    if reward.scores != "given" or reward.unfinished:
        return "scores are not what it learns from, so leave scores and unfinished as they are"
    if nucleus.nucleus != 1:
        return "it relaxes the choice among all tokens, so leave nucleus at 1"
    return ""


def _selection_problem(job: "Job") -> str:
    selection = job.selection
    assert selection is not None
    if selection.join == "data" and not job.feedback:
        return "join data selects by score among samples and data, and this method has no judge; leave it at none"
    if selection.keep_best == "eval_score" and not job.feedback:
        return "keep_best eval_score needs a judge, and this method has none; leave it at last"
    if selection.keep_best == "eval_score" and not job.has_held_out:
        return "keep_best eval_score needs held-out prompts; set held_out above 0 or give eval_data"
    return rehearse(job.rule, selection.K, job.equation)


def _offline_problem(job: "Job") -> str:
    offline = job.offline
    assert offline is not None
    if offline.patience and not job.has_held_out:
        return "patience needs held-out records to lose it over; set held_out above 0 or give eval_data"
    if offline.patience and offline.keep_best == "last":
        return "patience waits for a better metric; name it with keep_best (eval_loss or eval_reward_accuracy)"
    if offline.keep_best == "eval_reward_accuracy" and job.kind in ("demonstration", "rating"):
        return f"keep_best eval_reward_accuracy needs responses to compare, and a {job.kind} has one; take eval_loss"
    if offline.reference == "stored" and "batch_kl" in needs(job.equation.loss):
        return "it measures the reference on other prompts' responses at every step; leave reference at live"
    if offline.reference == "stored" and "token_kls" in needs(job.equation.loss):
        return "it compares whole distributions, and only log-probabilities are stored; leave reference at live"
    return ""

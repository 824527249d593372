import re

import pytest

from sparring.core.errors import SettingError
from sparring.loops.job import make_job


def job(method, *, settings=None, **more):
    return make_job(method, model="m", data="d.jsonl", run="r", settings=settings, **more)


def test_a_setting_goes_to_the_class_that_knows_it():
    made = job("dpo", settings={"beta": 0.3, "batch": 7, "lr": 1e-4, "rank": 3, "max_prompt": 9})
    assert (made.equation.beta, made.offline.batch, made.optimizer.lr) == (0.3, 7, 1e-4)
    assert (made.model_settings.rank, made.data_settings.max_prompt, made.online) == (3, 9, None)


def test_all_settings_are_listed_by_name_with_their_defaults():
    listed = job("rlgaf", settings={"rounds": 3}).settings()
    assert listed["rounds"] == 3
    assert {"kl", "clip", "sft_epochs", "K", "judge_lr", "adapter", "held_out", "warmup"} <= listed.keys()


def test_a_recipe_trains_its_first_policy_on_its_own_feedback_unless_told_otherwise():
    made = job("rlgaf")
    assert (made.policy, made.equation.name, made.feedback, made.kind) == (
        "ppo",
        "ppo",
        ("discriminator",),
        "demonstration",
    )
    assert job("rlgaf", policy="rloo").equation.name == "rloo"


def test_a_python_function_is_recorded_by_its_name():
    def polite(response):
        return 1.0

    class Kind:
        def __call__(self, response):
            return 1.0

    assert job("ppo", feedback=[polite]).to_dict()["feedback"][0].endswith("polite")
    assert job("ppo", feedback=[Kind()]).to_dict()["feedback"][0].endswith("Kind")


WRONG = [
    ("dpoo", {}, "did you mean dpo"),
    ("dpo", {"settings": {"betta": 1}}, "did you mean beta"),
    ("dpo", {"settings": {"rounds": 1}}, "no setting 'rounds'"),
    ("dpo", {"settings": {"beta": -1}}, "above 0"),
    ("dpo", {"feedback": ["length"]}, "no use for --feedback"),
    ("dpo", {"policy": "ppo"}, "belongs to recipes"),
    ("ppo", {}, "--feedback length"),
    ("ppo", {"feedback": ["length"], "negatives": "n.jsonl"}, "has none"),
    ("ppo", {"feedback": ["length"], "base": "gpt2"}, "has none"),
    ("ppo", {"feedback": ["length"], "settings": {"judge_lr": 1.0}}, "no setting 'judge_lr'"),
    ("gumbel", {"feedback": ["length"]}, "must be the discriminator alone"),
    ("gumbel", {"feedback": ["discriminator", "length"]}, "must be the discriminator alone"),
    ("rlgaf_gumbel", {"settings": {"scores": "whitened"}}, "leave scores and unfinished as they are"),
    ("rlgaf_gumbel", {"settings": {"nucleus": 0.9}}, "leave nucleus at 1"),
    ("rlgaf_gumbel", {"settings": {"epochs": 2}}, "use ppo"),
    ("rlgaf", {"settings": {"tau": 0.5}}, "no setting 'tau'"),
    ("rlgaf", {"policy": "dpo"}, "no policy 'dpo'"),
    ("reinforce", {"feedback": ["length"], "settings": {"epochs": 2}}, "use ppo"),
    ("rloo", {"feedback": ["length"], "settings": {"minibatches": 2}}, "use ppo"),
    ("rlgaf", {"policy": "reinforce", "settings": {"epochs": 4}}, "use ppo"),
    ("ppo_ptx", {"feedback": ["length"]}, "name a file with --pretrain, or set 0"),
    ("ppo_ptx", {}, "--feedback length"),
    ("ppo", {"feedback": ["length"], "pretrain": "t.jsonl"}, "set pretrain_weight above 0"),
    ("ppo_ptx", {"feedback": ["length"], "settings": {"sft_epochs": 1}}, "no setting 'sft_epochs'"),
    ("sft", {"pretrain": "t.jsonl"}, "and sft takes none"),
    ("ppo", {"feedback": ["length"], "settings": {"kl_horizon": 1e4}}, "set kl_target"),
    ("ppo", {"feedback": ["length"], "settings": {"batch": 2, "minibatches": 3}}, "only 2 prompts"),
    ("rlgaf", {"settings": {"keep_best": "eval_score"}}, "this judge's move"),
    ("ppo", {"feedback": ["length"], "settings": {"keep_best": "eval_score", "held_out": 0.0}}, "held-out prompts"),
    ("sft", {"settings": {"patience": 1, "held_out": 0.0}}, "held-out records"),
    ("sft", {"settings": {"patience": 1, "keep_best": "last"}}, "keep_best"),
    ("slic_kl", {"settings": {"reference": "stored"}}, "leave reference at live"),
    ("sft", {"settings": {"keep_best": "eval_reward_accuracy"}}, "take eval_loss"),
]


@pytest.mark.parametrize(("method", "more", "words"), WRONG)
def test_what_cannot_be_done_is_refused_with_the_cure(method, more, words):
    with pytest.raises(SettingError, match=re.escape(words)):
        job(method, **more)


def test_several_updates_on_the_same_samples_are_fine_where_the_loss_has_a_ratio():
    made = job("ppo", feedback=["length"], settings={"epochs": 4, "minibatches": 2})
    assert (made.online.epochs, made.online.minibatches) == (4, 2)


def test_patience_is_fine_with_a_file_to_lose_it_over():
    assert job("sft", eval_data="e.jsonl", settings={"patience": 2, "held_out": 0.0}).offline.patience == 2

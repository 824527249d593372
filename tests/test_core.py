"""The words, the numerator and the denominator, the registry, and what a user can get wrong."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparring import methods
from sparring.cli import methods as command
from sparring.core import registry, seeds
from sparring.core.errors import (
    DataError,
    Diverged,
    ModelError,
    RunError,
    SettingError,
    UserError,
    did_you_mean,
)
from sparring.core.glossary import SIGNALS
from sparring.core.loss import Loss, add, figures, per_prompt, tally
from sparring.core.metrics import METRICS
from sparring.core.rank import better
from sparring.core.records import KINDS, Demonstration, Preference, Prompt, Ranking, Rating


def child(code):
    """What a fresh interpreter prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- one division ---------------------------------------------------------------------------------


def test_averages_of_parts_of_different_size_are_divided_once():
    long = Loss(torch.tensor([90.0]), torch.tensor([9.0]))
    short = Loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert figures(add([tally(long), tally(short)])) == {"loss": pytest.approx(93 / 12)}  # not (10 + 1) / 2


def test_rewards_are_compared_for_all_pairs_and_every_prompt_weighs_the_same():
    # pairs (0,1) (0,2) (1,2): all right, gaps 1 2 1; then a tie and two mistakes, gaps 0 -4 -4
    reward = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 5.0]])
    got = figures(tally(per_prompt(torch.tensor([1.0, 3.0]), reward)))
    assert got == pytest.approx(
        {
            "loss": 2.0,
            "reward_accuracy": (1 + 0.5 / 3) / 2,
            "reward_margin": (4 / 3 - 8 / 3) / 2,
            "reward_best": (8 / 3 + 1) / 2,
            "reward_worst": (4 / 3 + 11 / 3) / 2,
        }
    )


def test_responses_that_are_equal_or_not_there_are_not_compared():
    # of three responses the last is not there and the first two are equal; the other prompt has one pair, 4 above 1
    marks, here = torch.tensor([[2.0, 2.0, 0.0], [2.0, 1.0, 0.0]]), torch.tensor([[True, True, False]] * 2)
    reward = torch.tensor([[9.0, 1.0, 0.0], [4.0, 1.0, 0.0]])
    got = figures(tally(replace(per_prompt(torch.zeros(2), reward), pairs=better(marks, here))))
    want = {"loss": 0.0, "reward_accuracy": 1.0, "reward_margin": 3.0, "reward_best": 4.0, "reward_worst": 1.0}
    assert got == want


def test_a_reward_of_one_response_has_no_order_to_be_right_about():
    assert set(tally(per_prompt(torch.ones(2), torch.ones(2, 1)))) == {"loss"}


def test_figures_leave_out_what_has_no_weight():
    assert figures({"loss": (0.0, 0.0), "score": (3.0, 2.0)}) == {"score": 1.5}


# --- seeds ----------------------------------------------------------------------------------------


def test_streams_are_the_same_in_every_process_and_differ_by_name_and_seed():
    here = seeds.derive(7, "order", 3)
    assert child("from sparring.core import seeds; print(seeds.derive(7, 'order', 3))") == f"{here}\n"
    others = {
        seeds.derive(s, *names) for s, *names in [(7, "order", 4), (8, "order", 3), (7, "sample", 3), (7, "order")]
    }
    assert len(others | {here}) == 5 and all(0 <= n < 2**63 for n in others)


def test_drawing_from_one_stream_does_not_move_another():
    def draw(disturb):
        g = seeds.generator(0, "a")
        if disturb:
            torch.rand(5), seeds.rng(0, "b").random(5), seeds.generator(0, "c").seed()
        return torch.rand(3, generator=g).tolist(), seeds.rng(0, "a").random(3).tolist()

    assert draw(False) == draw(True)


# --- words ----------------------------------------------------------------------------------------


def test_every_word_has_axes_a_unit_and_a_meaning():
    for name, signal in SIGNALS.items():
        assert re.fullmatch(r"B( K( T)?)?", signal.axes), name
        assert signal.unit and len(signal.meaning) > 10


def test_every_metric_has_a_meaning_and_a_band_that_is_not_empty():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"[a-z_0-9]+", name)
        assert metric.unit and len(metric.meaning) > 5 and len(metric.healthy) > 10, name
        if metric.low is not None and metric.high is not None:
            assert metric.low < metric.high, name
        if metric.unit == "share" and name != "value_explained":
            assert 0 <= (metric.low or 0) <= (metric.high or 1) <= 1, name


def test_every_figure_of_the_loss_has_a_metric():
    assert set(tally(per_prompt(torch.ones(1), torch.ones(1, 2)))) <= set(METRICS)


def test_records_are_a_prompt_with_responses_best_first():
    assert Demonstration(prompt="a", response="b").responses() == ("b",)
    assert Preference(prompt="a", chosen="b", rejected="c").responses() == ("b", "c")
    assert Ranking(prompt="a", ranked=("b", "c", "d")).responses() == ("b", "c", "d")
    assert Rating(prompt="a", response="b", rating=1.0).responses() == ("b",)
    assert Prompt(prompt="a").responses() == ()
    assert set(KINDS) == {"demonstration", "preference", "ranking", "rating", "prompt"}


# --- what a user can get wrong --------------------------------------------------------------------


def test_errors_of_users_are_one_family_and_divergence_is_not():
    assert all(issubclass(e, UserError) for e in (DataError, SettingError, ModelError, RunError))
    assert issubclass(UserError, ValueError) and not issubclass(Diverged, UserError)


def test_a_typo_gets_the_nearest_name_and_nonsense_gets_them_all():
    assert did_you_mean("chosne", ["chosen", "rejected"]) == "did you mean chosen?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose from a, b"
    assert "nothing" in did_you_mean("zzz", [])


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("dpo", {"beta": 0}, "dpo: beta must be above 0, got 0"),
        ("dpo", {"beta": math.nan}, "dpo: beta is nan; give a finite number"),
        ("dpo", {"label_smoothing": 0.7}, "dpo: label_smoothing must lie between 0 and 0.5, got 0.7"),
        ("ppo", {"lam": 1.2}, "ppo: lam must lie between 0 and 1, got 1.2"),
        ("reinforce", {"baseline": "leave_one"}, "did you mean leave_one_out"),
        ("rloo", {"kl": -1}, "rloo: kl must lie between 0"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(name, knobs, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        methods.get(name)(**knobs)


def test_a_knob_that_is_no_number_is_refused_by_name():
    # In a process of its own, because here the types are checked before the knobs.
    code = (
        "from sparring.core.registry import *; from sparring.core.errors import SettingError\n"
        "@settings\nclass LoopSettings:\n"
        "    lr: float = knob(0.1, 'a knob')\n    batch: int = knob(8, 'a knob', within=(1, 9))\n"
        "    device: str = knob('cpu', 'a word')\n"
        "LoopSettings(lr=1, batch=9)\n"
        "for wrong in ({'lr': 'big'}, {'lr': True}, {'lr': [1]}, {'device': 3}, {'batch': 2.5}, {'batch': 10}):\n"
        "    try: LoopSettings(**wrong); print('taken')\n"
        "    except SettingError as error: print(error)"
    )
    assert child(code).splitlines() == [
        "loop: lr is 'big'; give a number such as 0.1",
        "loop: lr is True; give a number such as 0.1",
        "loop: lr is [1]; give a number such as 0.1",
        "loop: device is 3; give a word such as cpu",
        "loop: batch is 2.5; give a whole number such as 8",
        "loop: batch must lie between 1 and 9, got 10",
    ]


def test_a_wrong_method_gets_the_nearest_one_and_recipes_count():
    with pytest.raises(SettingError, match=r"no method is called 'dop'; did you mean dpo"):
        methods.get("dop")
    with pytest.raises(SettingError, match=r"did you mean .*rlgaf"):
        methods.get("rlgan")
    with pytest.raises(SettingError, match=r"rlgaf is a recipe.*ppo, reinforce, rloo"):
        methods.get("rlgaf")


def test_two_methods_of_one_name_are_our_own_mistake():
    methods.load_all()
    with pytest.raises(AssertionError, match="two methods are called 'dpo'"):
        registry.method("dpo", data="preference")(type("Again", (), {}))


# --- the registry ---------------------------------------------------------------------------------


def test_what_an_equation_needs_are_its_parameters_and_what_it_welcomes_may_be_absent():
    class Equation:
        def loss(self, scores: Float[Tensor, "B K"], margin: Float[Tensor, " B"] | None = None): ...

    for equation in (Equation.loss, Equation().loss):
        assert registry.needs(equation) == ["scores"] and registry.welcomes(equation) == ["margin"]


def test_a_method_cannot_be_changed_and_takes_no_unknown_knob():
    method = methods.get("dpo")(beta=0.3)
    with pytest.raises(AttributeError):
        method.beta = 0.4
    with pytest.raises(TypeError, match="betta"):
        methods.get("dpo")(betta=0.3)


def test_rlgaf_is_made_of_methods_that_exist():
    recipe = methods.find("rlgaf")
    assert recipe.policies == ("ppo", "reinforce", "rloo", "grpo")
    assert all(methods.get(name).data == "prompt" for name in recipe.policies)
    assert recipe.feedback == "discriminator" and recipe.data == "demonstration"


def test_names_and_docstrings_need_no_torch():
    code = (
        "import sys; from sparring import methods; from sparring.core.metrics import METRICS;"
        "print(methods.names()); print(methods.docstring('dpo').splitlines()[0]); print('torch' in sys.modules)"
    )
    listed, summary, torch_came = child(code).splitlines()
    assert "'dpo'" in listed and "'rlgaf'" in listed
    assert summary.startswith("Direct Preference Optimization") and torch_came == "False"


def test_every_name_is_a_method_a_recipe_or_a_selection():
    assert sorted([*methods.load_all(), *registry.RECIPES, *registry.SELECTIONS]) == methods.names()


# --- sparring methods -----------------------------------------------------------------------------


def shown(capsys, *words):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(words)) == 0
    return capsys.readouterr().out


def test_the_command_lists_every_method(capsys):
    out = shown(capsys)
    assert all(name in out for name in methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_the_command_shows_equation_source_and_knobs_of_a_method(capsys, name):
    out = shown(capsys, name)
    assert "    L = " in out and "Source:" in out
    assert all(knob["name"] in out for knob in command.describe(name)["knobs"])


def test_the_command_speaks_json(capsys):
    everything = json.loads(shown(capsys, "--json"))
    assert [page["name"] for page in everything] == methods.names()
    one = json.loads(shown(capsys, "dpo", "--json"))
    assert one["needs"] == ["token_logps", "ref_token_logps", "mask"] and one["uses_if_given"] == ["label"]
    assert one["loop"] == "offline" and one["knobs"][0] == {
        "name": "beta",
        "default": 0.1,
        "meaning": "how firmly the policy is held to the reference; larger holds harder",
        "low": 0,
        "high": None,
        "above": True,
        "choices": [],
    }
    assert set(json.loads(shown(capsys, "--metrics", "--json"))) == set(METRICS)


def test_the_command_explains_every_metric(capsys):
    out = shown(capsys, "--metrics")
    assert all(name in out for name in METRICS)


def test_the_command_refuses_a_wrong_name(capsys):
    with pytest.raises(SettingError, match="did you mean dpo"):
        shown(capsys, "dop")

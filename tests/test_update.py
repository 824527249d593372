import copy
import math

import pytest
import torch
from torch import nn

from sparring.core.errors import Diverged, RunError
from sparring.core.loss import Loss
from sparring.models.update import Updater, learning_rate, micro_batches
from tests.small import machine


def updater(*values, max_grad_norm=1e9, lr=0.1):
    weight = nn.Parameter(torch.tensor(values))
    return Updater({"w": weight}, machine(), lr=lr, total=10, max_grad_norm=max_grad_norm), weight


def test_the_rate_rises_in_a_line_and_falls_along_half_a_cosine():
    # 8 steps, of which a quarter warm up: 1/2, 1, then (1 + cos(pi i / 6)) / 2 for i = 0 .. 5
    want = [0.5, 1.0] + [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    have = [learning_rate(s, peak=1.0, total=8, warmup=0.25, schedule="cosine") for s in range(8)]
    assert have == pytest.approx(want)
    assert [learning_rate(s, peak=2.0, total=4, warmup=0.5, schedule="constant") for s in range(4)] == [1, 2, 2, 2]


def test_a_rate_without_warm_up_starts_at_its_peak_and_one_past_the_end_is_zero():
    assert learning_rate(0, peak=3.0, total=1, warmup=0.0, schedule="cosine") == 3.0
    assert learning_rate(9, peak=3.0, total=4, warmup=0.0, schedule="cosine") == pytest.approx(0.0)


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
def test_micro_batches_hold_every_row_once_and_no_more_padded_tokens_than_allowed(limit):
    sizes = [5, 3, 9, 1, 9, 4, 2, 30]
    parts = micro_batches(sizes, limit)
    assert sorted(i for part in parts for i in part) == list(range(8))
    for part in parts:
        assert len(part) == 1 or max(sizes[i] for i in part) * len(part) <= limit


@pytest.mark.parametrize("cuts", [[4], [1, 1, 1, 1], [3, 1], [1, 3]])
def test_the_gradient_is_divided_once_by_the_weight_of_all_micro_batches(cuts):
    # Four prompts, w x_i each, of weight n_i. The gradient of the mean is sum x_i / sum n_i = 7 / 10.
    x, n = torch.tensor([1.0, 2.0, -1.0, 5.0]), torch.tensor([1.0, 4.0, 2.0, 3.0])
    u, w = updater(2.0)
    for part_x, part_n in zip(x.split(cuts), n.split(cuts), strict=True):
        u.backward(Loss(w * part_x, part_n))
    figures = u.step()
    assert figures["grad_norm"] == pytest.approx(0.7)
    assert figures["loss"] == pytest.approx(2.0 * 7 / 10)
    # The first step of Adam is the rate times the sign of the gradient, nearly.
    assert w.tolist() == pytest.approx([2.0 - 0.1], abs=1e-6)


def test_a_loss_set_aside_is_divided_by_its_own_weight_and_added_to_the_step():
    # 3 w / 4 twice over, beside 5 w / 10: the slope is 2 * 0.75 + 0.5, whatever the sizes of the two batches.
    u, w = updater(2.0)
    for x, n in ((1.0, 1.0), (2.0, 3.0)):
        u.backward(Loss(w * x, torch.tensor([n])))
    u.set_aside("other_loss", 2.0)
    u.backward(Loss(w * 5.0, torch.tensor([10.0])))
    row = u.step()
    assert row["grad_norm"] == pytest.approx(2.0)
    assert (row["loss"], row["other_loss"]) == (pytest.approx(1.0), pytest.approx(1.5))
    u.backward(Loss(w * 5.0, torch.tensor([10.0])))
    assert "other_loss" not in u.step()  # and the next step knows nothing of it


def test_a_long_gradient_is_cut_to_the_length_allowed_and_told_at_full_length():
    u, w = updater(1.0, 1.0, max_grad_norm=0.5)
    u.backward(Loss((3.0 * w[0] + 4.0 * w[1])[None], torch.ones(1)))
    before = []
    u.optimizer.register_step_pre_hook(lambda *_: before.append(w.grad.clone()))
    assert u.step()["grad_norm"] == pytest.approx(5.0)
    assert before[0].tolist() == pytest.approx([0.3, 0.4], abs=1e-5)


def test_a_loss_that_is_no_number_stops_and_names_its_rows():
    u, w = updater(1.0)
    total = w * torch.tensor([1.0, float("nan"), float("inf")])
    with pytest.raises(Diverged, match=r"not finite at step 1; it comes from data.jsonl:7, row 2"):
        u.backward(Loss(total, torch.ones(3)), ("data.jsonl:6", "data.jsonl:7", ""))


def test_of_many_broken_rows_five_are_named():
    u, w = updater(1.0)
    with pytest.raises(Diverged, match=r"row 0, row 1, row 2, row 3, row 4 and 3 more"):
        u.backward(Loss(w * torch.full((8,), float("nan")), torch.ones(8)))


def test_a_gradient_that_is_no_number_moves_nothing():
    u, w = updater(0.0)
    u.backward(Loss(w.sqrt(), torch.ones(1)))  # the root of 0 is finite, its slope is not
    with pytest.raises(Diverged, match="gradient is not finite at step 1"):
        u.step()
    assert w.tolist() == [0.0]


def step(u, w):
    u.backward(Loss((w**2).sum()[None], torch.ones(1)))
    u.step()


def test_a_restored_updater_goes_on_bit_for_bit():
    u, w = updater(1.0, -2.0)
    step(u, w)
    twin, x = updater(9.0, 9.0)
    twin.load(copy.deepcopy(u.state()))
    for _ in range(3):
        step(u, w), step(twin, x)
    assert torch.equal(w, x) and twin.steps == u.steps == 4


def test_a_state_without_its_optimizer_or_of_another_model_is_refused():
    u, w = updater(1.0)
    step(u, w)
    state = u.state()
    empty = state | {"optimizer": state["optimizer"] | {"state": {}}}
    for broken in ({n: v for n, v in state.items() if n != "optimizer"}, empty):
        with pytest.raises(RunError, match="no optimizer state"):
            updater(1.0)[0].load(broken)
    with pytest.raises(RunError, match="another model"):
        Updater({"v": nn.Parameter(torch.ones(1))}, machine(), lr=0.1, total=1).load(state)


def test_broken_weights_are_never_handed_out_to_be_saved():
    u, w = updater(1.0)
    with torch.no_grad():
        w.fill_(float("nan"))
    with pytest.raises(Diverged, match="weights are not finite"):
        u.state()


def test_frozen_weights_are_left_alone():
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    u = Updater({"a": nn.Parameter(torch.ones(1)), "b": frozen}, machine(), lr=0.1, total=1)
    assert u.state()["weights"].keys() == {"a"}

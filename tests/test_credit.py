"""From a score to what each token deserves: golden numbers, and identities that hold for any numbers."""

import math

import pytest
import torch

from sparring.core import credit
from sparring.core.errors import SettingError
from sparring.core.masked import masked_mean, masked_sum, whiten


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.double)


def ones(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def test_gae_golden():
    rewards, values = tensor([[0, 0, 1]]), tensor([[0.5, 0.4, 0.3]])
    advantages, returns = credit.gae(rewards, values, ones(1, 1, 3), 1.0, 0.95)
    assert advantages[0, 0].tolist() == pytest.approx([0.43675, 0.565, 0.7])
    assert returns[0, 0].tolist() == pytest.approx([0.93675, 0.965, 1.0])


def test_gae_without_discounting_is_what_is_still_to_come_minus_the_value():
    g = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 3, 5, generator=g, dtype=torch.double) for _ in range(2))
    advantages, returns = credit.gae(rewards, values, ones(2, 3, 5), 1.0, 1.0)
    to_come = torch.stack([rewards[..., t:].sum(-1) for t in range(5)], -1)
    assert torch.allclose(advantages, to_come - values) and torch.allclose(returns, to_come)


def test_gae_that_looks_one_step_ahead_is_the_temporal_difference():
    rewards, values = tensor([[1, 2, 3]]), tensor([[10, 20, 30]])
    advantages, _ = credit.gae(rewards, values, ones(1, 1, 3), 0.9, 0.0)
    assert advantages[0, 0].tolist() == pytest.approx([1 + 0.9 * 20 - 10, 2 + 0.9 * 30 - 20, 3 - 30])


def test_gae_ends_a_short_response_at_its_own_end():
    mask = torch.tensor([[[True, True, False, False]]])
    garbage = tensor([[0, 1, math.nan, 9]])
    short = credit.gae(tensor([[0, 1]]), tensor([[0.5, 0.4]]), ones(1, 1, 2), 1.0, 0.95)
    padded = credit.gae(garbage, tensor([[0.5, 0.4, 7, math.nan]]), mask, 1.0, 0.95)
    for a, b in zip(short, padded, strict=True):
        assert torch.equal(a, b[..., :2]) and not b[..., 2:].any()


@pytest.mark.parametrize(
    ("kl", "rate", "factor"),
    [
        (12, 64 / 10_000, 1.00128),  # too far away, the rate of OpenAI's code: 64 episodes over a horizon of 10,000
        (3, 64 / 10_000, 0.99872),
        (12, 0.1, 1.02),  # the rate of the paper
        (6, 0.1, 1.0),  # on target
        (6.6, 0.1, 1.01),  # one tenth too far: not clipped
        (-5, 0.1, 0.98),  # an estimate may be negative; the price falls by no more than usual
    ],
)
def test_adaptive_kl_golden(kl, rate, factor):
    before = credit.AdaptiveKL(beta=0.15, target=6.0, rate=rate)
    after = before.update(kl)
    assert after.beta == pytest.approx(0.15 * factor)
    assert (after.target, after.rate, before.beta) == (6.0, rate, 0.15)


def test_adaptive_kl_finds_the_price_that_gives_its_target():
    controller = credit.AdaptiveKL(beta=1.0, target=2.0, rate=0.1)
    for _ in range(400):
        controller = controller.update(1 / controller.beta)  # a world in which KL is one over its price
    assert 1 / controller.beta == pytest.approx(2.0, rel=1e-3)


def test_adaptive_kl_needs_a_target():
    with pytest.raises(AssertionError, match="target"):
        credit.AdaptiveKL(beta=0.1, target=0.0)


def test_whitening_golden():
    got = whiten(tensor(1, 2, 3, 4), ones(4))
    assert got.tolist() == pytest.approx([-1.341641, -0.447214, 0.447214, 1.341641], abs=1e-6)


def test_whitening_golden_that_keeps_the_mean():
    got = whiten(tensor(1, 2, 3, 4), ones(4), shift_mean=False)
    assert got.tolist() == pytest.approx([2.5 + a for a in (-1.341641, -0.447214, 0.447214, 1.341641)], abs=1e-6)
    mask = torch.tensor([True, True, False])
    assert whiten(tensor(7, 7, math.nan), mask, shift_mean=False).tolist() == [7, 7, 0]  # a constant stays


def test_whitening_leaves_no_mean_and_looks_at_no_padding():
    g = torch.Generator().manual_seed(0)
    x, mask = torch.rand(4, 8, generator=g, dtype=torch.double) + 5, torch.rand(4, 8, generator=g) > 0.3
    a, b = whiten(x, mask), whiten(x.where(mask, math.nan), mask)
    assert abs(a[mask].mean()) < 1e-12 and abs(a[mask].std(correction=0) - 1) < 1e-6
    assert torch.equal(a, b) and not a[~mask].any()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.7, -12.34, 1e6])
@pytest.mark.parametrize("size", [1, 7, 33, 1000])
def test_equal_numbers_whiten_to_zero_and_not_to_rounding_noise(value, size):
    x = torch.full((size,), value)
    assert not whiten(x, ones(size)).any()
    assert not credit.normalise_batch(x[:, None]).any()
    assert not credit.normalise_group(torch.stack([x, x, x], -1)).any()


def test_leave_one_out_is_each_score_minus_the_mean_of_the_others():
    got = credit.leave_one_out(tensor([1, 2, 6], [0, 0, 3]))
    assert got.tolist() == [pytest.approx(row) for row in ([1 - 4, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3])]


@pytest.mark.parametrize("compare", [credit.leave_one_out, credit.above_group_mean, credit.normalise_group])
def test_comparing_one_response_with_the_others_says_what_to_do(compare):
    with pytest.raises(SettingError, match="set K to 2 or more"):
        compare(tensor([1], [2]))


def test_baselines_and_normalisations_look_at_what_their_name_says():
    x = tensor([1, 3], [10, 30])
    assert credit.above_batch_mean(x).tolist() == [[-10, -8], [-1, 19]]
    assert credit.above_group_mean(x).tolist() == [[-1, 1], [-10, 10]]
    assert credit.normalise_group(x).flatten().tolist() == pytest.approx([-1, 1, -1, 1], rel=1e-6)
    std = math.sqrt((10**2 + 8**2 + 1 + 19**2) / 4)
    assert credit.normalise_batch(x).flatten().tolist() == pytest.approx([v / std for v in (-10, -8, -1, 19)])


def test_the_score_is_paid_at_the_last_token():
    mask = torch.tensor([[[True, False, False], [True, True, True], [False, False, False]]])
    assert credit.at_last_token(tensor([5, 7, 9]), mask).tolist() == [[[5, 0, 0], [0, 0, 7], [0, 0, 0]]]
    assert credit.every_token(tensor([5, 7, 9]), mask).tolist() == [[[5, 0, 0], [7, 7, 7], [0, 0, 0]]]


def test_the_price_of_kl_is_taken_off_the_whole_response():
    mask = torch.tensor([[[True, True], [True, False]]])
    old, ref = tensor([[-1, -2], [-1, 9]]), tensor([[-3, -3], [-2, 0]])
    got = credit.after_kl(tensor([1, 2]), old, ref, mask, 0.5)
    assert got.tolist() == [[1 - 0.5 * 3, 2 - 0.5 * 1]]


def test_kl_estimators_have_the_expectations_they_claim():
    # pi = the optimum of the three-armed world, whose KL from (.5, .3, .2) is known
    policy, ref = tensor(0.918672, 0.074597, 0.006730), tensor(0.5, 0.3, 0.2)
    k1, k2, k3 = (f(policy.log(), ref.log()) for f in (credit.kl_k1, credit.kl_k2, credit.kl_k3))
    assert float((policy * k1).sum()) == pytest.approx(0.432205, abs=2e-6)
    assert float((policy * k3).sum()) == pytest.approx(0.432205, abs=2e-6)
    assert torch.allclose(k2, k1**2 / 2) and (k3 >= 0).all() and (k1 < 0).any()


def test_masked_mean_of_an_empty_response_is_zero():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    x = tensor([1, 3, math.nan], [math.nan] * 3)
    assert masked_sum(x, mask).tolist() == [4, 0] and masked_mean(x, mask).tolist() == [2, 0]

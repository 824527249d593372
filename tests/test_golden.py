"""Numbers worked out by hand from the papers for the methods that learn from pairs, rankings and marks."""

import itertools
import math

import pytest
import torch

from sparring.methods import get
from tests import traps
from tests.laws import gradient


def one_token(logps, **more):
    """Signals of one prompt whose responses have one token each."""
    x = torch.tensor([[[v] for v in logps]], dtype=torch.double)
    return {"token_logps": x, "mask": torch.ones_like(x, dtype=torch.bool)} | more


def against_a_reference(h):
    """Signals of one prompt whose log-ratios are h."""
    return one_token([-5 + v for v in h], ref_token_logps=torch.full((1, len(h), 1), -5.0, dtype=torch.double))


def marks(*values):
    return torch.tensor([values], dtype=torch.double)


def test_listwise_dpo():
    # log(e^.7 + e^.1 + e^-.4) - .7 + log(e^.1 + e^-.4) - .1
    loss, grads = gradient(get("listwise_dpo")(beta=1.0), against_a_reference([0.7, 0.1, -0.4]))
    assert loss.total.item() == pytest.approx(1.106243, abs=1e-6)
    assert grads["token_logps"].flatten().tolist() == pytest.approx([-0.468561, -0.085881, 0.554441], abs=1e-6)
    halved = get("listwise_dpo")(beta=1.0, stages="mean").loss(**against_a_reference([0.7, 0.1, -0.4]))
    assert halved.total.item() == pytest.approx(1.106243 / 2, abs=1e-6)


def orders(method, h):
    """The probability that a ranking loss gives to each order of responses with log-ratios h."""
    return [math.exp(-method.loss(**against_a_reference(order)).total.item()) for order in itertools.permutations(h)]


def test_the_probabilities_of_all_orders_add_up_to_one_and_those_of_the_misprint_do_not():
    h = [0.7, 0.1, -0.4]
    assert sum(orders(get("listwise_dpo")(beta=1.0), h)) == pytest.approx(1)
    misprint = traps.TRAPS["PrintsTheFirstForTheKth"][0](beta=1.0)
    assert sum(orders(misprint, h)) == pytest.approx(1.137706, abs=1e-6)
    assert -math.log(orders(misprint, h)[0]) == pytest.approx(0.919502, abs=1e-6)


def test_top_1_is_what_is_left_when_the_order_of_the_others_is_summed_out():
    h = [0.7, 0.1, -0.4]
    probability = orders(get("listwise_dpo")(beta=1.0), h)
    first = get("listwise_dpo")(beta=1.0, mode="top_1").loss(**against_a_reference(h)).total.item()
    assert math.exp(-first) == pytest.approx(sum(probability[:2]))  # the two orders that begin with the best


def test_equal_marks_are_not_ordered():
    a = get("listwise_dpo")(beta=1.0).loss(**against_a_reference([0.7, 0.1, -0.4]), ratings=marks(2, 1, 1))
    b = get("listwise_dpo")(beta=1.0).loss(**against_a_reference([0.7, -0.4, 0.1]), ratings=marks(2, 1, 1))
    assert a.total.item() == pytest.approx(b.total.item())
    # the best against all three, then each of the two equals against both of them
    pair = math.log(math.exp(0.1) + math.exp(-0.4))
    rest = math.log(math.exp(0.7) + math.exp(0.1) + math.exp(-0.4)) - 0.7
    assert a.total.item() == pytest.approx(rest + 2 * pair - 0.1 + 0.4)


@pytest.mark.parametrize("name", ["rrhf", "pro", "slic", "ranking_reward_model"])
def test_where_all_marks_are_equal_no_order_is_learnt(name):
    x = one_token([-1.0, -2.0, -3.0], ratings=marks(1, 1, 1))
    if name == "ranking_reward_model":
        x["scores"] = x.pop("token_logps")[..., 0]
        assert get(name)().loss(**x).total.item() == 0
    else:
        imitation = {"rrhf": 1.0, "pro": 0.05 * 2**2, "slic": 0.1}[name]
        assert get(name)().loss(**x).total.item() == pytest.approx(imitation * 1.0)


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        # log(1 + e^-1) twice and log(1 + e^-2) once, divided by three
        ("pairs", 0.251150),
        ("plackett_luce", math.log(1 + math.exp(-1) + math.exp(-2)) + math.log(1 + math.exp(-1))),
        ("top_1", math.log(1 + math.exp(-1) + math.exp(-2))),
    ],
)
def test_ranking_reward_model(form, loss):
    x = one_token([-1.0] * 3, scores=marks(1, 0, -1))
    del x["token_logps"]
    assert get("ranking_reward_model")(form=form).loss(**x).total.item() == pytest.approx(loss, abs=1e-6)


def test_rrhf():
    # marks 2, 5, 1 and p -.40, -.55, -.30; best first (.55 - .40) + (.55 - .30) + (.40 - .30) = .50, and -p of the best
    loss = get("rrhf")().loss(**one_token([-0.55, -0.40, -0.30], ratings=marks(5, 2, 1)))
    assert loss.total.item() == pytest.approx(0.50 + 0.55)
    monotone = get("rrhf")().loss(**one_token([-0.55, -0.40, -0.30], ratings=marks(500, 0.1, -9)))
    assert monotone.total.item() == loss.total.item()


def test_rrhf_costs_only_imitation_when_the_order_is_right():
    loss, grads = gradient(get("rrhf")(), one_token([-0.3, -0.4, -0.5]))
    assert loss.total.item() == pytest.approx(0.3)
    assert grads["token_logps"].flatten().tolist() == [-1.0, 0.0, 0.0]


def test_rrhf_as_its_code_has_it_ranks_sums_and_shrinks_imitation():
    # two responses of 1 and 4 tokens, a nat each: by the mean they tie, by the padded sum the long one is behind by 3/4
    x = torch.full((1, 2, 4), -1.0, dtype=torch.double)
    mask = torch.tensor([[[True, True, True, True], [True, False, False, False]]])
    assert get("rrhf")().loss(token_logps=x, mask=mask).total.item() == pytest.approx(4.0)
    code = get("rrhf")(by="sum_over_padded").loss(token_logps=x, mask=mask).total.item()
    assert code == pytest.approx((1 - 0.25) + 4 / 4)


def test_pro():
    x = one_token([-1.0, -1.2, -2.0], ratings=marks(2, 1, -1))
    assert get("pro")(nll_weight=0.0).loss(**x).total.item() == pytest.approx(1.960015 + 0.183901, abs=1e-6)
    assert get("pro")(nll_weight=0.0, sharpness="none").loss(**x).total.item() == pytest.approx(1.153453, abs=1e-6)
    shifted = one_token([0.0, -0.2, -1.0], ratings=marks(2, 1, -1))
    assert get("pro")(nll_weight=0.0).loss(**shifted).total.item() == pytest.approx(0.809046, abs=1e-6)
    assert get("pro")().loss(**x).total.item() == pytest.approx(1.960015 + 0.183901 + 0.05 * 4 * 1.0, abs=1e-6)


def test_pro_with_two_responses_is_bradley_terry_sharpened_by_the_gap_of_marks():
    loss = get("pro")(nll_weight=0.0).loss(**one_token([-1.0, -1.7], ratings=marks(3, 1)))
    assert loss.total.item() == pytest.approx(math.log(1 + math.exp(-2 * 0.7)))


@pytest.mark.parametrize(("gap", "loss", "slope"), [(1.4, 0.0, 0.0), (0.3, 0.7, 1.0), (-5.0, 6.0, 1.0)])
def test_slic_pushes_equally_hard_until_the_margin_is_there(gap, loss, slope):
    got, grads = gradient(get("slic")(nll_weight=0.0), one_token([-1.0, -1.0 - gap]))
    assert got.total.item() == pytest.approx(loss)
    assert grads["token_logps"].flatten().tolist() == [-slope, slope]


def test_slic_by_margin_with_marks_one_apart_is_slic_by_rank():
    x = one_token([-1.0, -1.3], ratings=marks(4, 3))
    same = {form: get("slic")(form=form).loss(**x).total.item() for form in ("rank", "margin", "list")}
    assert len(set(same.values())) == 1


def test_slic_kl_pays_for_the_distance_along_the_best_response_only():
    # the margin of 1 is reached, so only the KL is left: .25 (.3 + .1), and nothing pulls at the log-probabilities
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    x = {"token_logps": torch.tensor([[[-0.5, -0.5], [-1.0, -2.0]]]).double(), "mask": mask}
    kls = torch.tensor([[[0.3, 0.1], [5.0, 7.0]]]).double()
    loss, grads = gradient(get("slic_kl")(kl_weight=0.25), x | {"token_kls": kls})
    assert loss.total.item() == pytest.approx(0.1)
    assert grads["token_kls"].tolist() == [[[0.25, 0.25], [0.0, 0.0]]] and not grads["token_logps"].any()


def test_cpl():
    # f = -1 and -1.5: log(1 + e^-.5), and with half the rejected log(1 + e^.25)
    x = one_token([-1.0, -1.5])
    assert get("cpl")(alpha=1.0, lam=1.0).loss(**x).total.item() == pytest.approx(0.474077, abs=1e-6)
    assert get("cpl")(alpha=1.0, lam=0.5).loss(**x).total.item() == pytest.approx(0.825939, abs=1e-6)


def test_cpl_below_one_holds_likelihood_on_the_data():
    higher, lower = (get("cpl")(alpha=1.0, lam=0.5).loss(**one_token([v, v - 0.5])).total for v in (-1.0, -2.0))
    assert lower > higher


def test_cpl_with_gamma_0_looks_at_the_first_token_only():
    x = torch.tensor([[[-1.0, -7.0], [-1.5, -2.0]]], dtype=torch.double)
    loss = get("cpl")(alpha=1.0, lam=1.0, gamma=0.0).loss(token_logps=x, mask=torch.ones(1, 2, 2, dtype=torch.bool))
    assert loss.total.item() == pytest.approx(0.474077, abs=1e-6)


def test_ipo_is_the_squared_distance_from_its_target():
    # beta .1 aims at 5; the gap is .5
    x = against_a_reference([0.3, -0.2])
    assert get("ipo")(beta=0.1).loss(**x).total.item() == pytest.approx((0.5 - 5) ** 2)
    turned = x | {"label": torch.zeros(1).double()}
    assert get("ipo")(beta=0.1).loss(**turned).total.item() == pytest.approx((0.5 + 5) ** 2)


def test_simpo():
    # beta 2: rewards -2 and -3, gamma .5: log(1 + e^-.5)
    loss = get("simpo")(beta=2.0, gamma=0.5).loss(**one_token([-1.0, -1.5]))
    assert loss.total.item() == pytest.approx(math.log(1 + math.exp(-0.5)))


def test_orpo():
    # probabilities 1/2 and 1/5: odds 1 and 1/4, ratio 4, sigmoid(log 4) = 4/5
    loss = get("orpo")(beta=0.3).loss(**one_token([math.log(0.5), math.log(0.2)]))
    assert loss.total.item() == pytest.approx(math.log(2) - 0.3 * math.log(0.8))


@pytest.mark.parametrize("mark", [0.0, 1.0])
def test_kto(mark):
    # beta .1, log-ratio 3, baseline 1: sigmoid(.2) = .549834
    x = against_a_reference([3.0]) | {"batch_kl": torch.ones(1).double(), "ratings": marks(mark)}
    loss = get("kto")(good_weight=1.0, bad_weight=2.0).loss(**x).total.item()
    assert loss == pytest.approx({1.0: 1 - 0.549834, 0.0: 2 * 0.549834}[mark], abs=1e-6)


@pytest.mark.parametrize(("form", "loss"), [("sigmoid_norm", 0.598139), ("hinge_norm", 0.8), ("hinge", 0.7)])
def test_rso(form, loss):
    # log pi -12 and -15, reference -13 and -14: gaps of 2 with the reference and 3 without, gamma .1
    x = one_token([-12.0, -15.0], ref_token_logps=torch.tensor([[[-13.0], [-14.0]]]).double())
    assert get("rso")(gamma=0.1, form=form).loss(**x).total.item() == pytest.approx(loss, abs=1e-6)

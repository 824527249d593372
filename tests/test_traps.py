"""Each wrong method of traps.py is caught, and a right one would not be."""

import inspect
import math

import pytest

from sparring.core import registry
from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.core.registry import knob
from tests import laws, oracles
from tests.test_methods import each_token, plain
from tests.traps import BKT, MASK, TRAPS, pair_loss


def broken(cls):
    """The laws that a trap breaks."""
    out = []
    for law in laws.LAWS:
        try:
            law(cls())
        except Exception:
            out.append(law.__name__[4:])
    return out


def keeps_to(oracle, cls):
    """Whether a trap agrees with an oracle of the method that it means to be."""
    method = cls()
    if oracle.endswith("_credit"):
        x = laws.signals(cls, names=laws.asked(cls.credit))
        batch = {n: [plain(v, x["mask"], b) for b in range(4)] for n, v in x.items() if n != "mask"}
        zeros = [[[0.0] * len(v) for v in row] for row in [plain(x["mask"], x["mask"], b) for b in range(4)]]
        batch |= {"old_token_logps": zeros, "ref_token_logps": zeros}
        named = inspect.signature(getattr(oracles, oracle)).parameters
        want = getattr(oracles, oracle)(method, **{n: v for n, v in batch.items() if n in named})
        got = method.credit(**x)
        return all(v[x["mask"]].tolist() == pytest.approx(each_token(want[n], x["mask"])) for n, v in got.items())
    x = laws.signals(cls, seed=1)
    prompt = {n: plain(v, x["mask"], 0) for n, v in x.items() if n != "mask"}
    if oracle == "ppo":
        prompt |= dict.fromkeys(("values", "old_values", "returns"), prompt["advantages"])
    total, weight = getattr(oracles, oracle)(method, **prompt)
    loss = method.loss(**x)
    return math.isclose(loss.total[0], total, rel_tol=1e-9) and loss.weight[0] == weight


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_caught(name):
    cls, law, oracle = TRAPS[name]
    caught = broken(cls)
    if law is not None:
        assert law in caught
    else:
        assert caught == [], "it keeps every law, or it should name the one it breaks"
        assert not keeps_to(oracle, cls)


def test_the_right_method_would_not_be_caught():
    class Right:
        beta: float = knob(0.1, "a knob of a trap")
        label_smoothing = 0.0

        def loss(self, token_logps: BKT, ref_token_logps: BKT, mask: MASK) -> Loss:
            return pair_loss(self.beta * masked_sum(token_logps - ref_token_logps, mask))

    registry.method("trap_right", data="preference")(Right)
    right = registry.METHODS.pop("trap_right")
    assert broken(right) == [] and keeps_to("dpo", right)

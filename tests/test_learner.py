"""What the policy learns from a round, where a critic with an adapter of its own reads every token once more."""

import weakref

import pytest
import torch

from sparring.core.loss import Loss
from sparring.core.masked import masked_sum
from sparring.loops.learner import Learner
from sparring.loops.settings import OnlineSettings, RewardSettings
from sparring.methods.ppo import PPO
from sparring.methods.reinforce_value import ReinforceValue
from sparring.models.machine import Machine
from sparring.models.roles import Networks, new_critic, new_policy
from sparring.models.signals import compute
from sparring.models.update import Updater
from tests import nets

BATCH = nets.random_batch(3, B=3, K=2)


class Entangled:
    """The policy's gradient depends on the values of now, as in no equation of ours."""

    def loss(self, token_logps, values, returns, mask):
        off = (returns - values).where(mask, 0.0)
        return Loss(masked_sum(off**2 - off * token_logps, mask).sum(-1), mask.sum((-1, -2)).float())


@pytest.fixture
def learner():
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    trunk.lm.requires_grad_(False)
    policy = new_policy(trunk, 0)
    critic = new_critic(policy, 1)
    g = torch.Generator().manual_seed(2)
    weights = {f"policy.{n}": p for n, p in policy.trainable().items()}
    weights |= {f"critic.{n}": p for n, p in critic.trainable().items()}
    for p in weights.values():
        p.data.add_(0.3 * torch.randn(p.shape, generator=g))
    machine = Machine("cpu", "fp32")
    return Learner(
        method=PPO(), networks=Networks(policy=policy, critic=critic), machine=machine,
        updater=Updater(weights, machine, lr=1e-3, total=1),
        settings=OnlineSettings(), reward=RewardSettings(), micro_tokens=8192,
    )  # fmt: skip


def round_of(networks):
    """What is fixed in a round whose policy and critic have moved since."""
    g = torch.Generator().manual_seed(4)
    drawn = {n: torch.randn(BATCH.mask.shape, generator=g) for n in ("advantages", "returns")}
    with torch.no_grad():
        now = compute(["token_logps", "values"], BATCH, networks)
        moved = {n: x + 0.3 * torch.randn(x.shape, generator=g) for n, x in now.items()}
    return drawn | {"mask": BATCH.mask, "old_token_logps": moved["token_logps"], "old_values": moved["values"]}


def gradients(learner):
    found = {n: p.grad for n, p in learner.updater.weights.items()}
    for p in learner.updater.weights.values():
        p.grad = None
    return found


def at_once(learner, fixed):
    """The gradient of the loss in one graph of both networks."""
    learner._learn(BATCH, fixed)
    return gradients(learner)


@pytest.mark.parametrize("method", [PPO(), PPO(value_weight=0.7, clip=0.05), ReinforceValue(), Entangled()])
def test_two_graphs_in_turns_give_the_gradient_and_the_loss_of_both_at_once(learner, method):
    object.__setattr__(learner, "method", method)
    fixed = round_of(learner.networks)
    wanted = at_once(learner, fixed)
    learner._learn_in_turns(BATCH, fixed)
    for name, mine in gradients(learner).items():
        assert float(wanted[name].abs().max()) > 0
        assert torch.allclose(mine, wanted[name], rtol=1e-4, atol=1e-5), name
    first, second = learner.updater._counted
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)


def test_an_equation_that_keeps_policy_and_values_apart_costs_no_third_pass(learner, monkeypatch):
    passes, states = [], type(learner.networks.policy).states
    monkeypatch.setattr(
        type(learner.networks.policy), "states", lambda self, *a: passes.append(self.adapter) or states(self, *a)
    )
    learner._learn_in_turns(BATCH, round_of(learner.networks))
    assert passes[-2:] == ["default", "critic"] and len(passes) == 4  # the first two made the round


class Kept:
    """Something that autograd keeps for the way back."""

    def __init__(self, x):
        self.x = x


def most_kept(act):
    """The most bytes of states that were kept at once."""
    alive, most = weakref.WeakSet(), [0]

    def keep(x):
        alive.add(kept := Kept(x.detach()))
        most[0] = max(most[0], sum(k.x.nbytes for k in alive))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.x):
        act()
    return most[0]


def test_the_graph_of_the_policy_is_gone_before_that_of_the_critic_is_made(learner):
    fixed = round_of(learner.networks)
    both = most_kept(lambda: learner._learn(BATCH, fixed))
    in_turns = most_kept(lambda: learner._learn_in_turns(BATCH, fixed))
    assert in_turns < 0.6 * both

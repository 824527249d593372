"""A linear map and its adapter in one step, against peft's own way of computing them."""

from types import MethodType

import peft
import pytest
import torch

from sparring.models import lora
from sparring.models.roles import Network, Networks, new_policy
from sparring.models.signals import compute
from tests import nets

BATCH = nets.random_batch(3, B=3, K=2)


def policy_of(name):
    trunk = nets.trunk(name, adapter="lora", rank=2)
    trunk.lm.requires_grad_(False)
    policy = new_policy(trunk, 0)
    g = torch.Generator().manual_seed(1)
    for p in policy.trainable().values():
        p.data.add_(0.3 * torch.randn(p.shape, generator=g))
    return policy


def layers(policy):
    return [m for m in policy.trunk.peft.modules() if type(m) is peft.tuners.lora.Linear]


def results(policy, *, half=False, low=torch.bfloat16):
    """Log-probabilities, and the gradient of their squares in every weight that is trained."""
    with torch.autocast("cpu", dtype=low, enabled=half):
        found = compute(["token_logps"], BATCH, Networks(policy=policy))["token_logps"]
    weights = [p for p in policy.trainable().values() if p.requires_grad]
    return [found.detach(), *torch.autograd.grad(found.square().sum(), weights)]


def in_pefts_way(policy):
    for layer in layers(policy):
        layer.forward = MethodType(type(layer).forward, layer)
    return policy


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_one_step_gives_pefts_results_and_gradients(name):
    mine, theirs = results(policy_of(name)), results(in_pefts_way(policy_of(name)))
    for a, b in zip(mine, theirs, strict=True):
        assert float(b.abs().max()) > 0
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_in_sixteen_bits_one_step_is_no_further_from_the_truth_than_peft(name):
    exact = results(policy_of(name))
    mine, theirs = results(policy_of(name), half=True), results(in_pefts_way(policy_of(name)), half=True)

    def off(found):
        return float(sum((a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)))

    assert 0 < off(mine) < 1.2 * off(theirs)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_frozen_weights_that_train_after_all_get_pefts_gradient(name):
    found = []
    for policy in (policy_of(name), in_pefts_way(policy_of(name))):
        policy.trunk.lm.requires_grad_(True)
        total = compute(["token_logps"], BATCH, Networks(policy=policy))["token_logps"].square().sum()
        total.backward()
        found.append([p.grad for layer in layers(policy) for p in layer.get_base_layer().parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_no_copy_of_the_model_waits_for_the_way_back():
    policy = policy_of("llama")
    shapes = {layer.get_base_layer().weight.shape for layer in layers(policy)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        results(policy, half=True)
    assert kept and not any(x.dtype == torch.bfloat16 and x.shape in shapes for x in kept)


def test_an_adapter_of_another_kind_is_left_to_peft():
    policy = policy_of("llama")
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True)
    policy.trunk.peft.add_adapter("dora", config)
    lora.hasten(layers(policy))
    dora = Network(trunk=policy.trunk, adapter="dora")
    g = torch.Generator().manual_seed(1)
    for p in dora.trainable().values():
        p.data.add_(0.3 * torch.randn(p.shape, generator=g))
    with policy.trunk.using("dora"):
        x = torch.randn(5, nets.D, generator=g)
        layer = layers(policy)[0]
        assert torch.equal(layer(x), type(layer).forward(layer, x))
        assert not torch.allclose(layer(x), layer.get_base_layer()(x), atol=1e-3)

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparring.core.errors import SettingError
from sparring.data.batch import Row, collate
from sparring.models import logprobs
from sparring.models.allowed import pack, unpack
from sparring.models.logprobs import token_logps
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from tests import nets


def plain(hidden, weight, bias, targets, temperature):
    logits = (hidden.float() @ weight.float().T + (0 if bias is None else bias.float())) / temperature
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("N", [1, 16, 17, 33, 64])
def test_chunks_give_the_values_and_gradients_of_a_plain_log_softmax(N, has_bias, temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_NUMBERS", 16 * 50)  # 16 tokens a chunk
    g = torch.Generator().manual_seed(N)
    hidden, weight = torch.randn(N, 8, generator=g), torch.randn(50, 8, generator=g)
    bias = torch.randn(50, generator=g) if has_bias else None
    targets, pull = torch.randint(0, 50, (N,), generator=g), torch.randn(N, generator=g)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias) if x is not None]
    mine = token_logps(hidden, weight, bias, targets, temperature=temperature)
    theirs = plain(hidden, weight, bias, targets, temperature)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad((mine * pull).sum(), leaves),
        torch.autograd.grad((theirs * pull).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_in_chunks_have_the_values_and_gradients_of_plain_ones(temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_NUMBERS", 16 * 50)
    g = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*size, generator=g).requires_grad_() for size in ((33, 8), (50, 8), (50,))]
    mine = logprobs.entropies(*leaves, temperature=temperature)
    theirs = torch.distributions.Categorical(logits=(leaves[0] @ leaves[1].T + leaves[2]) / temperature).entropy()
    pull = torch.randn(33, generator=g)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(*(torch.autograd.grad((x * pull).sum(), leaves) for x in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_the_entropy_of_equally_likely_tokens_is_the_log_of_their_number():
    assert logprobs.entropies(torch.zeros(1, 8), torch.randn(32, 8), None).item() == pytest.approx(3.4657359)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_divergences_in_chunks_are_those_of_plain_floats_and_only_the_policy_has_a_gradient(temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_NUMBERS", 16 * 5)  # 33 tokens of a vocabulary of 5 in three chunks
    g = torch.Generator().manual_seed(0)
    sizes = ((33, 8), (5, 8), (5,), (33, 6), (5, 6), (5,))  # the reference may have another width
    leaves = [torch.randn(*size, generator=g).requires_grad_() for size in sizes]
    mine = logprobs.divergences(*leaves, temperature=temperature)
    logits = [((h @ w.T + b) / temperature) for h, w, b in (leaves[:3], leaves[3:])]
    for n in range(33):
        p, q = ([math.exp(x) for x in row[n].tolist()] for row in logits)
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        assert mine[n].item() == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-5)
    pull = torch.randn(33, generator=g)
    theirs = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in logits))
    found = torch.autograd.grad((mine * pull).sum(), leaves, allow_unused=True)
    assert found[3:] == (None, None, None)
    for a, b in zip(found[:3], torch.autograd.grad((theirs * pull).sum(), leaves[:3]), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("N", [1, 33])
def test_tokens_outside_their_set_have_no_probability_and_no_gradient(N, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_NUMBERS", 16 * 50)
    g = torch.Generator().manual_seed(N)
    hidden, weight = torch.randn(N, 8, generator=g), torch.randn(50, 8, generator=g)
    allowed = torch.rand(N, 50, generator=g) < 0.4
    allowed[:, 7], allowed[:, 3] = True, False  # 7 is always allowed, 3 never
    targets, pull = torch.full((N,), 7), torch.randn(N, generator=g)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    mine = token_logps(hidden, weight, None, targets, temperature=0.7, allowed=pack(allowed))
    logits = (hidden @ weight.T / 0.7).masked_fill(~allowed, -torch.inf)
    theirs = logits.log_softmax(-1)[:, 7]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    got, want = (torch.autograd.grad((x * pull).sum(), leaves) for x in (mine, theirs))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    assert not got[1][3].any() and got[1][7].any()
    outside = token_logps(hidden, weight, None, torch.full((N,), 3), allowed=pack(allowed))
    assert not outside.exp().any()


def test_a_set_of_all_tokens_changes_no_bit():
    hidden, weight = torch.randn(5, 8), torch.randn(50, 8)
    everything = pack(torch.ones(5, 50, dtype=torch.bool))
    plainly, asked = (token_logps(hidden, weight, None, torch.arange(5), allowed=a) for a in (None, everything))
    assert torch.equal(plainly, asked)


@pytest.mark.parametrize("V", [1, 8, 13, 101])
def test_a_set_comes_out_of_its_bits_as_it_went_in(V):
    members = torch.rand(6, V, generator=torch.Generator().manual_seed(V)) < 0.5
    assert pack(members).shape == (6, -(-V // 8)) and torch.equal(unpack(pack(members), V), members)


def test_only_the_gradients_that_are_wanted_are_computed():
    hidden, weight = torch.randn(5, 8), torch.randn(20, 8, requires_grad=True)
    token_logps(hidden, weight, None, torch.arange(5)).sum().backward()
    assert hidden.grad is None and weight.grad is not None


def test_large_logits_neither_overflow_nor_vanish():
    hidden, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0], [1.0]])
    found = token_logps(hidden, weight, None, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([-0.6931472, -20000.6931472]))


def test_sixteen_bits_in_the_body_give_sixteen_bit_products_in_both_directions():
    hidden, weight = torch.randn(40, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(0, 50, (40,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = token_logps(hidden, weight, None, targets)
    # The gradient must be that of the very numbers of the forward pass: softmax rows of 16-bit logits.
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    slope = torch.nn.functional.one_hot(targets, 50) - logits.softmax(-1)
    torch.testing.assert_close(mine, logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
    got = torch.autograd.grad(mine.sum(), (hidden, weight))
    torch.testing.assert_close(got[0], (slope.bfloat16() @ weight.bfloat16()).float(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(got[1], (slope.bfloat16().T @ hidden.bfloat16()).float(), atol=5e-2, rtol=2e-2)


class Largest(TorchDispatchMode):
    """The largest result of any operation."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def test_the_logits_of_all_tokens_never_exist_forward_or_backward(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_NUMBERS", 16 * nets.V)
    trunk = nets.trunk("llama", tied=False)
    rows = [Row(prompt=(5, 6), responses=((7,) * 30, (8,) * 30)) for _ in range(4)]  # 240 response tokens
    networks = Networks(policy=Network(trunk=trunk), reference=Network(trunk=trunk.frozen_copy()))
    with Largest() as seen:
        found = compute(["token_logps", "ref_token_logps", "token_kls"], collate(rows), networks)
        (found["token_logps"] - found["ref_token_logps"] + found["token_kls"]).sum().backward()
    assert seen.numbers < 0.6 * 240 * nets.V  # the largest are now activations of the body: 4 rows of 62 tokens


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize(("name", "tied"), [("gpt2", True), ("llama", False), ("neox", False)])
def test_token_logps_of_a_batch_are_those_of_the_plain_model(name, tied, temperature):
    trunk = nets.trunk(name, tied=tied)
    rows = nets.random_rows(2, B=3, K=3)
    batch = collate(rows)
    found = compute(["token_logps"], batch, Networks(policy=Network(trunk=trunk), temperature=temperature))[
        "token_logps"
    ]
    for b, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            logits = trunk.lm(input_ids=torch.tensor([row.prompt + response])).logits[0, len(row.prompt) - 1 : -1]
            wanted = (logits / temperature).log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
            torch.testing.assert_close(found[b, k, : len(response)], wanted, atol=1e-5, rtol=1e-5)
    assert not bool(found[~batch.mask].any())


def test_token_kls_of_a_batch_are_those_of_two_plain_models():
    trunk, start = nets.trunk("llama", seed=0), nets.trunk("llama", seed=1)
    rows = nets.random_rows(2, B=3, K=2)
    batch = collate(rows)
    networks = Networks(policy=Network(trunk=trunk), reference=Network(trunk=start), temperature=0.8)
    found = compute(["token_kls"], batch, networks)["token_kls"]
    for b, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            ids = torch.tensor([row.prompt + response])
            p, q = (
                (t.lm(input_ids=ids).logits[0, len(row.prompt) - 1 : -1] / 0.8).log_softmax(-1) for t in (trunk, start)
            )
            torch.testing.assert_close(found[b, k, : len(response)], (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=1e-5)
    assert not bool(found[~batch.mask].any())


@pytest.mark.parametrize(("name", "figure"), [("entropies", "entropy"), ("token_kls", "KL")])
def test_a_figure_over_the_whole_vocabulary_needs_a_linear_head(name, figure):
    network = Network(trunk=nets.trunk("gemma2"))
    with pytest.raises(SettingError, match=f"the {figure} of this model's tokens"):
        compute([name], nets.random_batch(0, B=1, K=1), Networks(policy=network, reference=network))

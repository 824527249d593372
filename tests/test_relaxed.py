"""Tokens that a gradient passes through: the pure functions, the unrolling, and what the judge reads."""

import math

import pytest
import torch

from sparring.core.errors import ModelError
from sparring.core.relaxation import gumbel, noise_given, relax
from sparring.data.batch import Row, collate
from sparring.models.forward import embed
from sparring.models.roles import Network, frozen_start, new_policy, new_ratio, new_reference, new_scorer
from sparring.models.signals import log_probabilities, score
from sparring.rollout.relaxed import Relaxation
from tests.nets import EOS, V, random_batch, trunk

LOGITS = torch.tensor([1.0, 0.0, -1.0]).double()
PROBS = [0.66524096, 0.24472847, 0.09003057]  # e, 1, 1/e over their sum


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def shares(tokens):
    return (torch.bincount(tokens, minlength=3) / len(tokens)).tolist()


def test_the_largest_sum_of_logit_and_noise_is_a_draw_from_the_softmax():
    drawn = (LOGITS + gumbel(uniform(400_000, 3))).argmax(-1)
    assert shares(drawn) == pytest.approx(PROBS, abs=0.003)  # four standard errors


def test_noise_drawn_for_a_token_makes_it_win_and_is_gumbel_noise_over_tokens_of_the_softmax():
    tokens = torch.multinomial(LOGITS.softmax(-1), 200_000, True, generator=torch.Generator().manual_seed(1))
    noise = noise_given(LOGITS.expand(len(tokens), 3), tokens, uniform(len(tokens), 3, seed=2))
    assert torch.equal((LOGITS + noise).argmax(-1), tokens)
    # Mean Euler's constant, variance pi^2 / 6, in each place, and independent of each other.
    assert noise.mean(0).tolist() == pytest.approx([0.577216] * 3, abs=0.015)
    assert noise.var(0).tolist() == pytest.approx([math.pi**2 / 6] * 3, abs=0.04)
    assert torch.corrcoef(noise.T)[0, 1:].tolist() == pytest.approx([0, 0], abs=0.01)


def test_noise_is_finite_for_all_uniform_numbers_of_32_bits():
    edge = torch.tensor([0.0, 1 - 2**-24, 0.5])
    assert gumbel(edge).isfinite().all()
    assert noise_given(torch.tensor([[0.0, -1e30, 3.0]]), torch.tensor([2]), edge[None]).isfinite().all()


@pytest.mark.parametrize("is_soft", [True, False])
def test_the_gradient_is_the_papers(is_soft):
    # soft = softmax((1.1, .2, -1.3) / .5); (diag(soft) - soft soft^T) c / tau
    z = [2.2, 0.4, -2.6]
    total = sum(math.exp(x) for x in z)
    soft, c = [math.exp(x) / total for x in z], [1.0, 2.0, 3.0]
    mean = sum(s * k for s, k in zip(soft, c, strict=True))
    want = [s * (k - mean) / 0.5 for s, k in zip(soft, c, strict=True)]
    assert want == pytest.approx([-0.2640, 0.2381, 0.0259], abs=5e-5)
    logits = LOGITS.clone().requires_grad_()
    noise = torch.tensor([0.1, 0.2, -0.3]).double()
    y = relax(logits, noise, 0.5, tokens=None if is_soft else torch.tensor(0))
    assert y.tolist() == (pytest.approx(soft) if is_soft else [1.0, 0.0, 0.0])
    (y * torch.tensor(c)).sum().backward()
    assert logits.grad.tolist() == pytest.approx(want, abs=1e-9)


def test_a_cold_relaxation_is_a_token_and_a_hot_one_is_all_of_them():
    noise = gumbel(uniform(3, seed=3))
    cold, hot = relax(LOGITS, noise, 1e-3), relax(LOGITS, noise, 1e6)
    assert cold.max().item() == pytest.approx(1.0) and cold.argmax() == (LOGITS + noise).argmax()
    assert hot.tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)


@pytest.mark.parametrize(("tau", "inflation"), [(0.2, 1.069), (0.5, 1.571)])
def test_where_the_policy_is_nearly_sure_the_mean_gradient_is_too_large_by_a_known_factor(tau, inflation):
    # Two tokens: the difference of their noises is logistic. With d the difference of the logits, the mean slope is the
    # logistic density convolved with itself at tau times its width; for large d it is pi tau / sin(pi tau) e^-d.
    assert math.pi * tau / math.sin(math.pi * tau) == pytest.approx(inflation, abs=1e-3)
    logits = torch.tensor([9.0, 0.0]).double().requires_grad_()
    middle = torch.linspace(-60, 40, 100_001).double()
    weight = torch.sigmoid(middle) * torch.sigmoid(-middle) * 1e-3
    noise = torch.stack([middle, torch.zeros_like(middle)], -1)
    (relax(logits.expand(len(middle), 2), noise, tau)[:, 0] * weight).sum().backward()
    true = math.exp(-9) / (1 + math.exp(-9)) ** 2
    assert logits.grad[0].item() / true == pytest.approx(inflation, rel=0.02)


def test_an_exact_token_is_looked_up_bit_for_bit():
    model = trunk("llama")
    logits, tokens = torch.randn(50, V), torch.randint(0, V, (50,))
    y = relax(logits, gumbel(torch.rand(50, V)), 0.7, tokens=tokens)
    assert torch.equal(embed(model, y), model.lm.get_input_embeddings()(tokens))


def answers():
    """Prompts of several lengths with two responses, some of which end themselves, and one that is missing."""
    rows = [
        Row(prompt=(3, 4, 5), responses=((6, 7, 8, EOS), (9, 10))),
        Row(prompt=(11,), responses=((12, EOS), (13, 14, 15, 16, 17))),
    ]
    return collate(rows)


def relaxation(model, **more):
    policy = Network(trunk=model)
    return Relaxation(**{"policy": policy, "tau": 0.7, "is_soft": False, "temperature": 1.0, "seed": 0} | more)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_straight_through_the_policy_thinks_what_it_thinks_of_the_tokens(name):
    model, batch = trunk(name), answers()
    relaxed, logps = relaxation(model, temperature=1.3).unroll(batch)
    with torch.no_grad():
        want = log_probabilities(Network(trunk=model), batch, 1.3)
    assert torch.equal(relaxed.argmax(-1), batch.response_ids[batch.mask])
    assert relaxed.max(-1).values.tolist() == [1.0] * len(relaxed) and relaxed.sum(-1).tolist() == [1.0] * len(relaxed)
    assert torch.allclose(logps, want, atol=1e-4)


def test_a_judge_reads_straight_through_tokens_as_it_reads_text():
    model, batch = trunk("llama"), answers()
    judge = new_scorer(model, "judge", 0)
    relaxed, _ = relaxation(model).unroll(batch)
    assert torch.equal(score(judge, batch, relaxed), score(judge, batch))


def test_the_gradient_of_the_unrolling_is_that_of_a_loop_which_reads_everything_anew():
    model, batch = trunk("llama"), collate([Row(prompt=(3, 4), responses=((6, 7, 8, EOS),))])
    work = relaxation(model, is_soft=True)
    c = torch.randn(4, V, generator=torch.Generator().manual_seed(0))
    (work.unroll(batch)[0] * c).sum().backward()
    got = {n: p.grad.clone() for n, p in model.lm.named_parameters()}
    model.lm.zero_grad()
    table, u = model.embedding, work._uniform(batch)[0]
    read, out = table[torch.tensor([3, 4])][None], []
    for t, token in enumerate((6, 7, 8)):
        logits = model.lm(inputs_embeds=read).logits[0, -1].clone()
        logits[EOS] = -1e30
        y = relax(logits, noise_given(logits.detach(), torch.tensor(token), u[t]), 0.7)
        out.append(y)
        read = torch.cat([read, (y @ table)[None, None]], 1)
    (torch.stack(out) * c[:3]).sum().backward()
    for n, p in model.lm.named_parameters():
        assert torch.allclose(got[n], p.grad, atol=1e-4, rtol=1e-3), n


def test_an_end_of_text_is_never_mixed_with_anything_and_has_no_gradient():
    model, batch = trunk("llama"), answers()
    relaxed, _ = relaxation(model, is_soft=True).unroll(batch)
    ends = batch.response_ids[batch.mask] == EOS
    assert ends.sum() == 2 and not relaxed[~ends][:, EOS].any()
    assert relaxed[ends, EOS].tolist() == [1.0, 1.0]
    only, _ = relaxation(model).unroll(collate([Row(prompt=(3, 4), responses=((EOS,),))]))
    (only * torch.randn(V)).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.lm.parameters())


def test_text_is_relaxed_as_the_policys_own_responses_are():
    # Fed with exact tokens and not with soft ones, so the same only where the first token is concerned.
    model, batch = trunk("llama"), collate([Row(prompt=p, responses=((6,),)) for p in ((3, 4), (5,))])
    soft = relaxation(model, is_soft=True)
    assert torch.allclose(soft.of_text(batch), soft.unroll(batch)[0], atol=1e-5)


def test_what_a_text_is_read_beside_does_not_change_how_it_is_relaxed():
    model, beside = trunk("llama"), collate([Row(prompt=(3, 4), responses=((6, 8), (7, 5, 9)))])
    soft, alone = relaxation(model, is_soft=True), collate([Row(prompt=(3, 4), responses=((7, 5, 9),))])
    assert torch.allclose(soft.of_text(beside)[2:], soft.of_text(alone), atol=1e-5)
    twice = collate([Row(prompt=(3, 4), responses=((7, 5), (7, 5)))])
    first, second = soft.unroll(twice)[0].chunk(2)
    assert not torch.allclose(first, second), "what the policy says twice is drawn twice"


def test_what_is_drawn_does_not_depend_on_batch_mates():
    model, batch = trunk("llama"), answers()
    soft = relaxation(model, is_soft=True)
    whole, parts = soft.unroll(batch)[0], [soft.unroll(batch.rows(b, b + 1))[0] for b in range(2)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("reads", ["last", "ratio"])
def test_a_gradient_passes_through_a_judge_that_stands_still_and_the_other_way_round(adapter, reads):
    model = trunk("llama", adapter=adapter, rank=2)
    policy = new_policy(model, 0)
    if reads == "ratio":
        judge = new_ratio(model, "judge", 1, frozen_start(model), length=4.0)
        for p in judge.trainable().values():  # it is what it is held against, and finds nothing likelier
            p.data.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    else:
        judge = new_scorer(model, "judge", 1)
    work, batch = relaxation(model, policy=policy), answers()
    relaxed, _ = work.unroll(batch)
    with judge.standing_still():
        loss = -score(judge, batch, relaxed).sum()
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in judge.trainable().values())
    assert any(p.grad is not None and p.grad.any() for p in policy.trainable().values())
    for p in policy.trainable().values():
        p.grad = None
    score(judge, batch).sum().backward()
    assert all(p.grad is None for p in policy.trainable().values())
    assert any(p.grad is not None for p in judge.trainable().values())


def test_the_reference_at_the_start_is_at_no_distance_from_the_policy_even_along_soft_tokens():
    model, batch = trunk("llama"), answers()
    relaxed, logps = relaxation(model, is_soft=True).unroll(batch)
    ref = log_probabilities(new_reference(Network(trunk=model)), batch, 1.0, relaxed)
    assert torch.allclose(ref, logps, atol=1e-4)


@pytest.mark.parametrize("name", ["bloom", "gemma2"])
def test_a_model_that_cannot_be_fed_mixtures_is_refused_by_name(name):
    with pytest.raises(ModelError, match=r"cannot be fed mixtures of tokens here.*take rlgaf"):
        relaxation(trunk(name)).unroll(random_batch(0, B=2, K=2))

from dataclasses import replace
from itertools import chain

import pytest
import torch
from scipy.stats import chisquare

from sparring.core.errors import ModelError, SettingError
from sparring.data.batch import Row, collate
from sparring.models.allowed import unpack
from sparring.models.cache import Past
from sparring.models.decode import Decoder, past_of
from sparring.models.roles import Network, Networks, new_masker, new_policy
from sparring.models.signals import compute
from sparring.rollout import nucleus
from sparring.rollout import sample as sampler
from sparring.rollout.sample import Sampling, Stop, draw, end_tokens, sample
from tests import nets

PROMPTS = [(5,), (9, 8, 7, 6, 5), (20, 21), (33, 34, 35), (1, 0, 1)]


def texts(rollout):
    """The responses as lists of ids, prompt by prompt."""
    ids, mask = rollout.batch.response_ids, rollout.batch.mask
    return [[ids[b, k][mask[b, k]].tolist() for k in range(ids.shape[1])] for b in range(len(ids))]


def restless(name="llama", **more):
    """A network whose responses end now and then, since every sixth token ends a text."""
    trunk = nets.trunk(name, **more)
    trunk.lm.generation_config.eos_token_id = list(range(1, nets.V, 6))
    return Network(trunk=trunk)


@torch.no_grad()
def next_distribution(policy, ids, temperature=1.0):
    logits = policy.trunk.lm(input_ids=torch.tensor([ids])).logits[0, -1]
    return (logits / temperature).softmax(-1)


@pytest.mark.parametrize(
    ("name", "past"),
    [
        ("gpt2", Past.PADDED),
        ("llama", Past.PADDED),
        ("neox", Past.PADDED),
        ("gemma2", Past.PADDED),
        ("bloom", Past.PLAIN),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_log_probabilities_are_those_of_the_forward_pass(name, past, temperature):
    policy = Network(trunk=nets.trunk(name, tied=name != "neox"))
    rollout = sample(policy, PROMPTS, 3, Sampling(max_tokens=8, temperature=temperature), seed=1)
    assert policy.trunk.past is past
    networks = Networks(policy=policy, temperature=temperature)
    again = compute(["token_logps"], rollout.batch, networks)["token_logps"]
    mask = rollout.batch.mask
    torch.testing.assert_close(rollout.token_logps[mask], again[mask].detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(rollout.token_logps, rollout.sampled_logps)  # nothing was cut off
    for b, k in ((0, 0), (1, 2)):
        ids = list(PROMPTS[b])
        for t, token in enumerate(texts(rollout)[b][k]):
            p = next_distribution(policy, ids, temperature)
            assert abs(float(rollout.entropy[b, k, t]) + float((p * p.log()).sum())) < 1e-3
            ids.append(token)


def test_eager_attention_samples_the_same():
    one, two = (Network(trunk=nets.trunk("llama", attention=a)) for a in ("sdpa", "eager"))
    how = Sampling(max_tokens=6)
    assert texts(sample(one, PROMPTS, 2, how, seed=0)) == texts(sample(two, PROMPTS, 2, how, seed=0))


@pytest.mark.parametrize("past", [Past.PADDED, Past.PLAIN, Past.NONE])
def test_every_way_of_going_on_gives_the_same_responses(past):
    policy = restless()
    how = Sampling(max_tokens=10)
    wanted = sample(policy, PROMPTS, 4, how, seed=3)
    assert Stop.EOS in wanted.stops[0] + wanted.stops[1]
    policy.trunk.past = past
    found = sample(policy, PROMPTS, 4, how, seed=3)
    assert texts(found) == texts(wanted) and found.stops == wanted.stops
    torch.testing.assert_close(found.token_logps, wanted.token_logps, atol=1e-4, rtol=1e-4)


def test_a_sliding_window_narrower_than_the_text_is_respected():
    policy = Network(trunk=nets.trunk("mistral"))
    assert past_of(policy.trunk, 20) is not Past.PADDED
    rollout = sample(policy, PROMPTS, 2, Sampling(max_tokens=8), seed=0)
    again = compute(["token_logps"], rollout.batch, Networks(policy=policy))["token_logps"]
    torch.testing.assert_close(rollout.token_logps, again.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_what_a_prompt_gets_depends_on_seed_and_key_and_not_on_its_batch_mates(name, monkeypatch):
    policy = restless(name)
    how = Sampling(max_tokens=12)
    together = texts(sample(policy, PROMPTS, 4, how, seed=7, keys=["a", "b", "c", "d", "e"]))
    assert len({len(y) for ys in together for y in ys}) > 2  # rows do leave at different times
    for i, key in enumerate("abcde"):
        assert texts(sample(policy, [PROMPTS[i]], 4, how, seed=7, keys=[key])) == [together[i]]
    monkeypatch.setattr(sampler, "ROWS", 8)
    assert texts(sample(policy, PROMPTS, 4, how, seed=7, keys=["a", "b", "c", "d", "e"])) == together
    monkeypatch.setattr(sampler, "CACHE_NUMBERS", 1)
    assert texts(sample(policy, PROMPTS, 4, how, seed=7, keys=["a", "b", "c", "d", "e"])) == together
    assert texts(sample(policy, PROMPTS, 4, how, seed=8, keys=["a", "b", "c", "d", "e"])) != together


def test_a_response_ends_at_the_first_end_token_and_says_why_it_ended():
    policy = restless()
    rollout = sample(policy, PROMPTS, 16, Sampling(max_tokens=9), seed=0)
    seen = set()
    for ids, stop in zip(chain(*texts(rollout)), chain(*rollout.stops), strict=True):
        seen.add(stop)
        assert not set(ids[:-1]) & set(end_tokens(policy))
        assert (ids[-1] in end_tokens(policy)) == (stop is Stop.EOS)
        assert stop is Stop.EOS or len(ids) == 9
    assert seen == {Stop.EOS, Stop.LENGTH}


def test_several_end_tokens_are_those_of_the_tokenizer_and_of_the_model():
    policy = Network(trunk=nets.trunk("llama"))
    assert end_tokens(policy) == [nets.EOS]
    policy.trunk.lm.generation_config.eos_token_id = [7, 3]
    assert end_tokens(policy) == [nets.EOS, 3, 7]
    rollout = sample(policy, PROMPTS[:2], 32, Sampling(max_tokens=20), seed=0)
    ends = {ids[-1] for ids in chain(*texts(rollout)) if len(ids) < 20}
    assert ends == {nets.EOS, 3, 7}


def test_rows_that_ended_cost_nothing_more():
    policy = restless()
    counted = []
    rollout = sample(policy, PROMPTS, 8, Sampling(max_tokens=12), seed=0, tick=counted.append)
    assert sum(counted) == int(rollout.batch.mask.sum())
    assert counted == sorted(counted, reverse=True) and counted[0] == 40 > counted[-1]


def test_a_prompt_is_read_once_for_all_its_responses():
    policy = Network(trunk=nets.trunk("llama"))
    past_of(policy.trunk, 1)
    rows = []
    policy.trunk.body.register_forward_hook(lambda m, a, k, out: rows.append(k["input_ids"].shape), with_kwargs=True)
    sample(policy, PROMPTS[:2], 6, Sampling(max_tokens=3), seed=0)
    assert rows[0] == (2, 5) and set(rows[1:]) == {(12, 1)} and len(rows) == 3  # the last token need not be read


def test_temperature_zero_takes_the_likeliest_token():
    policy = Network(trunk=nets.trunk("gpt2"))
    rollout = sample(policy, PROMPTS, 2, Sampling(max_tokens=5, temperature=0), seed=0)
    for b, prompt in enumerate(PROMPTS):
        for k in range(2):
            ids = list(prompt)
            for t, token in enumerate(texts(rollout)[b][k]):
                p = next_distribution(policy, ids)
                assert token == int(p.argmax())
                assert abs(float(rollout.token_logps[b, k, t]) - float(p.max().log())) < 1e-4
                assert rollout.sampled_logps[b, k, t] == 0
                ids.append(token)


def filtered(p, top_k, top_p):
    """What is left of a distribution by the textbook: the k likeliest, then the fewest that hold the share p."""
    order = p.argsort(descending=True)
    kept = order[: top_k or len(p)]
    share, chosen = 0.0, []
    for i in kept.tolist():
        if share >= top_p * float(p[kept].sum()) - 1e-9:
            break
        chosen.append(i)
        share += float(p[i])
    out = torch.zeros_like(p)
    out[chosen] = p[chosen] / p[chosen].sum()
    return out


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, 1.0), (0, 0.7), (12, 0.8), (0, 0.999), (1, 1.0), (0, 1e-6), (500, 0.5)]
)
def test_cut_distributions_are_sampled_and_recorded_renormalised(top_k, top_p, monkeypatch):
    monkeypatch.setattr(nucleus, "FIRST_LOOK", 4)  # so that more than one look is needed
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 101, generator=g) * 1.5
    p = (logits[0] / 1.3).softmax(-1)
    wanted = filtered(p, top_k, top_p)
    n = 4000
    chosen, figures = draw(
        logits.repeat(n, 1), (torch.arange(n) + 0.5) / n, Sampling(temperature=1.3, top_k=top_k, top_p=top_p)
    )
    counts = torch.bincount(chosen, minlength=101) / n
    assert float((counts - wanted).abs().max()) <= 1.01 / n  # evenly spread numbers meet every share to one part
    torch.testing.assert_close(figures[0], wanted[chosen].log(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(figures[1], p[chosen].log(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(figures[2], -(p * p.log()).sum().expand(n), atol=1e-4, rtol=1e-4)


def test_the_edges_of_the_unit_interval_never_draw_what_has_no_chance():
    logits = torch.tensor([[-200.0, 0.0, -200.0, 1.0, -200.0]]).repeat(2, 1)
    edges = torch.tensor([0.0, 1.0])
    for how in (Sampling(), Sampling(top_k=4), Sampling(top_p=0.99)):
        chosen, figures = draw(logits, edges, how)
        assert set(chosen.tolist()) <= {1, 3} and bool(figures.isfinite().all())


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 0.9)])
def test_first_and_second_tokens_come_as_often_as_their_probabilities_say(top_k, top_p):
    policy = Network(trunk=nets.trunk("llama"))
    n = 3000
    rollout = sample(policy, [(5, 6)], n, Sampling(max_tokens=2, top_k=top_k, top_p=top_p), seed=11)
    found = texts(rollout)[0]
    first = filtered(next_distribution(policy, [5, 6]).detach(), top_k, top_p)
    common = int(torch.bincount(torch.tensor([y[0] for y in found if y[0] != nets.EOS])).argmax())
    after = [y[1] for y in found if y[0] == common]
    second = filtered(next_distribution(policy, [5, 6, common]).detach(), top_k, top_p)
    for drawn, p in (([y[0] for y in found], first), (after, second)):
        counts = torch.bincount(torch.tensor(drawn), minlength=nets.V).double()
        assert float(counts[p == 0].sum()) == 0
        expected = p.double() / p.double().sum() * len(drawn)
        large = expected >= 5
        pooled = [*expected[large].tolist(), float(expected[~large].sum())]
        observed = [*counts[large].tolist(), float(counts[~large].sum())]
        if pooled[-1] == 0:
            pooled, observed = pooled[:-1], observed[:-1]
        assert chisquare(observed, pooled).pvalue > 1e-4


@pytest.mark.parametrize(("share", "least"), [(0.7, 1), (0.3, 6), (0.99, 1)])
def test_a_nucleus_is_the_fewest_tokens_that_hold_the_share(share, least):
    p = (torch.randn(3, 101, generator=torch.Generator().manual_seed(2)) * 2).softmax(-1)
    for row, members in zip(p, nucleus.nucleus(p, share, least), strict=True):
        likeliest = row.argsort(descending=True)
        n = max(least, int((filtered(row, 0, share) > 0).sum()))
        assert set(members.nonzero()[:, 0].tolist()) == set(likeliest[:n].tolist())


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("past", [Past.PADDED, Past.PLAIN])
def test_only_tokens_in_the_nucleus_of_the_masker_are_drawn_and_their_figures_are_the_restricted_ones(
    past, temperature
):
    policy, other = restless(), Network(trunk=nets.trunk("llama", seed=5))
    policy.trunk.past = other.trunk.past = past
    prompts = PROMPTS if past is Past.PADDED else PROMPTS[:1]
    how, masker = Sampling(max_tokens=8, temperature=temperature), nucleus.Masker(network=other, share=0.8)
    rollout = sample(policy, prompts, 4, how, seed=1, masker=masker)
    assert len({len(y) for ys in texts(rollout) for y in ys}) > 1  # rows do leave at different times
    sets = rollout.batch.allowed
    for b, prompt in enumerate(prompts):
        for k in range(4):
            ids = list(prompt)
            for t, token in enumerate(texts(rollout)[b][k]):
                held = filtered(next_distribution(other, ids, temperature).detach(), 0, 0.8) > 0
                assert bool(held[token]) and torch.equal(unpack(sets[b, k, t][None], nets.V)[0], held)
                p = next_distribution(policy, ids, temperature).detach().where(held, 0.0)
                p = p / p.sum()
                assert float(rollout.token_logps[b, k, t]) == pytest.approx(float(p[token].log()), abs=1e-3)
                assert float(rollout.entropy[b, k, t]) == pytest.approx(float(-(p * p.log()).nansum()), abs=1e-3)
                ids.append(token)
    networks = Networks(policy=policy, reference=other, temperature=temperature)
    again = compute(["token_logps", "ref_token_logps"], rollout.batch, networks)
    torch.testing.assert_close(rollout.token_logps, again["token_logps"].detach(), atol=1e-4, rtol=1e-4)
    whole = replace(rollout.batch, allowed=None)
    free = compute(["ref_token_logps"], whole, networks)["ref_token_logps"]
    assert torch.equal(again["ref_token_logps"], free)  # the reference is not restricted


def test_a_masker_that_allows_all_changes_no_bit_of_what_is_sampled():
    policy, other = restless(), Network(trunk=nets.trunk("llama", seed=5))
    how, masker = Sampling(max_tokens=8), nucleus.Masker(network=other, share=0.5, least=nets.V)
    one, two = (sample(policy, PROMPTS, 4, how, seed=1, masker=m) for m in (None, masker))
    assert texts(one) == texts(two) and torch.equal(one.token_logps, two.token_logps)
    assert torch.equal(one.entropy, two.entropy)


def test_a_masker_may_be_another_adapter_on_the_same_trunk():
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    policy = new_policy(trunk, 0)
    other = new_masker(policy, 1)
    for n, p in policy.trainable().items():
        p.data.add_(0.3 if "lora_B" in n else 0.0)
    twin = nets.trunk("llama")  # what the masker is: its adapter changes nothing yet
    how = Sampling(max_tokens=8)
    one = sample(policy, PROMPTS, 2, how, seed=0, masker=nucleus.Masker(network=other, share=0.7))
    two = sample(policy, PROMPTS, 2, how, seed=0, masker=nucleus.Masker(network=Network(trunk=twin), share=0.7))
    assert texts(one) == texts(two) and torch.equal(one.batch.allowed, two.batch.allowed)
    again = compute(["token_logps"], one.batch, Networks(policy=policy))["token_logps"]
    torch.testing.assert_close(one.token_logps, again.detach(), atol=1e-4, rtol=1e-4)


def test_an_adapter_speaks_only_where_it_is_asked_for():
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    plain = sample(Network(trunk=trunk), PROMPTS, 2, Sampling(max_tokens=6), seed=0)
    policy = new_policy(trunk, 0)
    for n, p in policy.trainable().items():
        p.data.add_(0.3 if "lora_B" in n else 0.0)
    tuned = sample(policy, PROMPTS, 2, Sampling(max_tokens=6), seed=0)
    again = sample(Network(trunk=trunk), PROMPTS, 2, Sampling(max_tokens=6), seed=0)
    assert texts(plain) == texts(again) != texts(tuned)
    forward = compute(["token_logps"], tuned.batch, Networks(policy=policy))["token_logps"]
    torch.testing.assert_close(tuned.token_logps, forward.detach(), atol=1e-4, rtol=1e-4)


def test_sixteen_bit_sampling_agrees_with_the_sixteen_bit_forward_pass():
    policy = Network(trunk=nets.trunk("llama"))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rollout = sample(policy, PROMPTS, 4, Sampling(max_tokens=8), seed=0)
        again = compute(["token_logps"], rollout.batch, Networks(policy=policy))["token_logps"]
    apart = (rollout.token_logps - again).abs()[rollout.batch.mask]
    assert float(apart.mean()) < 0.03 and float(apart.max()) < 0.3  # 8 bits of a logit of about 10


def test_a_prompt_without_room_for_an_answer_is_refused():
    policy = Network(trunk=nets.trunk("llama"))
    with pytest.raises(
        ModelError, match=r"90 prompt tokens and 10 new ones exceed its 96\s+positions; lower --max-prompt"
    ):
        sample(policy, [(5,) * 90], 1, Sampling(max_tokens=10), seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_rows_can_leave_in_any_order():
    trunk = nets.trunk("llama")
    prompts = [(5,), (6, 7, 8), (9, 10)]
    for past in (Past.PADDED, Past.NONE):
        used = prompts if past is Past.PADDED else [(5, 6), (7, 8), (9, 10)]
        with torch.no_grad():
            decoder = Decoder(trunk, used, 2, 4, past)
            decoder.advance(torch.tensor([11, 12, 13, 14, 15, 16]))
            order = decoder.keep(torch.tensor([False, True, False, False, True, True]))
            assert sorted(order.tolist()) == [1, 4, 5] and order[1] == 1
            new = torch.tensor([21, 22, 23])
            decoder.advance(new)
            for place, row in enumerate(order.tolist()):
                ids = [*used[row // 2], 11 + row, int(new[place])]
                wanted = trunk.lm(input_ids=torch.tensor([ids])).logits[0, -1]
                torch.testing.assert_close(decoder.logits()[place], wanted, atol=1e-4, rtol=1e-4)


def test_the_batch_of_a_rollout_is_what_a_file_would_give():
    policy = restless()
    rollout = sample(policy, PROMPTS, 3, Sampling(max_tokens=5), seed=0)
    rows = [Row(prompt=p, responses=tuple(map(tuple, ys))) for p, ys in zip(PROMPTS, texts(rollout), strict=True)]
    wanted = collate(rows, pad=nets.PAD)
    assert torch.equal(wanted.response_ids, rollout.batch.response_ids) and torch.equal(wanted.mask, rollout.batch.mask)
    assert torch.equal(wanted.prompt_ids, rollout.batch.prompt_ids)

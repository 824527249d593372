from dataclasses import replace

import pytest
import torch
import transformers

from sparring.core.errors import ModelError
from sparring.data.batch import Batch, Row, collate
from sparring.models.forward import lay_out_dense, lay_out_packed, probe, read, states, window
from sparring.models.heads import scalar_head
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute, score
from sparring.models.trunk import Trunk
from tests import nets

ARCHITECTURES = [("gpt2", True), ("llama", False), ("neox", True), ("neox", False), ("llama", True)]


def alone(trunk, row, k):
    """The hidden states of one prompt and response in a row of their own: no padding, no mask, no siblings."""
    ids = torch.tensor([row.prompt + row.responses[k]])
    return trunk.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]


def truth(trunk, rows):
    before, last = [], []
    for row in rows:
        for k, response in enumerate(row.responses):
            hidden = alone(trunk, row, k)
            before.append(hidden[len(row.prompt) - 1 : -1])
            last.append(hidden[-1])
            assert len(before[-1]) == len(response)
    return torch.cat(before), torch.stack(last)


def gradients(trunk, before, last):
    """The gradient of a fixed random sum of both, in every weight of the body."""
    g = torch.Generator().manual_seed(5)
    total = (before * torch.randn(before.shape, generator=g)).sum() + (
        last * torch.randn(last.shape, generator=g)
    ).sum()
    weights = [p for p in trunk.body.parameters() if p.requires_grad]
    return torch.autograd.grad(total, weights, allow_unused=True)


def same(a, b, tolerance=1e-5):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "tied"), ARCHITECTURES)
def test_packed_tokens_and_dense_rows_give_the_states_and_gradients_of_rows_alone(name, tied, attention):
    trunk = nets.trunk(name, tied=tied, attention=attention)
    assert trunk.shares_prompts and trunk.has_linear_head
    for seed in range(4):
        rows = nets.random_rows(seed, B=1 + seed, K=4 - seed % 4)
        before, last = truth(trunk, rows)
        wanted = gradients(trunk, before, last)
        batch = collate(rows, pad=3)
        for layout in (lay_out_packed(trunk, batch), lay_out_dense(batch)):
            found = read(trunk, layout)
            assert same(found.before, before) and same(found.last, last)
            for mine, theirs in zip(gradients(trunk, found.before, found.last), wanted, strict=True):
                assert (mine is None and theirs is None) or same(mine, theirs)


def test_packed_tokens_are_all_prompts_and_then_all_responses_without_padding():
    rows = [Row(prompt=(7, 8), responses=((2, 3), (4,))), Row(prompt=(9,), responses=((5,), (6, 6, 6)))]
    layout = lay_out_packed(nets.trunk("llama"), collate(rows, pad=7))
    assert layout.ids.tolist() == [[7, 8, 9, 2, 3, 4, 5, 6, 6, 6]]
    assert layout.positions.tolist() == [[0, 1, 0, 2, 3, 2, 1, 1, 2, 3]]
    assert layout.before.tolist() == [1, 3, 1, 2, 2, 7, 8]
    assert layout.own.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert layout.last.tolist() == [4, 5, 6, 9]


def test_dense_rows_hold_one_response_each_and_none_that_is_missing():
    rows = [Row(prompt=(7, 8), responses=((2, 3),)), Row(prompt=(9,), responses=((5,), (6, 6, 6)))]
    layout = lay_out_dense(collate(rows, pad=7))
    assert layout.ids.tolist() == [[7, 8, 2, 3], [9, 5, 0, 0], [9, 6, 6, 6]]
    assert layout.before.tolist() == [1, 2, 4, 8, 9, 10]
    assert layout.own.tolist() == [2, 3, 5, 9, 10, 11]
    assert layout.last.tolist() == [3, 5, 11]
    assert layout.positions is None and layout.rectangles is None


def wider(batch: Batch, extra: int, pad: int) -> Batch:
    """The same batch with more padding on both sides, of another id."""

    def left(x, v):
        return torch.nn.functional.pad(x, (extra, 0), value=v)

    def right(x, v):
        return torch.nn.functional.pad(x, (0, extra), value=v)

    return Batch(
        prompt_ids=left(batch.prompt_ids.where(batch.prompt_mask, pad), pad),
        prompt_mask=left(batch.prompt_mask, False),
        response_ids=right(batch.response_ids.where(batch.mask, pad), pad),
        mask=right(batch.mask, False),
    )


@pytest.mark.parametrize("shares", [True, False])
def test_results_do_not_depend_on_padding_or_its_id_or_batch_mates_or_micro_batches(shares):
    trunk = nets.trunk("llama")
    trunk.shares_prompts = shares
    network = Network(trunk=trunk, head=scalar_head(trunk, 0))
    networks = Networks(policy=network)
    rows = nets.random_rows(3, B=4, K=3)
    batch = collate(rows)
    logps, scores = compute(["token_logps"], batch, networks)["token_logps"], score(network, batch)
    for pad in (0, rows[0].responses[0][-1]):
        more = wider(batch, 5, pad)
        assert same(compute(["token_logps"], more, networks)["token_logps"][..., : logps.shape[-1]], logps)
        assert same(score(network, more), scores)
    for i, row in enumerate(rows):
        single = collate([row])
        found = compute(["token_logps"], single, networks)["token_logps"][0]
        K, T = found.shape
        assert same(found, logps[i, :K, :T]) and same(score(network, single)[0], scores[i, :K])
    halves = [batch.rows(0, 1), batch.rows(1, 4)]
    parts = torch.cat([compute(["token_logps"], half, networks)["token_logps"] for half in halves])
    assert same(parts, logps)


def test_a_score_is_read_after_the_last_token_also_when_the_padding_id_ends_the_text():
    trunk = nets.trunk("gpt2")
    network = Network(trunk=trunk, head=scalar_head(trunk, 0))
    rows = [Row(prompt=(5, 6), responses=((7, nets.EOS), (8, 9, 10, 11))), Row(prompt=(5,), responses=((nets.PAD,),))]
    for pad in (nets.EOS, nets.PAD, 7):
        found = score(network, collate(rows, pad=pad))
        for b, k in ((0, 0), (0, 1), (1, 0)):
            assert same(found[b, k], network.head(alone(trunk, rows[b], k)[-1])[0])
        assert found[1, 1] == 0


@pytest.mark.parametrize("name", ["bloom", "gemma2"])
def test_an_architecture_that_cannot_share_or_project_is_found_out_and_still_exact(name):
    trunk = nets.trunk(name)
    assert trunk.shares_prompts is (name != "bloom")  # Bloom tells positions from its own mask
    assert trunk.has_linear_head is (name != "gemma2")
    rows = nets.random_rows(1, B=2, K=2, prompt=4, response=2)
    found = compute(["token_logps"], collate(rows), Networks(policy=Network(trunk=trunk)))["token_logps"]
    for b, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            logits = trunk.lm(input_ids=torch.tensor([row.prompt + response])).logits[0, len(row.prompt) - 1 : -1]
            wanted = logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
            assert same(found[b, k, : len(response)], wanted)


def test_a_model_that_attends_in_its_own_way_or_takes_no_positions_falls_back_to_dense(monkeypatch):
    trunk = nets.trunk("llama")
    rows = nets.random_rows(0, B=2, K=3)
    wanted, _ = truth(trunk, rows)
    body = trunk.lm.base_model
    honest = body.forward

    def in_its_own_way(input_ids, position_ids=None, use_cache=False, **more):
        trunk.lm.config._attn_implementation = "sdpa"
        return honest(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, **more)

    def without_positions(input_ids, use_cache=False):
        return honest(input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(
        trunk.lm, "forward", lambda input_ids, use_cache: trunk.lm.__class__.forward(trunk.lm, input_ids)
    )
    for forward in (in_its_own_way, without_positions):
        body.forward = forward
        trunk.shares_prompts = True
        monkeypatch.setattr(type(trunk), "head", None)
        probe(trunk)
        assert not trunk.shares_prompts
        assert same(states(trunk, collate(rows)).before, wanted)


def test_a_model_that_looks_ahead_is_refused():
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=nets.V,
        initializer_range=0.2, is_decoder=False,
    )  # fmt: skip
    lm = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with pytest.raises(ModelError, match="looks at later tokens"):
        probe(Trunk(lm=lm, tokenizer=nets.tokenizer(), source="bert"))


def test_rows_longer_than_a_sliding_window_are_read_dense():
    trunk = nets.trunk("mistral")
    trunk.shares_prompts = True  # as it would be found out with a wider window
    assert window(trunk) == 6
    for prompt, response in ((2, 2), (5, 5)):
        rows = [Row(prompt=tuple(range(2, 2 + prompt)), responses=(tuple(range(20, 20 + response)),) * 2)]
        before, _ = truth(trunk, rows)
        assert same(states(trunk, collate(rows)).before, before)


def test_the_attention_of_the_model_is_its_own_again_afterwards():
    for attention in ("sdpa", "eager"):
        trunk = nets.trunk("llama", attention=attention)
        batch = nets.random_batch(0, B=2, K=2)
        states(trunk, batch)
        assert trunk.lm.config._attn_implementation == attention
        layout = lay_out_packed(trunk, batch)
        with pytest.raises(IndexError):
            read(trunk, replace(layout, ids=torch.full_like(layout.ids, nets.V)))
        assert trunk.lm.config._attn_implementation == attention


def test_padding_and_shared_prompts_cost_no_tokens_and_are_computed_once():
    trunk = nets.trunk("llama")
    seen = []
    trunk.body.register_forward_hook(lambda m, a, k, out: seen.append(k["input_ids"].numel()), with_kwargs=True)
    rows = [Row(prompt=(5,) * 9, responses=((6,), (7,) * 5, (8,) * 2)), Row(prompt=(5,), responses=((6,) * 3,))]
    states(trunk, collate(rows))
    assert seen == [9 + 8 + 1 + 3]


def test_a_backward_pass_may_come_after_other_batches_were_read():
    trunk = nets.trunk("llama")
    first, second = nets.random_rows(0, B=2, K=2), nets.random_rows(1, B=3, K=3)
    wanted = gradients(trunk, *truth(trunk, first))
    found = states(trunk, collate(first))
    states(trunk, collate(second))
    for mine, theirs in zip(gradients(trunk, found.before, found.last), wanted, strict=True):
        assert same(mine, theirs)


def test_a_mean_reading_head_averages_the_states_of_the_response():
    trunk = nets.trunk("neox")
    network = Network(trunk=trunk, head=scalar_head(trunk, 0), reads="mean")
    rows = nets.random_rows(1, B=3, K=2)
    found = score(network, collate(rows))
    for b, row in enumerate(rows):
        for k, response in enumerate(row.responses):
            assert same(found[b, k], network.head(alone(trunk, row, k)[-len(response) :].mean(0))[0])


def test_only_what_an_equation_names_is_computed():
    calls = []
    trunk = nets.trunk("llama")
    trunk.body.register_forward_hook(lambda *_: calls.append(1))
    networks = Networks(policy=Network(trunk=trunk), reference=Network(trunk=trunk))
    batch = nets.random_batch(0, B=2, K=2)
    for names, passes in ((["mask"], 0), (["token_logps"], 1), (["token_logps", "ref_token_logps"], 2)):
        calls.clear()
        assert list(compute(names, batch, networks)) == names and len(calls) == passes


def test_a_value_loss_does_not_reach_the_policy_and_shares_its_pass():
    trunk = nets.trunk("llama")
    policy = Network(trunk=trunk)
    critic = Network(trunk=trunk, head=scalar_head(trunk, 0))
    found = compute(["token_logps", "values"], nets.random_batch(0, B=2, K=2), Networks(policy=policy, critic=critic))
    found["values"].sum().backward()
    assert critic.head.weight.grad is not None and all(p.grad is None for p in trunk.lm.parameters())


def test_packed_tokens_in_sixteen_bits_differ_from_32_bits_by_rounding_only():
    for name in ("gpt2", "llama", "neox"):
        trunk = nets.trunk(name)
        batch = nets.random_batch(2, B=3, K=3)
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                seen = states(trunk, batch)
            found.append((seen.before, *gradients(trunk, seen.before, seen.last)))
        for exact, rounded in zip(*found, strict=True):
            if exact is not None:
                apart = float((exact - rounded).detach().norm() / exact.detach().norm())
                assert apart < 0.05, f"{name}: {apart}"


def test_scores_and_values_have_32_bits_also_under_autocast():
    trunk = nets.trunk("llama")
    network = Network(trunk=trunk, head=scalar_head(trunk, 0))
    batch = nets.random_batch(0, B=3, K=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(network, batch)
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())
    assert same(found, score(network, batch), 0.1)

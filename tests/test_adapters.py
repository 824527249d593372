import math

import peft
import pytest
import torch
import transformers

from sparring.core.errors import ModelError
from sparring.methods.dpo import DPO
from sparring.models.backbone import load_trunk, save_trunk
from sparring.models.reference import hash_weights
from sparring.models.roles import Network, Networks, new_critic, new_policy, new_reference, new_scorer
from sparring.models.scorers import load_scorer, save_scorer
from sparring.models.signals import compute, score
from sparring.models.trunk import is_map
from tests import nets

BATCH = nets.random_batch(3, B=3, K=2)


def logps(network):
    return compute(["token_logps"], BATCH, Networks(policy=network))["token_logps"].detach()


def shake(network, seed=0):
    """Change every weight that training this role would change."""
    g = torch.Generator().manual_seed(seed)
    for p in network.trainable().values():
        p.data.add_(0.3 * torch.randn(p.shape, generator=g))


def weights_of(trunk, adapter):
    return {n: p for n, p in trunk.peft.named_parameters() if (f".{adapter}." in n if adapter else "lora_" not in n)}


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_the_reference_is_the_trunk_with_its_adapters_off_bit_for_bit(name):
    plain = nets.trunk(name)
    wanted = logps(Network(trunk=plain))
    trunk = nets.trunk(name, adapter="lora", rank=2)
    policy = new_policy(trunk, 0)
    reference = new_reference(policy)
    assert reference.trunk is trunk  # no second set of weights
    assert torch.equal(logps(policy), wanted)  # one factor of a new adapter is zero
    shake(policy)
    assert torch.equal(logps(reference), wanted)
    assert float((logps(policy) - wanted).abs().max()) > 0.1


def test_without_adapters_the_reference_is_a_frozen_copy_of_the_start():
    policy = new_policy(nets.trunk("llama"), 0)
    reference = new_reference(policy)
    wanted = logps(policy)
    shake(policy)
    assert torch.equal(logps(reference), wanted)
    assert not any(p.requires_grad for p in reference.trunk.lm.parameters())


def in_16_bits(network):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compute(["token_logps"], BATCH, Networks(policy=network))["token_logps"]
    return found, torch.autograd.grad(found.sum(), list(network.trainable().values()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_frozen_maps_are_held_as_they_are_multiplied_which_changes_nothing(name, tied, tmp_path):
    folder = str(nets.folder(tmp_path / "base", name, tied=tied))
    found = []
    for low in (None, torch.bfloat16):
        trunk = load_trunk(folder, adapter="lora", rank=2, low=low)
        policy = new_policy(trunk, 0)
        g = torch.Generator().manual_seed(0)
        for p in policy.trainable().values():
            p.data.copy_(0.3 * torch.randn(p.shape, generator=g))
        assert trunk.embedding.dtype == torch.float32
        assert (torch.bfloat16 in {p.dtype for p in weights_of(trunk, None).values()}) == (low is not None)
        found.append(in_16_bits(policy))
    (wide, its), (narrow, others) = found
    assert torch.equal(wide, narrow) and all(torch.equal(a, b) for a, b in zip(its, others, strict=True))


def test_a_frozen_copy_is_held_as_it_is_multiplied_and_a_trained_one_is_not():
    policy = new_policy(nets.trunk("llama", low=torch.bfloat16), 0)
    reference = new_reference(policy)
    assert {p.dtype for p in policy.trunk.lm.parameters()} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in reference.trunk.lm.parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logps(reference), logps(policy))
    judge = new_scorer(policy.trunk, "judge", 0)
    assert {p.dtype for p in judge.trunk.lm.parameters()} == {torch.float32}


def test_a_judge_on_maps_of_16_bits_is_saved_in_32_with_all_of_its_adapter(tmp_path):
    trunk = load_trunk(str(nets.folder(tmp_path / "base")), adapter="lora", rank=2, low=torch.bfloat16)
    judge = new_scorer(trunk, "judge", 0)
    for p in judge.trainable().values():
        p.data.add_(1e-3)  # which is lost when it is added to a weight of 16 bits
    save_scorer(judge, tmp_path / "judge")
    layer = next(m for m in trunk.peft.modules() if type(m) is peft.tuners.lora.Linear)
    share = layer.get_delta_weight("judge")
    merged = next(m for m in load_scorer(str(tmp_path / "judge")).trunk.body.modules() if is_map(m)).weight
    assert torch.allclose(merged, layer.get_base_layer().weight.float() + share, atol=1e-7) and share.abs().max() > 0
    assert layer.get_base_layer().weight.dtype == torch.bfloat16  # the trunk stays as it was


def test_dpo_starts_at_ln_2_whichever_way_the_policy_is_trained():
    for adapter in ("none", "lora"):
        policy = new_policy(nets.trunk("gpt2", adapter=adapter, rank=4), 0)
        batch = nets.random_batch(1, B=4, K=2)
        batch = batch.take(batch.exists.all(-1).nonzero()[:, 0])
        networks = Networks(policy=policy, reference=new_reference(policy))
        loss = DPO().loss(**compute(["token_logps", "ref_token_logps", "mask"], batch, networks))
        torch.testing.assert_close(loss.total, torch.full((len(batch),), math.log(2)), atol=1e-5, rtol=0)


def test_two_adapters_in_one_backward_pass_get_the_gradients_they_get_alone():
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    policy = new_policy(trunk, 0)
    critic, judge = new_critic(policy, 1), new_scorer(trunk, "judge", 2)
    for network in (policy, critic, judge):
        shake(network)

    def total(names):
        found = compute(names, BATCH, Networks(policy=policy, critic=critic, scorer=judge))
        return sum(x.square().sum() for x in found.values())

    def gradients(names):
        for network in (policy, critic, judge):
            for p in network.trainable().values():
                p.grad = None
        total(names).backward()
        return [{n: p.grad for n, p in network.trainable().items()} for network in (policy, critic, judge)]

    together = gradients(["token_logps", "values", "scores"])
    for i, name in enumerate(["token_logps", "values", "scores"]):
        alone = gradients([name])
        for j, found in enumerate(alone):
            assert all((g is not None) == (i == j) for g in found.values())
        for n, g in alone[i].items():
            torch.testing.assert_close(together[i][n], g, atol=1e-5, rtol=1e-5)


def test_training_one_role_changes_no_other_and_not_the_trunk():
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    policy = new_policy(trunk, 0)
    judge = new_scorer(trunk, "judge", 1)
    before = [hash_weights(weights_of(trunk, a)) for a in (None, "judge", "default")]
    optimizer = torch.optim.SGD(list(policy.trainable().values()), lr=0.1)
    networks = Networks(policy=policy, reference=new_reference(policy), scorer=judge)
    found = compute(["ref_token_logps", "token_logps", "scores"], BATCH, networks)
    (found["token_logps"].sum() + found["scores"].sum()).backward()
    optimizer.step()
    after = [hash_weights(weights_of(trunk, a)) for a in (None, "judge", "default")]
    assert before[:2] == after[:2] and before[2] != after[2]


def test_a_judge_of_its_own_trains_its_body_and_head_but_no_language_model_head():
    for tied in (True, False):
        policy = new_policy(nets.trunk("llama", tied=tied), 0)
        judge = new_scorer(policy.trunk, "judge", 1)
        names = judge.trainable()
        assert not any("lm_head" in n for n in names) and "head.weight" in names and "body.embed_tokens.weight" in names
        score(judge, BATCH).sum().backward()
        assert all(p.grad is not None for p in names.values())
        assert all(p.grad is None for p in policy.trainable().values())


def test_the_random_start_of_an_adapter_is_the_seeds_and_leaves_the_global_stream_alone():
    starts = []
    for seed in (1, 1, 2):
        policy = new_policy(nets.trunk("llama", adapter="lora", rank=2), seed)
        starts.append(hash_weights(policy.trainable()))
    assert starts[0] == starts[1] != starts[2]
    torch.manual_seed(5)
    expected = torch.rand(3)
    trunk = nets.trunk("llama", adapter="lora", rank=2)
    torch.manual_seed(5)
    new_policy(trunk, 9)
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def tuned(tmp_path):
    """A base on disk, an adapter trained on it and saved, and what the pair says."""
    base = nets.folder(tmp_path / "base")
    policy = new_policy(load_trunk(str(base), adapter="lora", rank=2), 0)
    shake(policy)
    save_trunk(policy.trunk, tmp_path / "tuned")
    return tmp_path, logps(policy)


def test_a_saved_adapter_loads_with_plain_peft_from_anywhere(tuned, monkeypatch, tmp_path):
    place, wanted = tuned
    monkeypatch.chdir(tmp_path)
    lm = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        plain = peft.PeftModel.from_pretrained(lm, place / "tuned")
    ids = torch.tensor([[5, 6, 7]])
    ours = load_trunk(str(place / "tuned"))
    torch.testing.assert_close(plain(input_ids=ids).logits, ours.lm(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert plain.peft_config["default"].base_model_name_or_path == str(place / "base")
    torch.testing.assert_close(logps(Network(trunk=ours)), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_run_that_begins_from_an_adapter_has_the_tuned_model_as_policy_reference_and_judge(tuned, adapter):
    place, wanted = tuned
    policy = new_policy(load_trunk(str(place / "tuned"), adapter=adapter, rank=2), 3)
    reference = new_reference(policy)
    start = logps(policy)
    torch.testing.assert_close(start, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logps(reference), start)
    judge = new_scorer(policy.trunk, "judge", 4)
    torch.testing.assert_close(judge.states(BATCH).last, reference.states(BATCH).last)
    shake(policy)
    assert torch.equal(logps(reference), start)
    trained = logps(policy)
    assert float((trained - start).abs().max()) > 0.1
    save_trunk(policy.trunk, place / "second")
    torch.testing.assert_close(logps(Network(trunk=load_trunk(str(place / "second")))), trained, atol=2e-4, rtol=1e-4)


def test_only_the_new_adapter_is_trained_when_a_run_begins_from_one(tuned):
    place, _ = tuned
    policy = new_policy(load_trunk(str(place / "tuned"), adapter="lora", rank=2), 3)
    trunk = policy.trunk
    logps(new_reference(policy))
    compute(["token_logps"], BATCH, Networks(policy=policy))["token_logps"].sum().backward()
    assert all(p.grad is not None for p in policy.trainable().values())
    assert not any(p.requires_grad for n, p in trunk.peft.named_parameters() if ".default." not in n)


def test_an_adapter_of_another_rank_is_refused_with_the_rank_that_fits(tuned):
    place, _ = tuned
    with pytest.raises(ModelError, match="has rank 2, so a run that begins from it needs --rank 2"):
        load_trunk(str(place / "tuned"), adapter="lora", rank=16)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_saved_scorer_gives_its_numbers_by_plain_transformers_and_by_us(name, adapter, tmp_path):
    trunk = nets.trunk(name, adapter=adapter, rank=2, tied=name != "neox")
    policy = new_policy(trunk, 0)
    judge = new_scorer(trunk, "judge", 1)
    shake(policy, 1)
    shake(judge, 2)
    live = hash_weights(dict(trunk.lm.state_dict()))
    wanted = score(judge, BATCH).detach()
    save_scorer(judge, tmp_path / "judge")
    assert hash_weights(dict(trunk.lm.state_dict())) == live
    torch.testing.assert_close(score(judge, BATCH).detach(), wanted)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    for b, k in BATCH.exists.nonzero().tolist():
        ids = torch.cat([BATCH.prompt_ids[b][BATCH.prompt_mask[b]], BATCH.response_ids[b, k][BATCH.mask[b, k]]])
        if ids[-1] == nets.PAD:
            continue  # transformers takes the padding id for padding wherever it stands
        torch.testing.assert_close(plain(input_ids=ids[None]).logits[0, 0], wanted[b, k], atol=1e-4, rtol=1e-4)
    again = load_scorer(str(tmp_path / "judge"))
    assert again.trunk.shares_prompts
    torch.testing.assert_close(score(again, BATCH), wanted, atol=1e-4, rtol=1e-4)


def test_a_text_that_ends_in_the_padding_id_is_scored_at_its_end_by_plain_transformers(tmp_path):
    judge = new_scorer(nets.trunk("llama"), "judge", 1)
    judge.trunk.tokenizer.pad_token = "<eos>"
    save_scorer(judge, tmp_path / "judge")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    ids = torch.tensor([[5, 6, nets.EOS]])
    wanted = judge.head(judge.trunk.body(input_ids=ids).last_hidden_state[0, -1])
    torch.testing.assert_close(plain(input_ids=ids).logits[0], wanted)


def test_four_bit_weights_train_by_adapters_and_go_on_from_one(tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=nets.V,
        max_position_embeddings=96, initializer_range=0.2, eos_token_id=nets.EOS, bos_token_id=nets.EOS,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    nets.tokenizer().save_pretrained(tmp_path / "base")
    trunk = load_trunk(str(tmp_path / "base"), adapter="qlora", rank=4)
    assert any(p.dtype == torch.uint8 for p in trunk.lm.parameters())
    assert trunk.shares_prompts and trunk.has_linear_head
    policy = new_policy(trunk, 0)
    networks = Networks(policy=policy, reference=new_reference(policy))
    optimizer = torch.optim.AdamW(list(policy.trainable().values()), lr=1e-2)
    batch = nets.random_batch(1, B=4, K=2)
    batch = batch.take(batch.exists.all(-1).nonzero()[:, 0])
    losses = []
    for _ in range(5):
        loss = DPO().loss(**compute(["token_logps", "ref_token_logps", "mask"], batch, networks)).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert math.isclose(losses[0], math.log(2), abs_tol=1e-5) and losses[-1] < 0.6
    end = logps(policy)
    save_trunk(trunk, tmp_path / "tuned")
    second = new_policy(load_trunk(str(tmp_path / "tuned"), adapter="qlora", rank=4), 1)
    torch.testing.assert_close(logps(second), end, atol=1e-4, rtol=1e-4)
    assert torch.equal(logps(new_reference(second)), logps(second))
    judge = new_scorer(second.trunk, "judge", 0)
    with pytest.raises(ModelError, match="4-bit weights cannot be saved"):
        save_scorer(judge, tmp_path / "judge")

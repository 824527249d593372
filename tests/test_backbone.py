import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sparring.core.errors import ModelError
from sparring.models.backbone import load_tokenizer, load_trunk, save_trunk, tiny_model
from sparring.models.roles import new_policy, new_scorer
from sparring.models.scorers import load_scorer, save_scorer
from tests import nets

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_what_plain_transformers_loads(name, tied, tmp_path):
    trunk = load_trunk(str(nets.folder(tmp_path / "base", name, tied=tied)))
    policy = new_policy(trunk, 0)
    for p in policy.trainable().values():
        p.data += 0.01
    trunk.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    save_trunk(trunk, tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    wanted = trunk.lm(input_ids=IDS).logits
    torch.testing.assert_close(plain(input_ids=IDS).logits, wanted)
    torch.testing.assert_close(load_trunk(str(tmp_path / "out")).lm(input_ids=IDS).logits, wanted)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w5 w6")["input_ids"] == [5, 6] and tokenizer.chat_template == trunk.tokenizer.chat_template


def test_weights_are_held_in_32_bits_and_dropout_is_off(tmp_path):
    lm = nets.network("gpt2").bfloat16()
    lm.config.resid_pdrop = 0.5
    lm.save_pretrained(tmp_path)
    nets.tokenizer().save_pretrained(tmp_path)
    trunk = load_trunk(str(tmp_path))
    assert {p.dtype for p in trunk.lm.parameters()} == {torch.float32}
    for role in (trunk, trunk.copy(), trunk.frozen_copy()):
        assert not any(m.training for m in role.lm.modules())
        assert torch.equal(role.lm(input_ids=IDS).logits, role.lm(input_ids=IDS).logits)


def test_loading_and_saving_say_nothing(tmp_path, capfd):
    trunk = load_trunk(str(nets.folder(tmp_path / "base")), adapter="lora", rank=2)
    policy = new_policy(trunk, 0)
    save_trunk(policy.trunk, tmp_path / "out")
    load_trunk(str(tmp_path / "out"))
    assert capfd.readouterr() == ("", "")


def test_a_finished_run_stands_for_its_model(tmp_path):
    nets.folder(tmp_path / "run" / "model")
    (tmp_path / "run" / "run.yaml").write_text("method: sft\n")
    assert torch.equal(load_trunk(str(tmp_path / "run")).lm(input_ids=IDS).logits, nets.network("llama")(IDS).logits)


def test_shards_are_read_together(tmp_path):
    nets.network("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    nets.tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(load_trunk(str(tmp_path)).lm(input_ids=IDS).logits, nets.network("llama")(IDS).logits)


def test_settings_for_generation_that_contradict_each_other_do_not_stop_the_saving(tmp_path):
    nets.folder(tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 7]})
    )
    trunk = load_trunk(str(tmp_path / "base"))
    save_trunk(trunk, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [1, 7]


def no_such_folder(place):
    return place.parent / (place.name + "x")


def a_file(place):
    return place / "config.json"


def empty(place):
    shutil.rmtree(place)
    place.mkdir()


def only_pickled_weights(place):
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()


def a_weight_missing(place):
    weights = load_file(place / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


def a_weight_of_another_shape(place):
    weights = load_file(place / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(3)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


def weights_cut_short(place):
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def weights_of_zero_bytes(place):
    (place / "model.safetensors").write_bytes(b"")


def damaged_settings(place):
    (place / "config.json").write_text('{"model_type": "llama", ')


def an_unknown_architecture(place):
    (place / "config.json").write_text('{"model_type": "llamma"}')


def an_encoder(place):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=nets.V
    )
    transformers.BertForMaskedLM(config).save_pretrained(place)


def an_encoder_that_calls_itself_a_causal_model(place):
    an_encoder(place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"architectures": ["BertLMHeadModel"]}))


def an_encoder_and_decoder(place):
    config = transformers.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=nets.V)
    transformers.T5ForConditionalGeneration(config).save_pretrained(place)


def a_reward_model(place):
    trunk = nets.trunk("llama")
    save_scorer(new_scorer(trunk, "judge", 0), place)


def a_tokenizer_too_large(place):
    nets.tokenizer(nets.V + 5).save_pretrained(place)


def no_tokenizer(place):
    for file in place.glob("tokenizer*"):
        file.unlink()


def a_damaged_tokenizer(place):
    (place / "tokenizer.json").write_text("{")


def no_end_of_text(place):
    nets.tokenizer(eos=False).save_pretrained(place)


def an_unfinished_run(place):
    (place / "run.yaml").write_text("method: sft\n")


def an_adapter_that_names_no_model(place):
    (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def an_adapter_whose_model_is_gone(place):
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')


def an_adapter_without_weights(place):
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(place)}))


def code_of_its_own(place):
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "mine.py").write_text("raise SystemExit('the code of the model was run')\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_such_folder, "no such model folder; did you mean .*base"),
        (a_file, "a model is a folder, this is a file"),
        (empty, "no config.json in this folder, so it holds no model; it has no files"),
        (only_pickled_weights, "no safetensors weights here .*can run code"),
        (a_weight_missing, "weights are missing .*would be random: model.layers.1.mlp.up_proj.weight"),
        (a_weight_of_another_shape, "another shape than config.json says: model.norm.weight"),
        (weights_cut_short, "cannot be loaded as a causal language model .*damaged, so get it anew"),
        (weights_of_zero_bytes, "cannot be loaded as a causal language model"),
        (damaged_settings, "its config.json is damaged .*line 1"),
        (an_unknown_architecture, "llamma"),
        (an_encoder, "this is BertForMaskedLM; what is needed is a causal language model"),
        (an_encoder_that_calls_itself_a_causal_model, "BertLMHeadModel looks at later tokens"),
        (an_encoder_and_decoder, "cannot be loaded as a causal language model .*T5"),
        (a_reward_model, "this is LlamaForSequenceClassification; what is needed is a causal language model"),
        (a_tokenizer_too_large, "the tokenizer has 106 tokens but the model only 101; they do not belong together"),
        (no_tokenizer, "no tokenizer could be loaded .*needs tokenizer.json"),
        (a_damaged_tokenizer, "no tokenizer could be loaded"),
        (no_end_of_text, "names no end-of-text token, so no response could end"),
        (an_unfinished_run, "this run has no finished model yet; finish it with `sparring train --resume --run"),
        (an_adapter_that_names_no_model, "does not say which model the adapter belongs to"),
        (an_adapter_whose_model_is_gone, "the model that the adapter belongs to is not there .*/nowhere/base"),
        (an_adapter_without_weights, "the adapter's weights are missing"),
        (code_of_its_own, "read that code, and if you trust it add --trust-remote-code yes"),
    ],
)
def test_a_broken_model_is_refused_in_words(spoil, says, tmp_path):
    place = nets.folder(tmp_path / "base")
    place = spoil(place) or place
    with pytest.raises(ModelError, match=says) as caught:
        load_trunk(str(place))
    text = str(caught.value)
    assert str(place) in text and "\n" not in text and len(text) < 500 + 3 * len(str(place))


def test_a_hub_id_that_cannot_be_reached_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def offline(name, local_files_only=False, **_):
        asked.append(local_files_only)
        raise OSError("We couldn't connect to the hub.\nMore lines.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(
        ModelError, match=r"some/model: no tokenizer could be loaded .*couldn't connect.*no folder of that name here"
    ):
        load_tokenizer("some/model")
    assert asked == [True, False]  # what is on disk comes first
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer("model")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: nets.folder(place), "this is LlamaForCausalLM; what is needed is a sequence classifier"),
        (lambda place: classifier(place, labels=3), "has 3 labels; a reward model has one"),
        (lambda place: encoder_classifier(place), "does not read a score after the last token|looks at later tokens"),
    ],
)
def test_what_is_no_reward_model_is_refused_in_words(make, says, tmp_path):
    make(tmp_path / "judge")
    with pytest.raises(ModelError, match=says):
        load_scorer(str(tmp_path / "judge"))


def classifier(place, labels):
    config = nets.config("llama", tied=True)
    config.num_labels = labels
    transformers.LlamaForSequenceClassification(config).save_pretrained(place)
    nets.tokenizer().save_pretrained(place)


def encoder_classifier(place):
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=nets.V,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(place)
    nets.tokenizer().save_pretrained(place)


def test_a_tiny_model_is_made_from_its_seed_and_can_be_saved(tmp_path):
    made = [tiny_model(["a", "b"], width=16, layers=1, heads=2, context=32, seed=s) for s in (1, 1, 2)]
    states = [m.lm.state_dict()["model.embed_tokens.weight"] for m in made]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    save_trunk(made[0], tmp_path / "tiny")
    again = load_trunk(str(tmp_path / "tiny"))
    assert again.tokenizer("a b")["input_ids"] == [3, 4]
    assert torch.equal(
        again.lm(input_ids=torch.tensor([[3, 4]])).logits, made[0].lm(input_ids=torch.tensor([[3, 4]])).logits
    )

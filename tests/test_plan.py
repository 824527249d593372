import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparring import methods
from sparring.cli import main
from sparring.core.records import Demonstration
from sparring.data.batch import Row, collate
from sparring.data.encode import encode
from sparring.data.standin import StandIn
from sparring.loops.job import make_job
from sparring.loops.plan import plan
from sparring.loops.train import train
from sparring.models.backbone import blank_model, load_trunk, save_trunk, tiny_model
from sparring.models.roles import Networks, new_policy
from sparring.models.signals import compute
from sparring.models.size import size_of
from tests import small
from tests.small import WORDS, world, write

LLAMA_7B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
PYTHIA_1B = {
    "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 16, "num_hidden_layers": 24, "vocab_size": 50304, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip


def folder(place: Path, config: dict) -> Path:
    """A model folder with a config.json and nothing else."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    return place


def planned(capsys, *words: str) -> dict:
    assert main.main(["plan", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# Weights


def test_a_config_alone_gives_the_published_number_of_weights(tmp_path):
    lm = blank_model(str(folder(tmp_path / "m", PYTHIA_1B)))
    assert sum(p.numel() for p in lm.parameters()) == 1_414_647_808  # of the card of pythia-1.4b
    assert all(p.device.type == "meta" for p in lm.parameters())


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_weights_and_adapters_are_counted_as_they_are_when_really_made(adapter):
    model = str(world() / "model")
    trunk = load_trunk(model, adapter=adapter, rank=4)
    real = sum(p.numel() for p in trunk.lm.parameters())
    new_policy(trunk, 0)
    size = size_of(model, adapter=adapter, rank=4, precision="fp32")
    assert (size.numbers, size.held) == (real, 4 * real)
    assert size.adapter == (0 if adapter == "none" else sum(p.numel() for p in trunk.parameters("default").values()))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_frozen_maps_are_counted_in_16_bits_where_products_are(adapter):
    model = str(world() / "model")
    trunk = load_trunk(model, adapter=adapter, rank=4, low=torch.bfloat16)
    size = size_of(model, adapter=adapter, rank=4, precision="bf16")
    assert size.held == sum(p.nbytes for p in trunk.lm.parameters())
    assert size.frozen == sum(p.nbytes for p in trunk.frozen_copy().lm.parameters())
    assert size.frozen < 4 * size.numbers == size_of(model, adapter="none", rank=4, precision="fp32").frozen


def test_weights_in_four_bits_take_half_a_byte_and_a_scale_for_every_64(tmp_path):
    pytest.importorskip("bitsandbytes")
    save_trunk(tiny_model(WORDS, width=64, layers=1, heads=2, context=32, seed=0), tmp_path / "model")
    trunk = load_trunk(str(tmp_path / "model"), adapter="qlora")
    real = sum(p.numel() * p.element_size() for p in trunk.lm.parameters())
    real += sum(4 * p.quant_state.absmax.numel() for p in trunk.lm.parameters() if hasattr(p, "quant_state"))
    assert size_of(str(tmp_path / "model"), adapter="qlora", rank=16, precision="fp32").held == real


# What a pass keeps, and the peak


def model_for_memory(place: Path) -> Path:
    save_trunk(tiny_model(WORDS, width=64, layers=3, heads=2, context=128, seed=0), place / "model")
    text = " ".join(WORDS)
    rows = [{"prompt": text + f" {w}", "response": " " + text, "chosen": " " + text, "rejected": f" {w} {text}"}
            for w in WORDS]  # fmt: skip
    write(place / "rows.jsonl", rows)
    return place


def kept_by_autograd(trunk, batch) -> int:
    """Bytes that autograd really keeps for the way back through the body, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in trunk.lm.parameters()}
    found = {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights and x.is_floating_point():
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        policy = new_policy(trunk, 0)
        weights |= {p.untyped_storage().data_ptr() for p in trunk.lm.parameters()}
        compute(["token_logps"], batch, Networks(policy=policy))
    return sum(found.values())


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_what_a_pass_keeps_is_what_autograd_keeps(adapter, tmp_path):
    model = str(model_for_memory(tmp_path) / "model")
    batch = collate([Row(prompt=(5,) * 20, responses=((6,) * 30, (7,) * 30)) for _ in range(4)])
    size = size_of(model, adapter=adapter, rank=16, precision="fp32")
    real = kept_by_autograd(load_trunk(model, adapter=adapter), batch)
    tokens = 4 * (20 + 2 * 30)
    states = 4 * 240 * (64 + 2)  # those that the head reads, gathered; and a logarithm for each
    assert size.kept_once == 0
    assert real - states == pytest.approx(size.kept * tokens, rel=0.03)


class Held(TorchDispatchMode):
    """The most bytes that all tensors held at once."""

    def __init__(self):
        super().__init__()
        self.peak, self.now, self.seen = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, out)):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                known = self.seen.get(storage._cdata)
                if known is None or known[0].expired():
                    self.now += storage.nbytes() - (known[1] if known else 0)
                    self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if self.now > self.peak:  # only now does it matter what has gone since
            self.seen = {key: (ref, size) for key, (ref, size) in self.seen.items() if not ref.expired()}
            self.now = sum(size for _, size in self.seen.values())
            self.peak = max(self.peak, self.now)
        return out


RUNS = {
    "sft with adapters": {"adapter": "lora", "micro_tokens": 2048},
    "dpo": {"adapter": "none", "micro_tokens": 1024},
    "rlgaf": {"adapter": "lora", "micro_tokens": 1024, "K": 4, "max_tokens": 32, "rounds": 1, "judge_warmup": 0},
    "rlgaf_gumbel": {"adapter": "none", "micro_tokens": 4096, "K": 2, "max_tokens": 32, "rounds": 2, "judge_warmup": 5},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_peak_that_is_predicted_is_that_of_a_real_run(name, tmp_path):
    place, method = model_for_memory(tmp_path), name.split()[0]
    samples = method.startswith("rlgaf")
    common = {"batch": 16, "device": "cpu", "precision": "fp32", "max_response": 64}
    common |= {"watch": "warn", "batch": 8} if samples else {"steps": 2, "eval_every": 50}
    asked = {"model": str(place / "model"), "data": str(place / "rows.jsonl"), "settings": common | RUNS[name]}
    said = plan(make_job(method, run=tmp_path / "run", **asked), from_config=True).peak
    with Held() as seen:
        train(method, run=tmp_path / "run", quiet=True, **asked)
    # What is sampled counts at its longest, and texts that are drawn twice count twice.
    assert 0.85 * seen.peak < said < (1.5 if samples else 1.15) * seen.peak


# Tokens and steps


def test_tokens_and_steps_are_those_of_the_file(tmp_path):
    # Three rows of 2 + 3, 1 + 2 and 3 + 4 words; every response ends with one token more.
    rows = [("ba be", " bi bo bu"), ("da", " de di"), ("ga ge gi", " go gu ka ke")]
    data = write(tmp_path / "d.jsonl", [{"prompt": x, "response": y} for x, y in rows])
    settings = {"epochs": 4.0, "batch": 2, "held_out": 0.0, "device": "cpu", "precision": "fp32"}
    job = make_job("sft", model=str(world() / "model"), data=str(data), run="none", settings=settings)
    work = plan(job, from_config=True).work
    assert (work.clock, work.count, work.updates) == ("step", math.ceil(4 * 3 / 2), 6)
    assert work.trained == 4 * ((2 + 4) + (1 + 3) + (3 + 5)) and work.read == 0


def test_a_reference_reads_what_the_policy_trains_on(tmp_path):
    asked = {"model": str(world() / "model"), "data": str(world() / "pairs.jsonl"), "run": "none"}
    settings = {"steps": 5, "held_out": 0.0, "device": "cpu", "precision": "fp32"}
    work = plan(make_job("dpo", **asked, settings=settings), from_config=True).work
    assert work.read == work.trained > 0
    assert plan(make_job("simpo", **asked, settings=settings), from_config=True).work.read == 0


def test_samples_of_an_adversarial_run_are_counted_at_their_longest():
    settings = small.ONLINE | small.JUDGE | {"held_out": 0.0}
    job = make_job("rlgaf", model=str(world() / "model"), data=str(world() / "texts.jsonl"), run="none",
                   settings=settings)  # fmt: skip
    found = plan(job, from_config=True)
    rounds = 4 + 1  # five updates of warm-up are one round in which only the judge learns
    assert found.work.sampled == rounds * 4 * 2 * 6  # batch, K, tokens
    assert (found.work.rest, found.work.judge_updates) == (1, 5 + 4)
    assert {"judge", "reference", "optimizer of the judge"} <= found.standing.keys()


@pytest.mark.parametrize(("method", "kept"), [("best_of_n", 1), ("spin", 1), ("raft", 1)])
def test_a_selection_trains_on_what_its_rule_keeps(method, kept):
    feedback = () if method == "spin" else ("length",)
    job = make_job(method, model=str(world() / "model"), data=str(world() / "texts.jsonl"), run="none",
                   feedback=feedback, settings=small.SELECTING | {"held_out": 0.0})  # fmt: skip
    work = plan(job, from_config=True).work
    assert work.updates == 2 * 3  # rounds, steps
    assert work.sampled == 2 * 24 * (1 if method == "spin" else 4) * 6 or method == "spin"


# The command


def flags(capsys, *words: str) -> list[str]:
    assert main.main([*words, "--help"]) == 0
    return re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", methods.names())
def test_plan_takes_the_flags_that_train_takes(name, capsys):
    assert set(flags(capsys, "plan", name)) - {"--from-config", "--json"} == set(flags(capsys, "train", name))


def test_a_plan_is_measured_where_the_model_is_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", str(world() / "model"), "--device", "cpu", "--precision", "fp32"]
    found = planned(capsys, "sft", *words, "--data", str(world() / "texts.jsonl"), "--steps", "3", "--run", "r")
    assert not found["is_bound"] and found["cpu_seconds"] > 0
    assert {"training", "checkpoints", "start"} <= found["seconds"].keys()
    assert main.main(["plan", "dpo", *words, "--data", str(world() / "pairs.jsonl"), "--from-config"]) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("weights", "reference", "at the peak", "tokens trained on", "by multiplications")
    )
    assert list(tmp_path.iterdir()) == []


def test_an_adversarial_plan_tells_what_each_part_takes(capsys):
    words = ["--model", str(world() / "model"), "--data", str(world() / "texts.jsonl"), "--device", "cpu"]
    words += ["--rounds", "2", "--batch", "4", "-k", "2", "--max-tokens", "6", "--judge-batch", "4"]
    found = planned(capsys, "rlgaf", *words, "--adapter", "lora", "--precision", "fp32")
    assert {"sampling", "scoring", "reading", "training", "judge"} <= found["seconds"].keys()
    assert "reference" not in found["standing"] and found["standing"]["adapters and heads"] > 0


def test_a_config_is_enough_also_for_a_device_that_is_not_here(capsys, tmp_path):
    config = LLAMA_7B | {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    model, data = str(folder(tmp_path / "m", config)), str(world() / "texts.jsonl")
    here = planned(capsys, "rlgaf", "--model", model, "--data", data, "--device", "cpu", "--precision", "fp32")
    assert here["is_bound"] and here["seconds"]["sampling"] > 0 and "no tokenizer" in " ".join(here["notes"])
    if not torch.cuda.is_available():
        there = planned(capsys, "sft", "--model", model, "--data", data, "--device", "cuda")
        assert (there["precision"], there["seconds"], there["program"]) == ("bf16", {}, 0)
        assert "no cuda here" in " ".join(there["notes"])


def test_the_stand_in_counts_words_and_signs():
    rows = encode([Demonstration(prompt="A good film", response=", isn't it?", where="row 1")], StandIn())
    assert len(rows[0].prompt) == 3  # a, good, film
    assert len(rows[0].responses[0]) == len([",", "isn", "'", "t", "it", "?"]) + 1  # and the end


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "--model", "nothing", "--data", "d.jsonl"], "config.json"),
        (["sft", "--model", "nothing"], "needs --data"),
        (["sft", "--model", "nothing", "--data", "d.jsonl", "--betta", "1"], "unknown flag --betta"),
        (["sft", "--model", "nothing", "--data", "d.jsonl", "--lr", "-1"], "lr must lie between 0 and 10"),
        (["dop", "--model", "nothing"], "no method is called 'dop'; did you mean dpo"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_in_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    write(tmp_path / "d.jsonl", [{"prompt": "ba", "response": " be"}] * 3)
    assert main.main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_plan_without_a_method_lists_them(capsys):
    assert main.main(["plan"]) == 0
    assert "sparring plan METHOD --help" in capsys.readouterr().out

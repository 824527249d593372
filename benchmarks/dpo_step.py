"""What the shared prompt, the chunked log-probabilities and the sampler are worth, in time and memory.

    python benchmarks/dpo_step.py            # everything; one thread, 32 bits, random weights
    python benchmarks/dpo_step.py step       # only the first table; also: pairs, sampler

`step`: one step of DPO (K = 2) or listwise DPO: policy and reference forward, and backward. `whole` is a separate
sequence for each response and a softmax over all of its logits, as in the code of the DPO paper; `plain` the same
without softmax over the prompt; `dense` a separate sequence too, with our log-probabilities in chunks; `shared`
computes the prompt once.
Time is the best of several interleaved runs, in CPU-seconds. Memory is the most that tensors held at once during one
step, beyond the weights.

`pairs`: preference pairs per CPU-second, one whole step with the optimizer, 16 pairs of 128 + 64 tokens; and the same
by DPOTrainer of TRL, where it is installed, in 32 bits and without recomputing what it could keep.

`sampler`: sampled tokens per CPU-second against generate() of transformers, on the same model and prompts.
"""

import copy
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from sparring.core.loss import Loss
from sparring.data.batch import Batch, Row, collate
from sparring.methods.dpo import DPO
from sparring.methods.listwise_dpo import ListwiseDPO
from sparring.models.backbone import quiet
from sparring.models.forward import probe
from sparring.models.roles import Network, Networks, new_policy, new_reference
from sparring.models.signals import compute
from sparring.models.trunk import Trunk
from sparring.rollout.sample import Sampling, sample

VOCABULARY, PROMPT, RESPONSE = 8192, 128, 64
SMALL = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 704}
LARGER = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1024}
NAMES = ["token_logps", "ref_token_logps", "mask"]


class Tokenizer:
    """All that the sampler asks of one."""

    eos_token_id, pad_token_id = 0, 1


def main(what: str) -> None:
    torch.set_num_threads(1)
    quiet()
    if what in ("all", "step"):
        step_table()
    if what in ("all", "pairs"):
        pairs_table()
    if what in ("all", "sampler"):
        sampler_table()


def trunk(sizes: dict[str, int]) -> Trunk:
    """A Llama-style model with random weights, its output tied to its input."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=0,
                         bos_token_id=0, pad_token_id=1, **sizes)  # fmt: skip
    made = Trunk(lm=LlamaForCausalLM(config).eval(), tokenizer=Tokenizer(), source="random weights")
    probe(made)
    return made


def rows(B: int, K: int, prompt: int = PROMPT, response: int = RESPONSE) -> Batch:
    g = torch.Generator().manual_seed(1)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, VOCABULARY, (n,), generator=g).tolist())

    return collate([Row(prompt=draw(prompt), responses=tuple(draw(response) for _ in range(K))) for _ in range(B)])


def loss_of(found: dict[str, torch.Tensor]) -> Loss:
    return (DPO() if found["mask"].shape[1] == 2 else ListwiseDPO()).loss(**found)


def plain_step(networks: Networks, batch: Batch, *, whole: bool) -> None:
    """The same step with nothing but transformers; all prompts have one length here, and all responses."""
    assert networks.reference is not None
    networks.policy.trunk.lm.zero_grad()
    own = plain_logps(networks.policy.trunk.lm, batch, whole=whole)
    with torch.no_grad():
        fixed = plain_logps(networks.reference.trunk.lm, batch, whole=whole)
    loss_of({"token_logps": own, "ref_token_logps": fixed, "mask": batch.mask}).total.sum().backward()


def plain_logps(lm: Any, batch: Batch, *, whole: bool) -> torch.Tensor:
    B, K, T = batch.mask.shape
    ids = torch.cat([batch.prompt_ids[:, None].expand(B, K, -1), batch.response_ids], -1).flatten(0, 1)
    read = ids.shape[1] - 1 if whole else T
    logits = lm(input_ids=ids, use_cache=False).logits[:, -read - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, -read:, None])[:, -T:, 0].unflatten(0, (B, K))


def one_step(networks: Networks, batch: Batch, *, shared: bool) -> None:
    for network in (networks.policy, networks.reference):
        assert network is not None
        network.trunk.shares_prompts = shared
    networks.policy.trunk.lm.zero_grad()
    loss_of(compute(NAMES, batch, networks)).total.sum().backward()


def networks_of(sizes: dict[str, int]) -> Networks:
    policy = new_policy(trunk(sizes), 0)
    return Networks(policy=policy, reference=new_reference(policy))


def best(runs: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """The shortest CPU time of each, in seconds; they take turns, so that what else runs here hits all alike."""
    found = dict.fromkeys(runs, float("inf"))
    for turn in range(times + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                found[name] = min(found[name], time.process_time() - start)
    return found


def step_table(sizes: tuple[int, ...] = (2, 4, 8)) -> None:
    networks = networks_of(SMALL)
    print(f"ranking step, {PROMPT}+{RESPONSE} tokens, vocabulary {VOCABULARY}, 7M parameters, 32 responses")
    print("  K  form    seconds  shared is    MB  shared is")
    for K in sizes:
        batch = rows(32 // K, K)
        runs: dict[str, Callable[[], object]] = {
            "whole": partial(plain_step, networks, batch, whole=True),
            "plain": partial(plain_step, networks, batch, whole=False),
            "dense": partial(one_step, networks, batch, shared=False),
            "shared": partial(one_step, networks, batch, shared=True),
        }
        seconds = best(runs, 5)
        grown = {n: peak_memory(run) / 1e6 for n, run in runs.items()}
        for n in runs:
            parts = f"{seconds['shared'] / seconds[n]:9.2f}  {grown[n]:4.0f}  {grown['shared'] / grown[n]:9.2f}"
            print(f"  {K}  {n:6}  {seconds[n]:7.2f}  {parts}")


class Live(TorchDispatchMode):
    """The most bytes that tensors made in here held at once, whoever still needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {key: (ref, size) for key, (ref, size) in self._made.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return out


def peak_memory(run: Callable[[], object]) -> int:
    """How many bytes one step needs at its peak, beyond the weights."""
    with Live() as seen:
        run()
    return seen.peak


def pairs_table() -> None:
    networks, batch = networks_of(LARGER), rows(16, 2)
    weights = list(networks.policy.trunk.lm.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-6)

    def ours() -> None:
        one_step(networks, batch, shared=True)
        optimizer.step()

    runs: dict[str, Callable[[], object]] = {"ours": ours}
    if importlib.util.find_spec("trl"):
        runs["theirs"] = trl_step(batch)
    print(f"DPO, {sum(p.numel() for p in weights) / 1e6:.1f}M parameters, 16 pairs, 32 bits: pairs per CPU-second")
    for name, seconds in best(runs, 4).items():
        print(f"  {name:6}  {16 / seconds:5.2f}")


def trl_step(batch: Batch) -> Callable[[], object]:
    """One step of TRL's trainer on a model of the same size, from token ids to moved weights."""
    from datasets import Dataset
    from tokenizers import Tokenizer as Core
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    core = Core(WordLevel({"<eos>": 0, "<pad>": 1}, unk_token="<eos>"))
    lm = networks_of(LARGER).policy.trunk.lm
    folder = tempfile.mkdtemp()
    trainer = DPOTrainer(
        model=lm, ref_model=copy.deepcopy(lm),
        args=DPOConfig(output_dir=folder, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to=[]),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),  # it will not do without
        processing_class=PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>"),
    )  # fmt: skip
    prompts, responses = batch.prompt_ids.tolist(), batch.response_ids.tolist()
    examples = [
        {"prompt_ids": p, "chosen_ids": y, "rejected_ids": z} for p, (y, z) in zip(prompts, responses, strict=True)
    ]
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-6)

    def step() -> None:
        lm.zero_grad()
        trainer.compute_loss(lm, trainer.data_collator(examples)).backward()
        optimizer.step()

    return step


def sampler_table() -> None:
    policy = Network(trunk=trunk(SMALL))
    policy.trunk.lm.generation_config.eos_token_id = None  # neither side stops early
    policy.trunk.tokenizer.eos_token_id = VOCABULARY  # an id that is never drawn
    print("sampled tokens per CPU-second, 64 new tokens, 7M parameters")
    print("  prompts x K  prompt tokens  transformers  sparring  times faster")
    for B, K, P in ((32, 4, 16), (16, 4, 128), (4, 8, 32)):
        ids = rows(B, 1, P, 1).prompt_ids
        prompts = [tuple(p) for p in ids.tolist()]

        def theirs(ids: torch.Tensor = ids, K: int = K) -> None:
            mask = torch.ones_like(ids)
            policy.trunk.lm.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                num_return_sequences=K,
                max_new_tokens=64,
                pad_token_id=1,
            )

        def ours(prompts: list[tuple[int, ...]] = prompts, K: int = K) -> None:
            sample(policy, prompts, K, Sampling(max_tokens=64), seed=0)

        seconds = best({"theirs": theirs, "ours": ours}, 3)
        rates = {n: B * K * 64 / s for n, s in seconds.items()}
        faster = rates["ours"] / rates["theirs"]
        print(f"  {B:7d} x {K}  {P:13d}  {rates['theirs']:12.0f}  {rates['ours']:8.0f}  {faster:12.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all")

"""Tiny models with random weights, made on the spot: each architecture in its own habits."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sparring.data.batch import Batch, Row, collate
from sparring.models.forward import probe
from sparring.models.trunk import Trunk

V, D = 101, 32
EOS, PAD = 1, 0

_SIZES = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": V}
_ENDS = {"eos_token_id": EOS, "bos_token_id": EOS, "pad_token_id": PAD}
_LLAMA = {**_SIZES, **_ENDS, "max_position_embeddings": 96, "initializer_range": 0.2}


def tokenizer(size: int = V, *, eos: bool = True) -> Any:
    """Words w2, w3, ... at spaces; the eos and padding tokens first."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, size)}
    core = Tokenizer(models.WordLevel(words, unk_token="w2"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    ends = {"eos_token": "<eos>", "bos_token": "<eos>"} if eos else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="w2", **ends)


def config(name: str, tied: bool) -> Any:
    """The configuration of one architecture."""
    if name == "gpt2":
        return transformers.GPT2Config(
            n_embd=D, n_layer=2, n_head=4, vocab_size=V, n_positions=96, initializer_range=0.2, **_ENDS,
            tie_word_embeddings=tied,
        )  # fmt: skip
    if name == "llama":  # two query heads share each key
        return transformers.LlamaConfig(**_LLAMA, num_key_value_heads=2, tie_word_embeddings=tied)
    if name == "neox":
        return transformers.GPTNeoXConfig(**_LLAMA, tie_word_embeddings=tied)
    if name == "mistral":
        return transformers.MistralConfig(**_LLAMA, num_key_value_heads=2, sliding_window=6, tie_word_embeddings=tied)
    if name == "gemma2":  # its head ends in a tanh, and its layers alternate
        return transformers.Gemma2Config(
            **_LLAMA, num_key_value_heads=2, head_dim=8, sliding_window=32, tie_word_embeddings=tied,
            final_logit_softcapping=2.0, attn_logit_softcapping=None,
        )  # fmt: skip
    assert name == "bloom"  # no positions at all: it tells them from its mask
    return transformers.BloomConfig(
        hidden_size=D, n_layer=2, n_head=4, vocab_size=V, initializer_range=0.2, tie_word_embeddings=tied,
        eos_token_id=EOS, bos_token_id=EOS,
    )  # fmt: skip


def network(name: str, *, tied: bool = True, attention: str | None = "sdpa", seed: int = 0) -> Any:
    """A causal LM of random weights, its biases and norms random too."""
    torch.manual_seed(seed)
    attention = None if name in ("bloom", "gemma2") else attention  # their own: they have no other
    lm = transformers.AutoModelForCausalLM.from_config(config(name, tied), attn_implementation=attention)
    for p in lm.parameters():
        if p.dim() == 1:
            p.data.add_(0.2 * torch.randn_like(p))
    return lm.eval()


def trunk(name: str = "llama", *, tied: bool = True, attention: str = "sdpa", seed: int = 0, **more: Any) -> Trunk:
    """The same with a tokenizer, and with what it can do found out."""
    made = Trunk(
        lm=network(name, tied=tied, attention=attention, seed=seed), tokenizer=tokenizer(), source=name, **more
    )
    probe(made)
    return made


def folder(path: Path, name: str = "llama", *, tied: bool = True, seed: int = 0) -> Path:
    """A model folder on disk."""
    network(name, tied=tied, seed=seed).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def random_rows(seed: int, *, B: int, K: int, prompt: int = 6, response: int = 6) -> list[Row]:
    """Ragged rows: prompts of one token and more, responses of all lengths, some of them missing."""
    g = torch.Generator().manual_seed(seed)

    def draw(least: int, most: int) -> tuple[int, ...]:
        n = int(torch.randint(least, most + 1, (), generator=g))
        return tuple(torch.randint(0, V, (n,), generator=g).tolist())

    rows = []
    for i in range(B):
        here = int(torch.randint(1, K + 1, (), generator=g)) if i else K
        rows.append(Row(prompt=draw(1, prompt), responses=tuple(draw(1, response) for _ in range(here)), index=i))
    return rows


def random_batch(seed: int, *, B: int, K: int, pad: int = PAD) -> Batch:
    """The same as a batch; the padding id occurs in the text as well."""
    return collate(random_rows(seed, B=B, K=K), pad=pad)

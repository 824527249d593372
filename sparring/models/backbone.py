"""Load and save causal language models: the file that knows transformers.

Whatever cannot be used is refused here, before anything is computed, in words that say what to do.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparring.core.errors import ModelError
from sparring.models.decode import past_of
from sparring.models.folders import base_of, check_config, check_folder, resolve, whole_path
from sparring.models.forward import probe
from sparring.models.trunk import Trunk, merged, narrow

WANTED = {
    "AutoModelForCausalLM": "a causal language model",
    "AutoModelForSequenceClassification": "a sequence classifier",
}


def quiet() -> None:
    """Keep the libraries from drawing bars and giving advice; what matters is checked and said by us."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model folder, run folder or hub id."""
    from transformers import AutoTokenizer

    folder = resolve(path)
    quiet()
    try:
        tokenizer = _local_first(AutoTokenizer, folder, {"trust_remote_code": trust_remote_code})
    except Exception as error:
        missing = "the folder needs tokenizer.json" if Path(folder).is_dir() else "there is no folder of that name here"
        raise ModelError(f"{path}: no tokenizer could be loaded ({_first_line(error)}); {missing}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{path}: its tokenizer names no end-of-text token, so no response could end; set eos_token in "
            "tokenizer_config.json"
        )
    return tokenizer


def load_trunk(
    path: str,
    *,
    adapter: str = "none",
    rank: int = 16,
    device: str = "cpu",
    low: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Trunk:
    """Load a causal LM from a model folder, a run folder, an adapter folder or a hub id.

    An adapter folder is merged into its base when every weight is to be trained; else it stays as it is, new
    adapters begin as copies of it, and the reference is the tuned model. Weights are held in 32 bits unless
    they are quantised, or are those of linear maps below adapters: then in `low`, the number format that matrices
    are multiplied in, if that is given. Raises ModelError for anything that is missing, damaged, unsafe or does
    not fit its tokenizer.
    """
    folder = resolve(path)
    base, tuned = base_of(folder)
    check_folder(base, path)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    settings: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    if adapter == "qlora":
        settings |= {"quantization_config": _four_bit(), "device_map": {"": device}}
    lm = load_weights("AutoModelForCausalLM", base, path, settings)
    _keep_gradients(lm)
    _check_fit(lm, tokenizer, path)
    if tuned and adapter == "none":
        lm = merged(lm, tuned)
    lm.eval()
    trunk = Trunk(lm=lm, tokenizer=tokenizer, source=path, base=whole_path(base), adapter=adapter, rank=rank, low=low)
    waits = adapter == "lora" and low is not None  # the device may have no room for all weights in 32 bits
    if adapter != "qlora" and not waits:
        lm.to(device)
    probe(trunk)
    if adapter != "none":
        lm.requires_grad_(False)
        if tuned:
            trunk.start_from(tuned)
    if waits:
        narrow_all(trunk, low)
        lm.to(device)
    return trunk


def narrow_all(trunk: Trunk, low: torch.dtype | None) -> None:
    """Hold the linear maps of a frozen trunk in `low`, if that is given.

    How it goes on from what it has read is found out before, by comparing in 32 bits: rounding fails the comparison.
    """
    if low is not None:
        past_of(trunk, 0)
        narrow(trunk.lm, low)


def save_trunk(trunk: Trunk, folder: Path) -> None:
    """Write the policy as plain transformers (or peft) loads it, with its tokenizer and chat template."""
    if trunk.peft is not None:
        trunk.save_policy(folder)
    else:
        trunk.lm.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)


def load_weights(kind: str, folder: str, said: str, settings: Mapping[str, Any]) -> Any:
    """Load a model by the transformers class `kind`, and refuse one whose weights are not all there.

    `said` is what the user called it, for the messages of the ModelError that is raised.
    """
    import transformers

    quiet()
    asked = {**settings, "output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        model, info = _local_first(getattr(transformers, kind), folder, asked)
    except Exception as error:
        raise ModelError(
            f"{said}: it cannot be loaded as {WANTED[kind]} ({_first_line(error)}){_cure(error)}"
        ) from error
    names = model.config.architectures or []
    if names and type(model).__name__ not in names:
        raise ModelError(f"{said}: this is {', '.join(names)}; what is needed is {WANTED[kind]}")
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{said}: weights are missing from the file and would be random: {', '.join(missing[:3])}")
    if mismatched := sorted(str(m[0]) for m in info["mismatched_keys"]):
        raise ModelError(f"{said}: weights have another shape than config.json says: {', '.join(mismatched[:2])}")
    return model


def blank_classifier(trunk: Trunk) -> Any:
    """Make a sequence classifier with one label of the trunk's architecture, its weights still random."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(trunk.lm.config)
    pad = trunk.tokenizer.pad_token_id
    # transformers finds the last token by the padding id; one that also ends a text would hide the end.
    config.num_labels, config.pad_token_id = 1, None if pad == trunk.tokenizer.eos_token_id else pad
    with torch.random.fork_rng(devices=[]):
        return AutoModelForSequenceClassification.from_config(config)


def blank_model(path: str, *, trust_remote_code: bool = False) -> Any:
    """Make the causal LM that a config.json describes on the meta device: all shapes, no numbers, no memory.

    The folder needs no weights. Raises ModelError when there is no config.json, or no such model can be made of it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, _ = base_of(resolve(path))
    check_config(folder, path)
    quiet()
    asked = {"trust_remote_code": trust_remote_code}
    try:
        config = _local_first(AutoConfig, folder, asked)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **asked).eval()
    except Exception as error:
        raise ModelError(
            f"{path}: no {WANTED['AutoModelForCausalLM']} can be made of its config.json ({_first_line(error)})"
        ) from error


def tiny_model(vocabulary: list[str], *, width: int, layers: int, heads: int, context: int, seed: int) -> Trunk:
    """Make a small Llama with random weights and a word-level tokenizer over `vocabulary`, split at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    quiet()
    words = ["<pad>", "<eos>", "<unk>", *vocabulary]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<eos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=context, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = LlamaForCausalLM(config)
    trunk = Trunk(lm=lm.eval(), tokenizer=tokenizer, source="random weights")
    probe(trunk)
    return trunk


def _four_bit() -> Any:
    try:
        import bitsandbytes  # noqa: F401 - only to say clearly that it is missing
    except ImportError as error:
        raise ModelError("4-bit weights need bitsandbytes: pip install 'sparring[qlora]'") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def _keep_gradients(lm: Any) -> None:
    """Forbid bitsandbytes its inference kernel: on a CPU with AVX512-BF16 it takes it for every layer in eval mode,
    as ours always are (no dropout), and that kernel passes no gradient back to the adapters below."""
    for module in lm.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def _check_fit(lm: Any, tokenizer: Any, said: str) -> None:
    if lm.get_output_embeddings() is None:
        raise ModelError(f"{said}: {type(lm).__name__} has no language-model head")
    rows, last = lm.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if last >= rows:
        raise ModelError(
            f"{said}: the tokenizer has {last + 1} tokens but the model only {rows}; they do not belong together"
        )


def _local_first(loader: Any, folder: str, settings: Mapping[str, Any]) -> Any:
    """Load from disk or the local cache; ask the network only for a hub id that is not there."""
    try:
        return loader.from_pretrained(folder, local_files_only=True, **settings)
    except OSError:
        if Path(folder).is_dir():
            raise
    return loader.from_pretrained(folder, **settings)


def _cure(error: Exception) -> str:
    """What to do about the commonest ways in which loading fails."""
    if "Safetensor" in type(error).__name__:
        return "; the file of weights is damaged, so get it anew"
    if "custom code" in str(error):
        return "; read that code, and if you trust it add --trust-remote-code yes"
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]

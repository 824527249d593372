"""Load and save causal language models, with or without adapters: the one file that knows transformers and peft.

A `Trunk` is one set of weights. With adapters it carries every role of a run (policy, reference, value,
judge) on the same frozen weights; which role speaks is only a question of which adapter is switched on.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.errors import ModelError, did_you_mean

POLICY = "default"  # peft writes the adapter of this name into the folder itself, where others look for it
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


@dataclass(kw_only=True, eq=False)
class Trunk:
    """One set of weights, its tokenizer, and the adapters that hang on it.

    Dropout is never on: a ratio of two forward passes means something only if the passes agree.
    """

    lm: Any
    tokenizer: Any
    source: str
    adapter: str = "none"
    rank: int = 16
    peft: Any = None
    shares_prompts: bool = field(default=False)
    has_linear_head: bool = field(default=True)

    @property
    def body(self) -> nn.Module:
        """The network below the language-model head; it returns hidden states."""
        return self.lm.base_model

    @property
    def head(self) -> nn.Module:
        """The language-model head, from hidden states to logits."""
        return self.lm.get_output_embeddings()

    @property
    def width(self) -> int:
        """The size of a hidden state."""
        return self.lm.config.get_text_config().hidden_size

    @property
    def context(self) -> int | None:
        """How many positions the model has, or None if it does not say."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def parameters(self, adapter: str | None) -> dict[str, nn.Parameter]:
        """The weights that training a role may change: those of its adapter, or all when there are no adapters."""
        if self.adapter == "none":
            return dict(self.lm.named_parameters())
        if adapter is None:
            return {}
        return {n: p for n, p in self.peft.named_parameters() if f".{adapter}." in n}

    def add_adapter(self, name: str, seed: int) -> None:
        """Hang a new LoRA adapter on the trunk; at first it changes nothing, because one of its factors is zero."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank, lora_alpha=2 * self.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.peft is None:
                self.peft = get_peft_model(self.lm, config, adapter_name=name)
            else:
                self.peft.add_adapter(name, config)
        self.lm.eval()
        self._keep_adapters_trainable()

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Switch one adapter on, or all off for None; without adapters there is nothing to switch."""
        if self.peft is None:
            yield
        elif adapter is None:
            with self.peft.disable_adapter():
                yield
            self._keep_adapters_trainable()
        else:
            if self.peft.active_adapter != adapter:
                self.peft.set_adapter(adapter)
                self._keep_adapters_trainable()
            yield

    def _keep_adapters_trainable(self) -> None:
        # peft freezes an adapter when it is switched off, and autograd drops the gradient of a frozen leaf even in
        # a graph that was recorded before. Two roles may share one backward pass, so all stay trainable.
        for name, parameter in self.peft.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(True)

    def frozen_copy(self) -> "Trunk":
        """Copy the weights as they are now, never to be trained."""
        twin = copy.deepcopy(self)
        twin.lm.requires_grad_(False)
        return twin

    def copy(self) -> "Trunk":
        """Copy the weights as they are now, to be trained as another role."""
        return copy.deepcopy(self)


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
        tokenizer = _local_first(AutoTokenizer, folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(f"{path}: no tokenizer could be loaded ({_first_line(error)}); the folder needs tokenizer.json") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{path}: its tokenizer names no end-of-text token, so no response could end; set eos_token in tokenizer_config.json")
    return tokenizer


def load_trunk(
    path: str,
    *,
    adapter: str = "none",
    rank: int = 16,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Trunk:
    """Load a causal LM from a model folder, a run folder, an adapter folder or a hub id.

    An adapter folder is merged into its base first, so a new run starts from (and refers to) the tuned
    model. Weights are held in 32 bits unless they are quantised. Raises ModelError for anything that is
    missing, damaged, unsafe or does not fit its tokenizer.
    """
    folder = resolve(path)
    base, tuned = _base_of(folder)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    lm = _load_lm(base, path, quantise=adapter == "qlora", device=device, trust_remote_code=trust_remote_code)
    if tuned:
        if adapter == "qlora":
            raise ModelError(f"{path}: an adapter cannot be merged into 4-bit weights; use --adapter lora, or merge it first")
        from peft import PeftModel

        lm = PeftModel.from_pretrained(lm, tuned).merge_and_unload()
    _check_fit(lm, tokenizer, path)
    lm.eval()
    if adapter == "qlora":
        lm.requires_grad_(False)
    else:
        lm.to(device)
    trunk = Trunk(lm=lm, tokenizer=tokenizer, source=path, adapter=adapter, rank=rank)
    if adapter != "none":
        lm.requires_grad_(False)
    return trunk


def save_trunk(trunk: Trunk, folder: Path) -> None:
    """Write the policy as plain transformers (or peft) loads it, with its tokenizer and chat template."""
    if trunk.peft is not None:
        trunk.peft.save_pretrained(folder, selected_adapters=[POLICY])
    else:
        trunk.lm.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)


def save_scorer(trunk: Trunk, adapter: str | None, head: nn.Linear, folder: Path) -> None:
    """Write body and scalar head as a sequence classifier with one label, which transformers loads by itself.

    LoRA weights are merged first. Raises ModelError for 4-bit weights, which cannot be merged exactly.
    """
    from transformers import AutoModelForSequenceClassification

    if trunk.adapter == "qlora":
        raise ModelError("a judge on 4-bit weights cannot be saved as a model of its own; train it with --adapter lora")
    twin = trunk.copy() if trunk.peft is not None else trunk
    if twin.peft is not None:
        twin.lm = twin.peft.merge_and_unload(adapter_names=[adapter])
    config = copy.deepcopy(twin.lm.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        scorer = AutoModelForSequenceClassification.from_config(config)
    scorer.base_model.load_state_dict(twin.body.state_dict())
    scorer.score.load_state_dict({"weight": head.weight.detach().clone()})
    scorer.save_pretrained(folder)
    trunk.tokenizer.save_pretrained(folder)


def load_scorer(path: str, *, device: str = "cpu") -> tuple[Trunk, nn.Linear]:
    """Load a sequence classifier with one label: its body as a trunk, and its scalar head."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = resolve(path)
    quiet()
    try:
        config = AutoConfig.from_pretrained(folder)
        names = config.architectures or []
        if not any(n.endswith("ForSequenceClassification") for n in names):
            raise ModelError(f"{path}: this is {', '.join(names) or 'no model'}, not a reward model; train one with `sparring train reward_model`")
        scorer, info = _local_first(
            AutoModelForSequenceClassification, folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: the reward model cannot be loaded ({_first_line(error)})") from error
    if info["missing_keys"]:
        raise ModelError(f"{path}: weights are missing from the reward model: {sorted(info['missing_keys'])[:3]}")
    if scorer.score.out_features != 1:
        raise ModelError(f"{path}: the classifier has {scorer.score.out_features} labels; a reward model has one")
    scorer.to(device).eval().requires_grad_(False)
    return Trunk(lm=scorer, tokenizer=load_tokenizer(folder), source=path), scorer.score


def tiny_model(vocabulary: list[str], *, width: int, layers: int, heads: int, context: int, seed: int) -> Trunk:
    """Make a small Llama with random weights and a word-level tokenizer over `vocabulary`, split at spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *vocabulary]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
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
    return Trunk(lm=lm.eval(), tokenizer=tokenizer, source="random weights")


def resolve(path: str) -> str:
    """Turn what the user named into a folder or a hub id: a run folder stands for the model in it."""
    here = Path(path).expanduser()
    if (here / "run.yaml").is_file():
        if not (here / "model").is_dir():
            raise ModelError(f"{path}: this run has no finished model yet; finish it with `sparring train --resume --run {path}`")
        return str(here / "model")
    if here.is_dir():
        return str(here)
    if here.exists():
        raise ModelError(f"{path}: a model is a folder, this is a file")
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not here.parent.is_dir()
    if is_hub_id or ("/" not in path and path and not os.path.sep in path and _cached(path)):
        return path
    parent = here.parent if here.parent.is_dir() else Path(".")
    folders = [str(p) for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")]
    raise ModelError(f"{path}: no such model folder; {did_you_mean(path, folders)}")


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _base_of(folder: str) -> tuple[str, str | None]:
    """The base model and, when the folder holds an adapter, the adapter's folder."""
    import json

    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return folder, None
    try:
        return resolve(json.loads(file.read_text())["base_model_name_or_path"]), folder
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: does not say which model the adapter belongs to (base_model_name_or_path)") from error


def _load_lm(folder: str, said: str, *, quantise: bool, device: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    here = Path(folder)
    if here.is_dir():
        if not (here / "config.json").is_file():
            raise ModelError(f"{said}: no config.json in this folder, so it holds no model; it has {sorted(p.name for p in here.iterdir())[:6]}")
        if not any((here / name).is_file() for name in WEIGHTS):
            raise ModelError(f"{said}: no safetensors weights here; weights in other formats can run code when loaded and are refused")
    settings: dict[str, Any] = {"dtype": torch.float32}
    if quantise:
        settings = {"quantization_config": _four_bit(), "device_map": {"": device}}
    try:
        lm, info = _local_first(
            AutoModelForCausalLM, folder, output_loading_info=True, use_safetensors=True,
            trust_remote_code=trust_remote_code, **settings,
        )  # fmt: skip
    except Exception as error:
        raise ModelError(f"{said}: the model cannot be loaded ({_first_line(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{said}: weights are missing from the file and would be random: {missing[:3]}; is this a causal language model?")
    if mismatched := sorted(info["mismatched_keys"]):
        raise ModelError(f"{said}: weights do not fit config.json: {mismatched[:2]}")
    return lm


def _four_bit() -> Any:
    try:
        import bitsandbytes  # noqa: F401 - only to say clearly that it is missing
    except ImportError as error:
        raise ModelError("4-bit weights need bitsandbytes: pip install 'sparring[qlora]'") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def _check_fit(lm: Any, tokenizer: Any, said: str) -> None:
    rows, pieces = lm.get_input_embeddings().weight.shape[0], len(tokenizer)
    if lm.get_output_embeddings() is None:
        raise ModelError(f"{said}: {type(lm).__name__} has no language-model head")
    if pieces > max(rows, getattr(lm.config.get_text_config(), "vocab_size", rows)):
        raise ModelError(f"{said}: the tokenizer has {pieces} tokens but the model only {rows}; they do not belong together")


def _local_first(loader: Any, folder: str, **settings: Any) -> Any:
    """Load from disk or the local cache; ask the network only for a hub id that is not there."""
    try:
        return loader.from_pretrained(folder, local_files_only=True, **settings)
    except OSError:
        if Path(folder).is_dir():
            raise
    return loader.from_pretrained(folder, **settings)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"[:300]

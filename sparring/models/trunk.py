"""One set of weights for every role of a run, and the adapters that tell the roles apart: the file that knows peft.

With adapters a trunk carries policy, reference, value and judge on the same frozen weights; which role
speaks is only a question of which adapter is switched on.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.errors import ModelError
from sparring.models.cache import Past
from sparring.models.lora import hasten

POLICY = "default"  # peft writes the adapter of this name into the folder itself, where others look for it
START = "start"  # the finished adapter that a run began from
BARE = ""  # no adapter, not even that one: the model that all of them hang on


@dataclass(kw_only=True, eq=False)
class Trunk:
    """One set of weights, its tokenizer, and the adapters that hang on it.

    Dropout is never on: a ratio of two forward passes means something only if the passes agree.

    `low` is the number format that matrices are multiplied in, where that is a narrower one than weights are held in:
    linear maps that nobody trains are held in it too, which changes no product and saves half of their memory.

    What the architecture can do is not known by its name but found out by computing: `shares_prompts` and
    `has_linear_head` by `forward.probe`, `past` at the first sampling (None before).
    """

    lm: Any
    tokenizer: Any
    source: str
    base: str = ""
    adapter: str = "none"
    rank: int = 16
    low: torch.dtype | None = None
    peft: Any = None
    shares_prompts: bool = False
    has_linear_head: bool = False
    past: Past | None = None

    @property
    def body(self) -> nn.Module:
        """The network below the language-model head; it returns hidden states."""
        return self.lm.base_model

    @property
    def head(self) -> nn.Module | None:
        """The language-model head, from hidden states to logits; None for a model that only scores."""
        return self.lm.get_output_embeddings()

    @property
    def width(self) -> int:
        """The size of a hidden state."""
        return self.lm.config.get_text_config().hidden_size

    @property
    def remembered(self) -> int:
        """How many numbers the keys and values of one token are, in all layers."""
        config = self.lm.config.get_text_config()
        heads = config.num_attention_heads
        a_head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * a_head

    @property
    def context(self) -> int | None:
        """How many positions the model has, or None if it does not say."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)

    @property
    def embedding(self) -> Tensor:
        """The input embeddings, which say where the weights are and in which number format they compute."""
        return self.lm.get_input_embeddings().weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def has_start(self) -> bool:
        """Whether the run began from a finished adapter."""
        return self.peft is not None and START in self.peft.peft_config

    def parameters(self, adapter: str | None) -> dict[str, nn.Parameter]:
        """The weights that training a role may change: those of its adapter, or all when there are no adapters."""
        if self.adapter == "none":
            return dict(self.lm.named_parameters())
        if not adapter:  # None or BARE
            return {}
        return {n: p for n, p in self.peft.named_parameters() if f".{adapter}." in n}

    def add_adapter(self, name: str, seed: int) -> None:
        """Hang a new LoRA adapter on the trunk. At first it changes nothing: one of its factors is zero, or the
        adapter is a copy of the finished one that the run began from."""
        from peft import LoraConfig, get_peft_model

        if self.has_start:
            config = copy.deepcopy(self.peft.peft_config[START])
        else:
            config = LoraConfig(
                r=self.rank, lora_alpha=2 * self.rank, lora_dropout=0.0, target_modules="all-linear",
                task_type="CAUSAL_LM", fan_in_fan_out=_is_transposed(self.lm),
            )  # fmt: skip
        config.inference_mode = False
        with torch.random.fork_rng(devices=[]), _hushed():
            torch.manual_seed(seed)
            if self.peft is None:
                self.peft = get_peft_model(self.lm, config, adapter_name=name)
            else:
                self.peft.add_adapter(name, config)
        if self.has_start:
            weights = dict(self.peft.named_parameters())
            for own, p in self.parameters(name).items():
                p.data.copy_(weights[own.replace(f".{name}.", f".{START}.")])
        self.lm.eval()
        hasten(self._layers())
        self._keep_adapters_trainable()

    def start_from(self, folder: str) -> None:
        """Hang a finished adapter on the trunk for good. It is never trained; with all others off, it is on."""
        from peft import PeftModel

        with _hushed():
            self.peft = PeftModel.from_pretrained(self.lm, folder, adapter_name=START)
        hasten(self._layers())
        found = self.peft.peft_config[START]
        if getattr(found, "r", None) is None or getattr(found, "modules_to_save", None):
            raise ModelError(
                f"{folder}: only plain LoRA adapters can be trained further; merge this one into its model"
            )
        if found.r != self.rank:
            raise ModelError(
                f"{folder}: this adapter has rank {found.r}, so a run that begins from it needs --rank {found.r}"
            )

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Switch one adapter on; for None, be what the run began from, and for BARE what lies below all adapters.

        Without adapters there is nothing to switch.
        """
        if self.peft is None:
            yield
            return
        if adapter == BARE or (adapter is None and not self.has_start):
            with self.peft.disable_adapter():
                yield
            self._keep_adapters_trainable()
            return
        wanted = adapter or START
        if self.peft.active_adapter != wanted:
            self.peft.set_adapter(wanted)
            self._keep_adapters_trainable()
        yield

    def _layers(self) -> list[Any]:
        """The linear maps that adapters hang on, where neither is of a special kind."""
        if self.peft is None:
            return []
        from peft.tuners.lora import Linear

        return [module for module in self.peft.modules() if type(module) is Linear]

    @contextmanager
    def attending(self, attend: Callable[..., Any]) -> Iterator[None]:
        """Let every layer attend by a function of ours, as long as it lasts."""
        from transformers import AttentionInterface

        config = self.lm.config.get_text_config()
        usual = config._attn_implementation
        AttentionInterface.register("sparring", attend)
        config._attn_implementation = "sparring"
        try:
            yield
        finally:
            config._attn_implementation = usual

    def library_cache(self) -> Any:
        """Make the library's own cache, for architectures with sliding windows or other special layers."""
        from transformers.cache_utils import DynamicCache

        return DynamicCache(config=self.lm.config)

    def _keep_adapters_trainable(self) -> None:
        # peft freezes an adapter when it is switched off, and autograd drops the gradient of a frozen leaf even in
        # a graph that was recorded before. Two roles may share one backward pass, so all stay trainable.
        for name, parameter in self.peft.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(f".{START}." not in name)

    def save_policy(self, folder: Path) -> None:
        """Write the policy's adapter as peft loads it; it names the model it belongs to."""
        self.peft.peft_config[POLICY].base_model_name_or_path = self.base
        self.peft.save_pretrained(folder, selected_adapters=[POLICY], save_embedding_layers=False)

    def merged(self, adapter: str) -> Any:
        """Make a model of its own, in 32 bits, with one adapter added to its weights; the trunk stays as it is."""
        device = self.device
        self.lm.to("cpu")  # a second body in 32 bits may find no room where the first one is
        try:
            twin = self.copy()
        finally:
            self.lm.to(device)
        twin.peft.float()  # the adapter's share would be lost in the rounding of 16 bits
        return twin.peft.merge_and_unload(adapter_names=[adapter])

    def frozen_copy(self) -> "Trunk":
        """Copy the weights as they are now, never to be trained."""
        twin = self.copy()
        twin.lm.requires_grad_(False)
        narrow(twin.lm, self.low)
        return twin

    def copy(self) -> "Trunk":
        """Copy the weights as they are now, to be trained as another role."""
        lm, peft = copy.deepcopy((self.lm, self.peft))
        return replace(self, lm=lm, peft=peft)


def narrow(lm: Any, low: torch.dtype | None) -> None:
    """Hold the linear maps of a frozen model in the number format of the products, if that is another one.

    Adapters stay as they are, and a map that shares its weights with the input embeddings, for these are looked up.
    """
    if low is None:
        return
    for name, module in lm.named_modules():
        if is_map(module) and "lora_" not in name and module.weight is not lm.get_input_embeddings().weight:
            module.weight.data = module.weight.data.to(low)


def is_map(module: Any) -> bool:
    """Tell whether a module is a linear map, by the name that GPT-2 has for it too."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def merged(lm: Any, folder: str) -> Any:
    """Add a finished adapter to the weights it was trained on, for good."""
    from peft import PeftModel

    with _hushed():
        return PeftModel.from_pretrained(lm, folder).merge_and_unload()


def _is_transposed(lm: Any) -> bool:
    """Whether its linear maps keep their weights the other way round, as GPT-2's do; peft has to be told."""
    return any(type(module).__name__ == "Conv1D" for module in lm.modules())


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep back what the libraries tell each other: peft 0.21 still asks for a name that transformers 5 gives up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

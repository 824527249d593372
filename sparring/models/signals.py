"""Ask the networks only for what an equation asked for.

A `Network` is one role: a trunk, the adapter that is switched on for it, and perhaps a scalar head. The
names of an equation's parameters decide which networks run at all: no reference pass unless one is named.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sparring.core.errors import SettingError
from sparring.core.masked import masked_mean
from sparring.data.batch import Batch
from sparring.models import logprobs
from sparring.models.allowed import restrict
from sparring.models.forward import States, lay_out_dense, states
from sparring.models.heads import means_so_far, read, scalar_head, spread
from sparring.models.trunk import POLICY, Trunk


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One role of a run: a trunk, which of its adapters speaks (None: none), and a scalar head if it scores.

    A scoring role `reads` the state after the last token, or the mean of the states after every token of the
    response. The mean cannot look at how a text ends, and learns from far fewer examples (docs/log.md). A role that
    `relaxes` reads mixtures of tokens, made of each batch by this function, where others read its tokens.
    """

    trunk: Trunk
    adapter: str | None = None
    head: nn.Linear | None = None
    reads: str = "last"
    relaxes: Callable[[Batch], Float[Tensor, "N V"]] | None = None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let gradients pass through what is computed now, and none reach this role's own weights."""
        with self.trunk.using(self.adapter):
            own = [p for p in self.trainable().values() if p.requires_grad]
            for p in own:
                p.requires_grad_(False)
            try:
                yield
            finally:
                for p in own:
                    p.requires_grad_(True)

    def states(self, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None) -> States:
        """Compute the hidden states of this role, which reads `relaxed` mixtures where they are given."""
        if relaxed is None and self.relaxes is not None:
            relaxed = self.relaxes(batch)
        with self.trunk.using(self.adapter):
            return states(self.trunk, batch, relaxed)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that training this role changes, by name: no language-model head for a role that scores."""
        own = self.trunk.parameters(self.adapter)
        if self.head is None:
            return {f"body.{n}": p for n, p in own.items()}
        if self.trunk.adapter == "none":
            own = dict(self.trunk.body.named_parameters())
        return {f"body.{n}": p for n, p in own.items()} | {f"head.{n}": p for n, p in self.head.named_parameters()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """The roles of a run. `critic` reads the policy's own states, detached, when it has no adapter of its own:
    a value loss that reached a shared body would pull the policy with it."""

    policy: Network
    reference: Network | None = None
    critic: Network | None = None
    scorer: Network | None = None
    temperature: float = 1.0


def new_policy(trunk: Trunk, seed: int) -> Network:
    """Make the role that is trained: a first adapter on the trunk, or the trunk itself."""
    if trunk.adapter == "none":
        trunk.lm.requires_grad_(True)
        return Network(trunk=trunk)
    trunk.add_adapter(POLICY, seed)
    return Network(trunk=trunk, adapter=POLICY)


def new_reference(policy: Network) -> Network:
    """Make the frozen start of the policy: the same trunk with its adapters off, or a frozen copy."""
    return frozen_start(policy.trunk)


def frozen_start(trunk: Trunk) -> Network:
    """Make a role that stays what the trunk is now: the trunk with its adapters off, or a frozen copy."""
    return Network(trunk=trunk if trunk.adapter != "none" else trunk.frozen_copy())


def new_masker(policy: Network, seed: int) -> Network:
    """Make a role that can be what the policy was: an adapter of its own, or a frozen copy."""
    if policy.adapter is None:
        return Network(trunk=policy.trunk.frozen_copy())
    policy.trunk.add_adapter("masker", seed)
    return Network(trunk=policy.trunk, adapter="masker")


def new_scorer(trunk: Trunk, name: str, seed: int, *, copies: bool = True, reads: str = "last") -> Network:
    """Make a role that gives one number: a further adapter on the trunk, or a trunk of its own, and a head.

    Without adapters the trunk is copied, unless it has no other role and `copies` is false.

    A head that reads the last state starts at zero mean and a spread of 1/sqrt(width + 1), as reward models do
    (Stiennon 2020); one that reads the mean starts at zero, so that nothing is rewarded before it is learnt.
    """
    head = scalar_head(trunk, seed)
    if reads == "mean":
        nn.init.zeros_(head.weight)
    if trunk.adapter != "none":
        trunk.add_adapter(name, seed)
        return Network(trunk=trunk, adapter=name, head=head, reads=reads)
    own = trunk.copy() if copies else trunk
    own.body.requires_grad_(True)
    return Network(trunk=own, head=head, reads=reads)


def new_critic(policy: Network, seed: int) -> Network:
    """Make the value role: an adapter and a head on the policy's trunk, or only a head on its own states."""
    head = scalar_head(policy.trunk, seed)
    nn.init.zeros_(head.weight)
    if policy.adapter is None:
        return Network(trunk=policy.trunk, head=head)
    policy.trunk.add_adapter("critic", seed)
    return Network(trunk=policy.trunk, adapter="critic", head=head)


def asks_for_reference(names: Sequence[str]) -> bool:
    """Tell whether one of these signals is measured against the frozen reference."""
    return not {"ref_token_logps", "token_kls"}.isdisjoint(names)


def compute(names: Sequence[str], batch: Batch, networks: Networks) -> dict[str, Tensor]:
    """Compute the named signals, and no others. Old signals are computed without gradient, now."""
    forward = _Once(batch)
    recipes: dict[str, Callable[[], Tensor | None]] = {
        "mask": lambda: batch.mask,
        "margin": lambda: batch.margin,
        "label": lambda: batch.label,
        "ratings": lambda: batch.ratings,
        "token_logps": lambda: _logps(networks, networks.policy, batch, forward),
        "other_token_logps": lambda: _opposite_logps(networks, batch),
        "entropies": lambda: _entropies(networks, batch, forward),
        "token_kls": lambda: _token_kls(networks, batch, forward),
        "values": lambda: _values(networks, batch, forward),
        "scores": lambda: score(networks.scorer, batch) if networks.scorer else None,
        "old_token_logps": lambda: _frozen(lambda: _logps(networks, networks.policy, batch, _Once(batch))),
        "old_values": lambda: _frozen(lambda: _values(networks, batch, _Once(batch))),
        "ref_token_logps": lambda: _frozen(lambda: _logps(networks, networks.reference, batch, _Once(batch))),
    }
    found = {name: recipes[name]() for name in names}
    return {name: value for name, value in found.items() if value is not None}


def score(network: Network, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "B K"]:
    """Read a scalar head once for each response, of `relaxed` tokens if given; one that is not there scores zero."""
    assert network.head is not None
    seen = network.states(batch, relaxed)
    if network.reads == "mean":
        return masked_mean(spread(read(network.head, seen.own), batch.mask), batch.mask)
    flat = read(network.head, seen.last)
    out = torch.zeros(batch.exists.shape, dtype=flat.dtype, device=flat.device)
    return out.masked_scatter(batch.exists, flat)


def score_prefixes(network: Network, batch: Batch) -> Float[Tensor, "B K T"]:
    """Score each response up to each of its tokens as `score` would if it ended there; 0 on padding."""
    assert network.head is not None
    at_tokens = spread(read(network.head, network.states(batch).own), batch.mask)
    return means_so_far(at_tokens, batch.mask) if network.reads == "mean" else at_tokens


@torch.no_grad()
def mean_states(network: Network, batch: Batch) -> Float[Tensor, "B K D"]:
    """Average the states after every token of each response; zero for one that is not there."""
    own = network.states(batch).own.float()
    spread = torch.zeros(*batch.mask.shape, own.shape[-1], device=own.device)
    spread[batch.mask] = own
    return spread.sum(2) / batch.mask.sum(-1, keepdim=True).clamp(min=1)


class _Once:
    """The states of a network, computed at the first request and kept for the second."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.known: dict[int, States] = {}

    def __call__(self, network: Network) -> States:
        key = id(network)
        if key not in self.known:
            self.known[key] = network.states(self.batch)
        return self.known[key]


def _frozen(recipe: Callable[[], Tensor | None]) -> Tensor | None:
    with torch.no_grad():
        return recipe()


def _logps(
    networks: Networks, network: Network | None, batch: Batch, forward: Callable[[Network], States]
) -> Float[Tensor, "B K T"]:
    assert network is not None, "an equation asked for a network that the loop did not make"
    head = _linear_head(network)
    allowed = None
    if batch.allowed is not None and network is networks.policy:  # the reference may say what it likes
        allowed = batch.allowed[batch.mask]
    if head is None:
        flat = _general_logps(network, batch, networks.temperature, allowed)
    else:
        flat = logprobs.token_logps(
            forward(network).before, head.weight, head.bias, batch.response_ids[batch.mask],
            temperature=networks.temperature, allowed=allowed,
        )  # fmt: skip
    return spread(flat, batch.mask)


def _opposite_logps(networks: Networks, batch: Batch) -> Float[Tensor, "B K T"]:
    other = batch.asking_for_the_opposite()
    return _logps(networks, networks.policy, other, _Once(other))


def _entropies(networks: Networks, batch: Batch, forward: Callable[[Network], States]) -> Float[Tensor, "B K T"]:
    head = _plain_head(networks.policy, "entropy")
    seen = forward(networks.policy).before
    return spread(logprobs.entropies(seen, head.weight, head.bias, temperature=networks.temperature), batch.mask)


def _token_kls(networks: Networks, batch: Batch, forward: Callable[[Network], States]) -> Float[Tensor, "B K T"]:
    assert networks.reference is not None
    head, ref_head = (_plain_head(network, "KL") for network in (networks.policy, networks.reference))
    with torch.no_grad():
        before = networks.reference.states(batch).before
    flat = logprobs.divergences(
        forward(networks.policy).before, head.weight, head.bias, before, ref_head.weight, ref_head.bias,
        temperature=networks.temperature,
    )  # fmt: skip
    return spread(flat, batch.mask)


def _plain_head(network: Network, figure: str) -> nn.Linear:
    """Find the linear head that a figure over the whole vocabulary is computed with."""
    head = _linear_head(network)
    if head is None:
        raise SettingError(f"the {figure} of this model's tokens cannot be computed: its head is more than linear")
    return head


def _linear_head(network: Network) -> nn.Linear | None:
    """Find the head whose logits are a linear map of the last states; None for the few models that do more."""
    head = network.trunk.head
    return head if network.trunk.has_linear_head and isinstance(head, nn.Linear) else None


def _values(networks: Networks, batch: Batch, forward: Callable[[Network], States]) -> Float[Tensor, "B K T"]:
    critic = networks.critic
    assert critic is not None and critic.head is not None
    if critic.adapter is None:
        hidden = forward(networks.policy).before.detach()
    else:
        hidden = forward(critic).before
    return spread(read(critic.head, hidden), batch.mask)


def _general_logps(
    network: Network, batch: Batch, temperature: float, allowed: UInt8[Tensor, "N W"] | None
) -> Float[Tensor, " N"]:
    """Ask the whole model for logits, for the few architectures whose head is more than a linear map."""
    layout = lay_out_dense(batch)
    with network.trunk.using(network.adapter):
        logits = network.trunk.lm(input_ids=layout.ids, use_cache=False).logits
    logits = logits.reshape(-1, logits.shape[-1])[layout.before].float() / temperature
    logps = restrict(logits, allowed).log_softmax(-1)
    return logps.gather(-1, batch.response_ids[batch.mask][:, None])[:, 0]

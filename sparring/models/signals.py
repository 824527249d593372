"""Ask the networks only for what an equation asked for.

The names of an equation's parameters decide which networks run at all: no reference pass unless one is named.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sparring.core.errors import SettingError
from sparring.core.masked import masked_mean
from sparring.data.batch import Batch
from sparring.models import logprobs
from sparring.models.allowed import restrict
from sparring.models.forward import States, lay_out_dense
from sparring.models.heads import RatioHead, at_end, means_so_far, read, spread
from sparring.models.roles import Network, Networks


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
    if isinstance(network.head, RatioHead):
        return at_end(score_prefixes(network, batch, relaxed), batch.mask)
    assert network.head is not None
    seen = network.states(batch, relaxed)
    if network.reads == "mean":
        return masked_mean(spread(read(network.head, seen.own), batch.mask), batch.mask)
    flat = read(network.head, seen.last)
    out = torch.zeros(batch.exists.shape, dtype=flat.dtype, device=flat.device)
    return out.masked_scatter(batch.exists, flat)


def score_prefixes(
    network: Network, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None
) -> Float[Tensor, "B K T"]:
    """Score each response up to each of its tokens as `score` would if it ended there; 0 on padding."""
    if isinstance(network.head, RatioHead):
        return network.head(_log_ratios(network, batch, relaxed), batch.mask)
    assert network.head is not None
    at_tokens = spread(read(network.head, network.states(batch, relaxed).own), batch.mask)
    return means_so_far(at_tokens, batch.mask) if network.reads == "mean" else at_tokens


def log_probabilities(
    network: Network, batch: Batch, temperature: float, relaxed: Float[Tensor, "N V"] | None = None
) -> Float[Tensor, "N V"]:
    """Compute the log-probabilities (in nats) of all tokens at each place of the responses, or of relaxed ones."""
    head = network.trunk.head
    assert isinstance(head, nn.Linear), "rollout.relaxed refuses other heads"
    return (head(network.states(batch, relaxed).before).float() / temperature).log_softmax(-1)


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


def _log_ratios(network: Network, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "B K T"]:
    """Say of every response token how much likelier it is to a role than to the one that it is held against.

    A mixture of tokens is as much likelier as its tokens are on average.
    """
    assert network.against is not None
    mixtures = network.mixtures(batch, relaxed)
    if mixtures is not None:
        own, other = (log_probabilities(role, batch, 1.0, mixtures) for role in (network, network.against))
        return spread((mixtures * (own - other)).sum(-1), batch.mask)
    free = replace(batch, allowed=None)  # whoever judges may find anything likely
    networks, forward = Networks(policy=network), _Once(free)
    own = _logps(networks, network, free, forward)
    with torch.no_grad():
        other = _logps(networks, network.against, free, forward)
    return own - other


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
    assert critic is not None and isinstance(critic.head, nn.Linear)
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

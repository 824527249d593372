"""The roles of a run: a trunk, the adapter that is switched on for it, and perhaps a scalar head."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from sparring.data.batch import Batch
from sparring.models.forward import States, states
from sparring.models.heads import RatioHead, scalar_head
from sparring.models.trunk import POLICY, Trunk


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One role of a run: a trunk, which of its adapters speaks (None: its start), and a scalar head if it scores.

    A scoring role `reads` the state after the last token, or the mean of the states after every token of the
    response. The mean cannot look at how a text ends, and learns from far fewer examples (docs/log.md). One that is
    held `against` another role reads the ratio of the likelihoods that the two give to the response. A role that
    `relaxes` reads mixtures of tokens, made of each batch by this function, where others read its tokens.
    """

    trunk: Trunk
    adapter: str | None = None
    head: nn.Linear | RatioHead | None = None
    reads: str = "last"
    against: "Network | None" = None
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

    def mixtures(self, batch: Batch, given: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"] | None:
        """The mixtures of tokens that this role reads: those given, or its own; None where it reads tokens."""
        return self.relaxes(batch) if given is None and self.relaxes is not None else given

    def states(self, batch: Batch, relaxed: Float[Tensor, "N V"] | None = None) -> States:
        """Compute the hidden states of this role, which reads `relaxed` mixtures where they are given."""
        mixtures = self.mixtures(batch, relaxed)
        with self.trunk.using(self.adapter):
            return states(self.trunk, batch, mixtures)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that training this role changes, by name: no language-model head for a role that reads states."""
        own = self.trunk.parameters(self.adapter)
        if self.head is None:
            return {f"body.{n}": p for n, p in own.items()}
        if self.trunk.adapter == "none" and self.against is None:
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


def new_anchor(scorer: Network, seed: int) -> Network:
    """Make a role that can be what a scorer was: an adapter of its own or a frozen copy, with a head of its own."""
    head = copy.deepcopy(scorer.head)
    if scorer.adapter is None:
        return Network(trunk=scorer.trunk.frozen_copy(), head=head, reads=scorer.reads)
    scorer.trunk.add_adapter("anchor", seed)
    return Network(trunk=scorer.trunk, adapter="anchor", head=head, reads=scorer.reads)


def new_ratio(trunk: Trunk, name: str, seed: int, against: Network, length: float) -> Network:
    """Make a role that scores a response by how much likelier it finds it than `against` does, which stays as it is.

    It is a further adapter on the trunk, or a copy of it: before it has learnt anything, it scores by the ratio of what
    the trunk is now to `against`. `length` is that of a usual response, in tokens.
    """
    head = RatioHead(length).to(trunk.device)
    if trunk.adapter != "none":
        trunk.add_adapter(name, seed)
        return Network(trunk=trunk, adapter=name, head=head, against=against)
    own = trunk.copy()
    own.lm.requires_grad_(True)
    return Network(trunk=own, head=head, against=against)


def new_critic(policy: Network, seed: int) -> Network:
    """Make the value role: an adapter and a head on the policy's trunk, or only a head on its own states."""
    head = scalar_head(policy.trunk, seed)
    nn.init.zeros_(head.weight)
    if policy.adapter is None:
        return Network(trunk=policy.trunk, head=head)
    policy.trunk.add_adapter("critic", seed)
    return Network(trunk=policy.trunk, adapter="critic", head=head)

"""Text that the policy goes on learning beside its own samples, so that it does not forget how to write it.

Each update of the policy takes the next texts of an endless shuffled row. Which ones follows from the number of
the update alone, so a resumed run goes on exactly. Their loss is fine-tuning's, at temperature 1, and is divided
by its own tokens; so its weight means the same whatever the size of either batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparring import methods
from sparring.core.registry import needs
from sparring.data.batch import Row, collate
from sparring.loops.order import Order
from sparring.models.machine import Machine
from sparring.models.roles import Networks
from sparring.models.signals import compute
from sparring.models.update import Updater, micro_batches


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The texts, which of them an update takes, and how much their loss weighs beside the policy's."""

    rows: Sequence[Row]
    order: Order
    weight: float
    networks: Networks
    updater: Updater
    machine: Machine
    micro_tokens: int

    def add(self) -> None:
        """Add the gradient of the next texts to the coming step, already divided and weighted."""
        equation, networks = methods.get("sft")(), replace(self.networks, temperature=1.0)
        rows = self.machine.share([self.rows[i] for i in self.order.at(self.updater.steps)])
        for part in micro_batches([r.tokens for r in rows], self.micro_tokens):
            chosen = [rows[i] for i in part]
            with self.machine.computing():
                signals = compute(needs(equation.loss), collate(chosen).to(self.machine.device), networks)
                loss = equation.loss(**signals)
            self.updater.backward(loss, tuple(r.where for r in chosen))
        self.updater.set_aside("pretrain_loss", self.weight)

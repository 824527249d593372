"""The two sides of a comparison with TRL: what its trainers compute, and what we compute from the same token ids."""

import copy
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring import methods
from sparring.core.registry import needs, welcomes
from sparring.data.batch import Row, collate
from sparring.models.forward import probe
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from sparring.models.trunk import Trunk
from tests import nets

TOLERANCE = 1e-5  # of the loss, and of the length of the gradient; 32 bits carry seven digits


@dataclass(frozen=True, kw_only=True)
class Found:
    """A loss and its gradient by the names of the weights; a multiple of one or a sum of two is such a pair again."""

    loss: Tensor
    gradient: dict[str, Tensor]

    def __add__(self, other: "Found") -> "Found":
        assert self.gradient.keys() == other.gradient.keys()
        summed = {n: g + other.gradient[n] for n, g in self.gradient.items()}
        return Found(loss=self.loss + other.loss, gradient=summed)

    def __rmul__(self, factor: float) -> "Found":
        return Found(loss=factor * self.loss, gradient={n: factor * g for n, g in self.gradient.items()})

    def __sub__(self, other: "Found") -> "Found":
        return self + (-1) * other


def assert_same(ours: Found, theirs: Found) -> None:
    a, b = (torch.cat([x.gradient[n].flatten() for n in sorted(theirs.gradient)]) for x in (ours, theirs))
    assert ours.gradient.keys() == theirs.gradient.keys()
    assert float(b.norm()) > 0, "nothing is compared where the gradient is zero"
    off_loss, off_gradient = abs(float(ours.loss / theirs.loss - 1)), float((a - b).norm() / b.norm())
    print(f"off by {off_loss:.1e} of the loss, {off_gradient:.1e} of the gradient")
    assert off_loss < TOLERANCE and off_gradient < TOLERANCE


def words(draw: random.Random, least: int, most: int) -> str:
    # Not w20 to w29: the unknown token w2 is found within them.
    return " ".join(f"w{draw.randint(30, nets.V - 1)}" for _ in range(draw.randint(least, most)))


def pairs(n: int = 6, *, length: int | None = None) -> list[dict]:
    """Prompts and responses of all lengths, or responses of one length."""
    draw, sizes = random.Random(0), (length, length) if length else (1, 9)
    return [
        {"prompt": words(draw, 1, 6), "chosen": " " + words(draw, *sizes), "rejected": " " + words(draw, *sizes)}
        for _ in range(n)
    ]


def their(trainer, config, data, lm, folder, *, reference=None, **settings) -> tuple[dict, Found]:
    """A batch of a trainer's own making, and the loss and gradient it computes from it."""
    from datasets import Dataset

    args = config(
        output_dir=str(folder), per_device_train_batch_size=len(data), bf16=False, gradient_checkpointing=False,
        report_to=[], use_cpu=True, disable_tqdm=True, **settings,
    )  # fmt: skip
    with_reference = {} if reference is None else {"ref_model": copy.deepcopy(reference)}
    made = trainer(
        model=copy.deepcopy(lm), args=args, train_dataset=Dataset.from_list(data), processing_class=nets.tokenizer(),
        **with_reference,
    )  # fmt: skip
    batch = next(iter(made.get_train_dataloader()))
    found = made.compute_loss(made.model, dict(batch))
    found.backward()
    return batch, Found(loss=found.detach(), gradient=gradient(made.model))


def our(method: str, rows: list[Row], lm, *, reference=None, head=None, known=None, **knobs) -> Found:
    """The loss and gradient of a method of ours on these rows, with the one division."""
    equation = methods.get(method)(**knobs)
    policy = Network(trunk=trunk(copy.deepcopy(lm)), head=copy.deepcopy(head))
    other = None if reference is None else Network(trunk=trunk(reference))
    networks = Networks(policy=policy, reference=other, scorer=policy)
    asked = [n for n in [*needs(equation.loss), *welcomes(equation.loss)] if n not in (known or {})]
    loss = equation.loss(**(known or {}), **compute(asked, collate(rows), networks))
    value = loss.total.sum() / loss.weight.sum()
    value.backward()
    own = {} if policy.head is None else {"score.weight": policy.head.weight.grad}  # as transformers calls it
    return Found(loss=value.detach(), gradient=gradient(policy.trunk.lm) | own)


def trunk(lm) -> Trunk:
    made = Trunk(lm=lm, tokenizer=nets.tokenizer(), source="llama")
    probe(made)
    assert made.shares_prompts and made.has_linear_head
    return made


def gradient(lm) -> dict[str, Tensor]:
    return {n: p.grad for n, p in lm.named_parameters() if p.grad is not None}


def parts(ids: Tensor, seen: Tensor, is_response: Tensor) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The prompt and the response of each sequence, by masks."""
    seen, is_response = seen.bool(), is_response.bool()
    return [
        (tuple(row[s & ~r].tolist()), tuple(row[r].tolist())) for row, s, r in zip(ids, seen, is_response, strict=True)
    ]


def stacked_pairs(batch: dict) -> list[Row]:
    """The rows of a batch in which all chosen sequences come first and then all rejected ones."""
    return paired(parts(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]))


def labelled_pairs(batch: dict) -> list[Row]:
    """The rows of a batch of the older form, whose labels are -100 where nothing is to be learnt."""
    found = [
        parts(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], batch[f"{side}_labels"] != -100)
        for side in ("chosen", "rejected")
    ]
    return paired(found[0] + found[1])


def paired(found: list) -> list[Row]:
    chosen, rejected = found[: len(found) // 2], found[len(found) // 2 :]
    assert [p for p, _ in chosen] == [p for p, _ in rejected]
    return [Row(prompt=p, responses=(y, z)) for (p, y), (_, z) in zip(chosen, rejected, strict=True)]


def scored_rows(batch: dict) -> list[Row]:
    """Their batch does not say where a response begins; what chosen and rejected share is the prompt."""
    seen = batch["attention_mask"].bool()
    texts = [tuple(row[s].tolist()) for row, s in zip(batch["input_ids"], seen, strict=True)]
    half = len(texts) // 2
    margins = batch["margin"].tolist() if "margin" in batch else [None] * half
    rows = []
    for one, other, margin in zip(texts[:half], texts[half:], margins, strict=True):
        n = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        rows.append(Row(prompt=one[:n], responses=(one[n:], other[n:]), margin=margin))
    return rows


def as_classifier(lm, head):
    from transformers import LlamaForSequenceClassification

    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    made = LlamaForSequenceClassification(config)
    made.model.load_state_dict(lm.model.state_dict())
    made.score.weight.data.copy_(head.weight.data)
    return made.eval()

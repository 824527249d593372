"""Loss and gradient against TRL's own trainers: the same weights, the same tokens, 32 bits; see docs/parity.md.

TRL computes its losses inside its trainers, so each test builds the real trainer, takes a batch from its own data
loader and calls its compute_loss; our side gets the token ids that are found in that batch.
"""

import copy
import random
import socket
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparring.core.masked import masked_sum
from sparring.data.batch import Row, collate
from sparring.models.heads import scalar_head
from sparring.models.roles import Network, Networks
from sparring.models.signals import compute
from tests import nets
from tests.parity import (
    Found,
    as_classifier,
    assert_same,
    labelled_pairs,
    our,
    pairs,
    parts,
    scored_rows,
    stacked_pairs,
    their,
    trunk,
    words,
)

# What their libraries warn about while they load is theirs to mend.
pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def trl():
    return pytest.importorskip("trl", reason="parity is measured against TRL: pip install 'sparring[bench]'")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"asked for the network: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def lm():
    return nets.network("llama", seed=0)


@pytest.fixture
def reference(lm):
    """A reference near the policy, so that no loss is saturated."""
    torch.manual_seed(1)
    other = copy.deepcopy(lm)
    for p in other.parameters():
        p.data.add_(0.02 * torch.randn_like(p))
    return other


def test_sft_is_theirs(trl, lm, tmp_path):
    data = [{"prompt": d["prompt"], "completion": d["chosen"]} for d in pairs()]
    batch, theirs = their(trl.SFTTrainer, trl.SFTConfig, data, lm, tmp_path)
    found = parts(batch["input_ids"], batch["attention_mask"], batch["labels"] != -100)
    assert_same(our("sft", [Row(prompt=p, responses=(y,)) for p, y in found], lm), theirs)


def dpo_of(trl, lm, reference, folder, data=None, **settings) -> tuple[list[Row], Found]:
    data = data or pairs()
    batch, theirs = their(trl.DPOTrainer, trl.DPOConfig, data, lm, folder, reference=reference, **settings)
    return stacked_pairs(batch), theirs


def test_dpo_is_their_sigmoid(trl, lm, reference, tmp_path):
    rows, theirs = dpo_of(trl, lm, reference, tmp_path, loss_type=["sigmoid"], beta=0.3)
    assert_same(our("dpo", rows, lm, reference=reference, beta=0.3), theirs)


def test_label_smoothing_is_that_of_their_aot_on_one_pair(trl, lm, reference, tmp_path):
    # "sigmoid" has no label smoothing any more. "aot" has, and sorting a single pair changes nothing.
    rows, theirs = dpo_of(trl, lm, reference, tmp_path, pairs(1), loss_type=["aot"], beta=0.3, label_smoothing=0.2)
    assert_same(our("dpo", rows, lm, reference=reference, beta=0.3, label_smoothing=0.2), theirs)


def test_their_robust_takes_off_what_label_smoothing_adds(trl, lm, reference, tmp_path):
    # With e the smoothing, a = -log sigmoid(z) and b = -log sigmoid(-z): ours is (1-e) a + e b, "robust" is
    # ((1-e) a - e b) / (1-2e), and "sigmoid" is a; so ours = 2 (1-e) sigmoid - (1-2e) robust.
    e, settings = 0.2, {"beta": 0.3}
    _, robust = dpo_of(trl, lm, reference, tmp_path, loss_type=["robust"], label_smoothing=e, **settings)
    rows = dpo_of(trl, lm, reference, tmp_path, loss_type=["sigmoid"], **settings)[0]
    plain = our("dpo", rows, lm, reference=reference, **settings)
    smoothed = our("dpo", rows, lm, reference=reference, label_smoothing=e, **settings)
    assert_same((1 / (1 - 2 * e)) * (2 * (1 - e) * plain - smoothed), robust)


def test_ipo_over_the_mean_is_theirs(trl, lm, reference, tmp_path):
    rows, theirs = dpo_of(trl, lm, reference, tmp_path, loss_type=["ipo"], beta=0.3)
    assert_same(our("ipo", rows, lm, reference=reference, beta=0.3, average="mean"), theirs)


def test_ipo_over_the_sum_is_theirs_at_n_times_beta_and_n_squared_times_as_large(trl, lm, reference, tmp_path):
    # (n d - 1/(2 beta))^2 = n^2 (d - 1/(2 n beta))^2 where every response has n tokens: five words and the end.
    beta, n = 0.3, 6
    data = pairs(length=n - 1)
    rows, theirs = dpo_of(trl, lm, reference, tmp_path, data, loss_type=["ipo"], beta=n * beta)
    assert {len(y) for r in rows for y in r.responses} == {n}
    assert_same(our("ipo", rows, lm, reference=reference, beta=beta, average="sum"), n**2 * theirs)


def test_their_hinge_is_rso_hinge_norm(trl, lm, reference, tmp_path):
    rows, theirs = dpo_of(trl, lm, reference, tmp_path, loss_type=["hinge"], beta=0.3)
    assert_same(our("rso", rows, lm, reference=reference, form="hinge_norm", gamma=0.3), theirs)


def test_kto_is_theirs_with_the_baseline_of_the_same_batch(trl, lm, reference, tmp_path):
    draw = random.Random(0)
    data = [{"prompt": words(draw, 1, 6), "completion": " " + words(draw, 1, 9), "label": i % 3 > 0} for i in range(6)]
    settings = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    batch, theirs = their(trl.KTOTrainer, trl.KTOConfig, data, lm, tmp_path, reference=reference, **settings)
    found = parts(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    marks = [float(x) for x in batch["label"]]
    rows = [Row(prompt=p, responses=(y,), scores=(m,)) for (p, y), m in zip(found, marks, strict=True)]
    moved = [replace(r, responses=rows[i - 1].responses) for i, r in enumerate(rows)]
    their_moved = parts(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
    assert their_moved == [(r.prompt, r.responses[0]) for r in moved]
    ours = our(
        "kto", rows, lm, reference=reference, known={"batch_kl": baseline(moved, lm, reference)},
        beta=0.3, good_weight=1.5, bad_weight=0.7,
    )  # fmt: skip
    assert_same(ours, theirs)


@torch.no_grad()
def baseline(moved: list[Row], lm, reference) -> Tensor:
    networks = Networks(policy=Network(trunk=trunk(lm)), reference=Network(trunk=trunk(reference)))
    batch = collate(moved)
    found = compute(["token_logps", "ref_token_logps"], batch, networks)
    ratio = masked_sum(found["token_logps"] - found["ref_token_logps"], batch.mask)[:, 0]
    assert float(ratio.mean()) > 0, "a baseline of zero would prove nothing"
    return ratio.mean().clamp(min=0).expand(len(moved))


def test_orpo_is_theirs_but_for_the_tokens_that_are_imitated(trl, lm, tmp_path):
    # Their likelihood term is that of prompt and chosen response alike, averaged over all tokens of the batch; ours
    # is the paper's, the mean over the chosen response. What beta weighs is the same.
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    batch, theirs = their(ORPOTrainer, ORPOConfig, pairs(), lm, tmp_path, beta=0.3)
    rows = labelled_pairs(batch)
    choice = our("orpo", rows, lm, beta=0.3) - our("orpo", rows, lm, beta=0.0)
    texts = [r.prompt + r.responses[0] for r in rows]
    imitated = our("sft", [Row(prompt=t[:1], responses=(t[1:],)) for t in texts], lm)
    assert_same(imitated + choice, theirs)


def cpo_of(lm, folder, **settings) -> tuple[list[Row], Found]:
    """Their CPO trainer without its likelihood term, which it adds unless told otherwise."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    batch, theirs = their(CPOTrainer, CPOConfig, pairs(), lm, folder, cpo_alpha=0.0, **settings)
    return labelled_pairs(batch), theirs


def test_simpo_is_that_of_their_cpo_trainer(lm, tmp_path):
    rows, theirs = cpo_of(lm, tmp_path, loss_type="simpo", beta=2.0, simpo_gamma=0.7)
    assert_same(our("simpo", rows, lm, beta=2.0, gamma=0.7), theirs)


def test_their_label_smoothing_of_simpo_is_a_label_of_ours(lm, tmp_path):
    rows, theirs = cpo_of(lm, tmp_path, loss_type="simpo", beta=2.0, simpo_gamma=0.7, label_smoothing=0.2)
    rows = [replace(r, label=0.8) for r in rows]
    assert_same(our("simpo", rows, lm, beta=2.0, gamma=0.7), theirs)


def test_their_hinge_without_a_reference_is_rso_hinge_and_beta_times_slic(lm, tmp_path):
    rows, theirs = cpo_of(lm, tmp_path, loss_type="hinge", beta=0.02)
    assert_same(our("rso", rows, lm, reference=lm, form="hinge", gamma=0.02), theirs)
    assert_same(0.02 * our("slic", rows, lm, form="rank", margin=1 / 0.02, nll_weight=0.0), theirs)


@pytest.mark.parametrize("centring", [0.0, 0.5])
@pytest.mark.parametrize("has_margin", [False, True])
def test_the_reward_model_is_theirs(trl, lm, tmp_path, has_margin, centring):
    data = [d | ({"margin": i / 3} if has_margin else {}) for i, d in enumerate(pairs())]
    head = scalar_head(trunk(copy.deepcopy(lm)), 0)
    classifier = as_classifier(lm, head)
    batch, theirs = their(
        trl.RewardTrainer, trl.RewardConfig, data, classifier, tmp_path, center_rewards_coefficient=centring or None
    )  # fmt: skip
    assert_same(our("reward_model", scored_rows(batch), lm, head=head, centring=centring), theirs)

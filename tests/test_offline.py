import json

import pytest
import torch

from sparring.core.errors import Diverged
from sparring.core.loss import Loss, per_prompt
from sparring.core.metrics import METRICS
from sparring.data.batch import Row
from sparring.loops import offline
from sparring.loops.order import Order
from sparring.loops.progress import Progress
from sparring.loops.run import Run
from sparring.loops.settings import OfflineSettings
from sparring.models import checkpoint
from sparring.models.backbone import load_trunk
from sparring.models.roles import Network, Networks
from sparring.models.update import Updater
from tests.small import apart, machine, quick, rows, same, weights, world, write


def test_each_record_comes_once_an_epoch_in_an_order_of_its_own():
    order = Order(10, 4, seed=3, name="order")
    drawn = [i for step in range(10) for i in order.at(step)]  # 40 records are four epochs
    epochs = [drawn[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_where_a_step_starts_needs_no_memory_of_the_steps_before():
    order = Order(7, 3, seed=0, name="order")
    forwards = [order.at(step) for step in range(12)]
    assert [Order(7, 3, seed=0, name="order").at(step) for step in reversed(range(12))] == forwards[::-1]
    assert forwards != [Order(7, 3, seed=1, name="order").at(step) for step in range(12)]


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epoch():
    drawn = Order(3, 8, seed=0, name="order").at(0)
    assert [sorted(drawn[:3]), sorted(drawn[3:6])] == [[0, 1, 2]] * 2 and len(drawn) == 8


@pytest.mark.parametrize(
    ("records", "batch", "epochs", "steps", "want"),
    [(10, 4, 1, 0, 3), (10, 4, 2, 0, 5), (10, 5, 0.5, 0, 1), (3, 100, 1, 0, 1), (10, 4, 1, 7, 7), (10, 100, 0.1, 0, 1)],
)
def test_epochs_make_as_many_steps_as_it_takes_to_see_them(records, batch, epochs, steps, want):
    assert offline.total_steps(records, OfflineSettings(batch=batch, epochs=float(epochs), steps=steps)) == want


class Counting:
    """A method that writes down which rows it was shown, by the number of their tokens."""

    def __init__(self, breaks_at=0):
        self.seen, self.breaks_at = [], breaks_at

    def loss(self, token_logps, mask) -> Loss:
        lengths = mask.sum((-1, -2))
        self.seen += lengths.tolist()
        total = -token_logps.sum((-1, -2))
        return per_prompt(torch.where(lengths == self.breaks_at, torch.nan, total))


def work(method, *, count=6, **settings):
    """The loop over rows of 1, 2, 3 ... tokens."""
    trunk = load_trunk(str(world() / "model"))
    data = [Row(prompt=(3,), responses=((5,) * n,), where=f"row of {n}", index=n) for n in range(1, count + 1)]
    policy = Network(trunk=trunk)
    return offline.Offline(
        method=method, rows=data, held_out=[], networks=Networks(policy=policy), machine=machine(),
        updater=Updater(policy.trainable(), machine(), lr=1e-3, total=100),
        settings=OfflineSettings(**{"save_every": 1, "batch": 2, "steps": 3} | settings), micro_tokens=8192,
    )  # fmt: skip


def go(job, folder):
    folder.mkdir(exist_ok=True)
    with Run(folder, "step") as run, Progress("test", 1, (), quiet=True) as bar:
        return offline.train(job, run, bar)


def test_the_loop_shows_a_method_each_record_once_an_epoch(tmp_path):
    method = Counting()
    go(work(method, steps=6), tmp_path)
    assert sorted(method.seen[:6]) == sorted(method.seen[6:]) == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_names_its_rows_and_the_last_good_checkpoint(tmp_path):
    seen = Counting()
    go(work(seen), tmp_path / "a")
    victim = seen.seen[4]  # the first row of the third step
    with pytest.raises(Diverged, match=rf"row of {victim}\b.*last good checkpoint is .*step-00000002;.*--lr"):
        go(work(Counting(breaks_at=victim)), tmp_path / "b")
    assert [p.name for p in checkpoint.found(tmp_path / "b" / "checkpoints")] == ["step-00000002", "step-00000001"]
    with pytest.raises(Diverged, match="No checkpoint had been written"):
        go(work(Counting(breaks_at=seen.seen[0])), tmp_path / "c")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    job = work(Counting())
    job.updater.optimizer.register_step_post_hook(
        lambda *_: next(iter(job.updater.weights.values())).data.fill_(torch.inf)
    )
    with pytest.raises(Diverged, match=r"weights are not finite after step 1, .*No checkpoint"):
        go(job, tmp_path)
    assert not checkpoint.found(tmp_path / "checkpoints")


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_any_size_of_micro_batch_makes_the_same_model(tmp_path, method):
    # One step of a plain gradient, so that rounding is not blown up: Adam would make size 1 of any tiny slope.
    made = {}
    for tokens in (1, 40, 8192):
        run = quick(method, tmp_path / str(tokens), settings={"micro_tokens": tokens, "lr": 1e-5, "steps": 2})
        made[tokens] = rows(run), weights(run)
    for tokens in (1, 40):
        assert apart(made[tokens][1], made[8192][1]) < 1e-6
        for mine, theirs in zip(made[tokens][0], made[8192][0], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_the_evaluation_is_the_mean_over_held_out_tokens_as_plain_transformers_gives_it(tmp_path):
    held_out = [{"prompt": "ba be", "response": " bi"}, {"prompt": "ko", "response": " ku ka ke ki"}]
    file = write(tmp_path / "eval.jsonl", held_out)
    run = quick("sft", tmp_path / "run", eval_data=str(file), settings={"keep_best": "last"})
    trunk = load_trunk(str(run))
    total = count = 0.0
    for row in held_out:
        prompt, response = (trunk.tokenizer(row[n])["input_ids"] for n in ("prompt", "response"))
        response = [*response, trunk.tokenizer.eos_token_id]
        with torch.no_grad():
            logps = trunk.lm(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        total -= sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(response))
        count += len(response)
    assert rows(run)[-1]["eval_loss"] == pytest.approx(total / count, abs=1e-5)


def test_the_best_checkpoint_becomes_the_model(tmp_path):
    # At this rate the model soon knows the few texts by heart, and nothing else.
    settings = {"lr": 0.1, "schedule": "constant", "steps": 12, "eval_every": 1, "save_every": 100}
    run = quick("sft", tmp_path / "run", settings=settings)
    losses = {r["step"]: r["eval_loss"] for r in rows(run)}
    best = min(losses, key=losses.get)
    assert best < 12
    kept = checkpoint.load(run / "checkpoints" / f"step-{best:08d}")["updater"]["weights"]
    made = weights(run)
    assert all(torch.equal(made[n.removeprefix("policy.body.")], w) for n, w in kept.items())
    last = quick("sft", tmp_path / "last", settings=settings | {"keep_best": "last"})
    assert not same(made, weights(last))


def test_a_run_out_of_patience_stops(tmp_path):
    settings = {"lr": 0.1, "schedule": "constant", "steps": 30, "eval_every": 1, "save_every": 100, "patience": 3}
    run = quick("sft", tmp_path / "run", settings=settings)
    losses = [r["eval_loss"] for r in rows(run)]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 30


def test_checkpoints_are_written_when_it_is_time_and_only_the_newest_and_the_best_stay(tmp_path, monkeypatch):
    saved, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda self, clock, *more: saved.append(clock) or save(self, clock, *more))
    settings = {"steps": 7, "save_every": 3, "eval_every": 100, "keep_best": "last"}
    run = quick("sft", tmp_path / "run", settings=settings)
    assert saved == [3, 6, 7]
    assert [p.name for p in checkpoint.found(run / "checkpoints")] == ["step-00000007", "step-00000006"]


def test_a_stored_reference_makes_the_model_that_a_live_one_makes(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    live = quick("dpo", tmp_path / "live")
    stored = quick("dpo", tmp_path / "stored", settings={"reference": "stored"})
    assert apart(weights(live), weights(stored)) < 1e-5
    (file,) = (tmp_path / "cache").iterdir()
    before = file.stat().st_mtime_ns
    again = quick("dpo", tmp_path / "again", settings={"reference": "stored"})
    assert same(weights(stored), weights(again)) and file.stat().st_mtime_ns == before


@pytest.mark.parametrize("method", ["sft", "dpo", "reward_model"])
def test_every_figure_that_is_written_down_has_a_meaning(tmp_path, method):
    run = quick(method, tmp_path / method, settings={"steps": 2})
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert row.keys() <= METRICS.keys(), row.keys() - METRICS.keys()


def test_a_batch_larger_than_the_data_is_said(tmp_path, capsys):
    quick("sft", tmp_path / "run", settings={"batch": 50, "steps": 1}, quiet=False)
    assert "batch is 50, but there are only" in capsys.readouterr().err


def test_a_finished_run_says_what_it_was(tmp_path):
    run = quick("dpo", tmp_path / "run", command="sparring train dpo --model x")
    for folder in (run, run / "model"):
        text = (folder / "README.md").read_text()
        assert "**dpo**" in text and "log sigmoid(z)" in text and "sparring train dpo --model x" in text
        assert "| eval_loss |" in text

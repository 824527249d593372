import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sparring.cli.main import main
from sparring.core.errors import DataError, RunError, SettingError
from sparring.core.metrics import METRICS
from sparring.core.registry import knobs
from sparring.seqgan.credit import complete, policy_loss, values
from sparring.seqgan.discriminator import FILTERS, Discriminator
from sparring.seqgan.generator import CHUNK, Generator, mask_of
from sparring.seqgan.play import Players, Rules
from sparring.seqgan.results import write as write_sequences
from sparring.seqgan.settings import GROUPS
from sparring.seqgan.task import UNKNOWN, Task, oracle_task, text_task
from sparring.seqgan.train import train
from tests.small import rows, write

ROOT = Path(__file__).parent.parent
TINY = {
    "vocabulary": 6, "length": 3, "samples": 16, "batch": 8, "embedding": 4, "hidden": 5, "judge_embedding": 3,
    "filters": 0.02, "mle_epochs": 2, "judge_warmup": 1, "rounds": 2, "judge_sets": 1, "judge_epochs": 1, "rollouts": 2,
    "held_out": 0.5, "eval_every": 2, "save_every": 1, "device": "cpu", "lr": 0.1, "judge_lr": 0.01,
}  # fmt: skip


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def network(vocabulary=5, spread=1.0, seed=0):
    return Generator(vocabulary, 3, 4, spread=spread, draw=draw(seed))


def constant(*chances):
    """A generator that draws every token from the same distribution."""
    made = network(len(chances), spread=0.0)
    with torch.no_grad():
        made.output_bias.copy_(torch.tensor(chances).log())
    return made


def play(run, *, resume=False, data=None, fields=None, **settings):
    return train(run=run, data=data, fields=fields, resume=resume, settings=TINY | settings, quiet=True)


# The generator


def plain_logps(made, line):
    """Log-probabilities of one sequence by floats alone: the LSTM of Hochreiter and Schmidhuber, written out."""
    w = {n: p.detach().double().tolist() for n, p in made.named_parameters()}
    hidden = cell = [0.0] * 4
    token, out = 0, []

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    for following in line:
        x = w["embedding"][token] + hidden
        z = [
            sum(a * b for a, b in zip(r, x, strict=True)) + c for r, c in zip(w["gates"], w["gates_bias"], strict=True)
        ]
        take, forget, show, new = z[:4], z[4:8], z[8:12], z[12:]
        cell = [sigmoid(f) * c + sigmoid(i) * math.tanh(n) for f, c, i, n in zip(forget, cell, take, new, strict=True)]
        hidden = [sigmoid(o) * math.tanh(c) for o, c in zip(show, cell, strict=True)]
        logits = [sum(a * b for a, b in zip(r, hidden, strict=True)) + c
                  for r, c in zip(w["output"], w["output_bias"], strict=True)]  # fmt: skip
        out.append(logits[following] - math.log(sum(map(math.exp, logits))))
        token = following
    return out


def test_the_generator_is_an_lstm_that_begins_with_token_0():
    made, line = network(), [3, 0, 4, 4, 1]
    assert made.token_logps(torch.tensor([line]))[0].tolist() == pytest.approx(plain_logps(made, line), abs=1e-5)


def test_samples_come_as_often_as_they_are_likely():
    made, n = network(3), 20_000
    found = made.sample(n, 2, draw(), has_end=False)
    for pair in itertools.product(range(3), repeat=2):
        p = math.exp(sum(plain_logps(made, pair)))
        share = (found == torch.tensor(pair)).all(1).double().mean().item()
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / n), pair


def test_what_is_drawn_does_not_depend_on_how_many_rows_are_in_memory(monkeypatch):
    made, whole = network(), network().sample(40, 3, draw(), has_end=False)
    monkeypatch.setitem(CHUNK, "cpu", 35)  # seven rows of five
    assert torch.equal(made.sample(40, 3, draw(), has_end=False), whole)


def test_an_ended_sequence_stays_ended_and_its_filling_counts_nothing():
    tokens = torch.tensor([[2, 0, 0], [0, 0, 0], [1, 2, 3]])
    assert mask_of(tokens, has_end=True).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert mask_of(tokens, has_end=False).all()
    found = constant(0.4, 0.3, 0.3).sample(200, 6, draw(), has_end=True)
    after = found[:, 1:][found[:, :-1] == 0]
    assert len(after) > 50 and not after.any()
    made = constant(0.5, 0.25, 0.25)
    assert made.nll(torch.tensor([[1, 0, 0]]), has_end=True) == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert made.nll(torch.tensor([[1, 0, 0]]), has_end=False) == pytest.approx((math.log(4) + 2 * math.log(2)) / 3)


def test_entropy_is_that_of_the_distribution():
    want = -sum(p * math.log(p) for p in (0.5, 0.25, 0.25))
    assert constant(0.5, 0.25, 0.25).entropy(torch.tensor([[1, 2]]), has_end=False) == pytest.approx(want)


def test_the_oracle_likes_its_own_samples_better_than_uniform_ones():
    settings = GROUPS["task"](vocabulary=50, length=10, samples=300)
    task = oracle_task(settings, 0)
    uniform = torch.randint(50, task.train.shape, generator=draw())
    own, other = (task.oracle.nll(x, has_end=False) for x in (task.train, uniform))
    assert own < math.log(50) < other and task.held_out.shape == (30, 10)


# Credit


def test_with_one_token_the_credit_is_the_discriminator_and_the_loss_that_of_reinforce():
    made, tokens = network(), torch.tensor([[1], [4], [2]])
    score = {1: 0.9, 4: 0.2, 2: 0.5}
    q = values(lambda x: torch.tensor([score[int(t)] for t in x[:, 0]]), made, tokens, 7, draw(), has_end=False)
    assert q[:, 0].tolist() == pytest.approx([0.9, 0.2, 0.5])
    loss = policy_loss(made.token_logps(tokens), q, mask_of(tokens, has_end=False))
    want = -sum(score[t] * plain_logps(made, [t])[0] for t in (1, 4, 2))
    assert loss.item() == pytest.approx(want, rel=1e-5)


def test_what_a_deterministic_policy_completes_does_not_depend_on_how_often():
    made = network(spread=30.0)
    line = made.sample(2, 6, draw(), has_end=False)
    line[0, 2] = (line[0, 2] + 1) % 5  # so that prefixes before and after lead to different ends
    score = lambda x: (x.double() * 2.0 ** torch.arange(6)).sum(1)  # noqa: E731
    one, many = (values(score, made, line, n, draw(n), has_end=False) for n in (1, 9))
    assert torch.equal(one, many) and one[0].unique().numel() > 1


def test_completions_keep_their_prefix_and_go_on_from_it():
    made = network(4, spread=2.0)
    tokens = made.sample(3, 4, draw(), has_end=False)
    n = 4000
    done = complete(made, tokens, n, draw(1), has_end=False)
    assert done.shape == (n, 3, 3, 4)
    for t in (1, 2, 3):
        assert (done[:, t - 1, :, :t] == tokens[:, :t]).all()
        for b in range(3):
            for token in range(4):  # the first token after the prefix comes as often as the prefix makes it likely
                p = math.exp(plain_logps(made, [*tokens[b, :t].tolist(), token])[-1])
                share = (done[:, t - 1, b, t] == token).double().mean().item()
                assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / n) + 1e-9, (t, b, token)


def test_completions_draw_their_second_token_given_their_first():
    made, n = network(3, spread=2.0), 20_000
    tokens = torch.tensor([[2, 0, 0]])
    done = complete(made, tokens, n, draw(), has_end=False)[:, 0, 0]
    for pair in itertools.product(range(3), repeat=2):
        p = math.exp(sum(plain_logps(made, [2, *pair])[1:]))
        share = (done[:, 1:] == torch.tensor(pair)).all(1).double().mean().item()
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / n), pair


def test_credit_for_a_count_is_what_was_counted_and_what_is_expected():
    # Q_t = count so far + (T - t) p; the mean of N completions has variance (T - t) p (1 - p) / N.
    p, T, N, a = 0.3, 7, 3000, 2
    made = constant(0.2, 0.5, p)
    tokens = torch.tensor([[2, 1, 0, 2, 2, 1, 2]])
    q = values(lambda x: (x == a).sum(1).float(), made, tokens, N, draw(), has_end=False)[0]
    for t in range(1, T + 1):
        want = (tokens[0, :t] == a).sum().item() + (T - t) * p
        assert abs(q[t - 1].item() - want) <= 4.5 * math.sqrt((T - t) * p * (1 - p) / N) + 1e-6, t


def test_an_ended_prefix_is_worth_what_the_whole_is():
    tokens = torch.tensor([[1, 0, 0, 0], [2, 1, 1, 0]])
    q = values(lambda x: (x * torch.tensor([1, 10, 100, 1000])).sum(1).float(), constant(0.2, 0.4, 0.4), tokens, 5,
               draw(), has_end=True)  # fmt: skip
    assert q[0, 1:].tolist() == [1.0, 1.0, 1.0] and q[1, 3].item() == 112.0 and q[1, 0].item() > 2


@pytest.mark.parametrize("reward", [1.0, 2.0])
def test_a_constant_reward_has_no_expected_gradient_and_single_gradients_are_not_zero(reward):
    # Every sequence of the tiny vocabulary, weighted by its probability: sum_y G(y) grad log G(y) = 0.
    made = network(3)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    logps = made.token_logps(every)
    chance = logps.detach().sum(1).exp()
    q = values(lambda x: torch.full((len(x),), reward), made, every, 2, draw(), has_end=False)
    assert q.unique().tolist() == [reward]
    weighted = -(chance * (logps * q).sum(1)).sum()
    weighted.backward(retain_graph=True)
    assert all(p.grad.abs().max() < 1e-5 for p in made.parameters())
    made.zero_grad()
    policy_loss(logps[:1], q[:1], mask_of(every[:1], has_end=False)).backward()
    assert made.output_bias.grad.abs().max() > 0.1


# The discriminator


def test_the_discriminator_has_the_authors_filters():
    made = Discriminator(30, 20, 64, 1.0, 0.75, draw=draw())
    assert [c.kernel_size[0] for c in made.widths] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20]
    assert [c.out_channels for c in made.widths] == [100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160]
    assert made.output.in_features == sum(FILTERS.values()) == 1720
    assert [c.kernel_size[0] for c in Discriminator(30, 9, 64, 1.0, 0.75, draw=draw()).widths] == list(range(1, 10))


def test_the_discriminator_is_max_pooling_then_a_highway_then_two_classes():
    made = Discriminator(7, 2, 3, 0.01, 0.75, draw=draw()).double()
    line = [4, 6]
    seen = [made.embedding.weight[t].tolist() for t in line]
    features = []
    for conv in made.widths:
        width = conv.kernel_size[0]
        for weight, bias in zip(conv.weight.tolist(), conv.bias.tolist(), strict=True):
            answers = [sum(weight[e][k] * seen[t + k][e] for e in range(3) for k in range(width)) + bias
                       for t in range(3 - width)]  # fmt: skip
            features.append(max(0.0, *answers))

    def layer(linear, x):
        return [sum(a * b for a, b in zip(row, x, strict=True)) + c
                for row, c in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)]  # fmt: skip

    gates = [1 / (1 + math.exp(-z)) for z in layer(made.gate, features)]
    mixed = [
        g * max(0.0, c) + (1 - g) * x for g, c, x in zip(gates, layer(made.change, features), features, strict=True)
    ]
    fake, real = layer(made.output, mixed)
    assert made.score(torch.tensor([line])).item() == pytest.approx(1 / (1 + math.exp(fake - real)), rel=1e-9)
    weights = [*made.output.weight.flatten().tolist(), *made.output.bias.tolist()]
    assert made.size().item() == pytest.approx(sum(w * w for w in weights) / 2)


# Runs


def test_maximum_likelihood_finds_a_known_distribution():
    # Four sequences of one kind to one of another: nothing can beat the entropy of it.
    tokens = torch.tensor([[1, 0, 0], [2, 2, 0]]).repeat_interleave(torch.tensor([40, 10]), 0)
    task = Task(train=tokens, held_out=tokens[:1], vocabulary=3, words=("", "a", "b"))
    parts = {n: cls(**{k: v for k, v in TINY.items() if k in vars(cls())}) for n, cls in GROUPS.items() if n != "task"}
    players = Players(task, Rules(**parts), torch.device("cpu"))
    # 40 sequences have two tokens, an end among them, and 10 have three; the first token says all.
    best = -(40 * math.log(0.8) + 10 * math.log(0.2)) / (40 * 2 + 10 * 3)
    before = players.writer.nll(tokens, has_end=True)
    for number in range(1, 21):
        players.imitate(number)
    assert before > 1 and best <= players.writer.nll(tokens, has_end=True) < best + 0.02
    written = [tuple(line) for line in players.sample(100, "test").tolist()]
    assert sum(line in ((1, 0, 0), (2, 2, 0)) for line in written) >= 95


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return play(tmp_path_factory.mktemp("seqgan") / "run")


def test_a_run_counts_its_stages_and_measures_all_it_promises(finished):
    found = rows(finished)
    assert [(r["round"], r["stage"]) for r in found] == [
        (1, "mle"), (2, "mle"), (3, "judge"), (4, "game"), (5, "game"),
    ]  # fmt: skip
    assert {"round", "nll_oracle", "nll_test", "entropy", "loss_d", "accuracy_d", "reward"} <= found[-1].keys()
    assert all(r.keys() - {"stage"} <= METRICS.keys() for r in found)
    assert 0 < found[-1]["reward"] < 1 and (finished / "model" / "generator.safetensors").is_file()
    assert len(write_sequences(finished, 3, 0)[0].split()) == 3


def test_the_page_of_a_run_draws_its_curves(finished, capsys):
    assert main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    assert "nll oracle" in page and "accuracy d" in page and "nll test" in page


def test_the_control_neither_asks_nor_teaches_the_discriminator(tmp_path, finished):
    found = rows(play(tmp_path / "run", credit="constant"))
    assert [r["stage"] for r in found] == ["mle"] * 2 + ["game"] * 2
    assert all(r["reward"] == 1 and "loss_d" not in r for r in found[2:])
    assert [r["loss"] for r in found[:2]] == [r["loss"] for r in rows(finished)[:2]]


OTHER = {
    "vocabulary": 7, "length": 4, "samples": 20, "held_out": 0.3, "batch": 5, "embedding": 3, "hidden": 4, "lr": 0.02,
    "max_grad_norm": 0.01, "judge_embedding": 4, "filters": 0.03, "judge_lr": 0.02, "keep": 0.5, "l2": 5.0,
    "mle_epochs": 1, "judge_warmup": 2, "rounds": 3, "judge_sets": 2, "judge_epochs": 2, "rollouts": 3, "lag": 0.1,
    "credit": "constant", "baseline": "others", "eval_every": 1, "seed": 1,
}  # fmt: skip
OUTSIDE = {"save_every", "device"}  # how often a state is kept, and where it is computed, must not change a figure


def test_every_knob_does_something(tmp_path, finished):
    names = {knob.name for cls in GROUPS.values() for knob in knobs(cls)}
    assert names == OTHER.keys() | OUTSIDE and names >= TINY.keys()
    for name, value in OTHER.items():
        assert rows(play(tmp_path / name, **{"save_every": 9, name: value})) != rows(finished), name
    assert rows(play(tmp_path / "save_every", save_every=9)) == rows(finished)


@pytest.mark.parametrize("kept", [0, 2, 3, 4])
def test_a_run_goes_on_from_each_of_its_checkpoints_exactly(finished, tmp_path, kept, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("sparring.loops.run.KEPT", 10)
    play(run)
    shutil.rmtree(run / "model")
    for place in (run / "checkpoints").glob("step-*"):
        if int(place.name[5:]) > kept:
            shutil.rmtree(place)
    play(run, resume=True)
    assert (run / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert (run / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()
    for name in ("generator", "discriminator"):
        file = f"model/{name}.safetensors"
        assert (run / file).read_bytes() == (finished / file).read_bytes()


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(tmp_path):
    whole, run, more = play(tmp_path / "whole", rounds=40), tmp_path / "run", {"rounds": 40}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | more).items()]
    command = [sys.executable, "-m", "sparring", "seqgan", f"--run={run}", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as child:
        log = run / "metrics.jsonl"
        while (not log.exists() or log.read_text().count("game") < 2) and child.poll() is None:
            time.sleep(0.005)
        child.kill()
    assert child.returncode == -signal.SIGKILL and not (run / "model").exists()
    play(run, resume=True, **more)
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_resumed_run_must_be_asked_for_as_before(finished, tmp_path):
    with pytest.raises(RunError, match=r"started with lr 0.1, not 0.5"):
        play(finished, resume=True, lr=0.5)
    with pytest.raises(RunError, match="not empty"):
        play(finished)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    text = write(tmp_path / "t.jsonl", [{"text": "a b"}, {"text": "b a"}])
    with pytest.raises(RunError, match="data"):
        play(other, resume=True, data=str(text))


def test_the_command_takes_a_run_file_and_flags_go_over_it(finished, tmp_path, capsys):
    run = tmp_path / "again"
    assert main(["seqgan", "--config", str(finished / "run.yaml"), "--run", str(run)]) == 0
    assert rows(run) == rows(finished)
    assert main(["seqgan", "--run", str(run), "--resume"]) == 0
    assert "finished" in capsys.readouterr().err
    assert main(["seqgan"]) == 2
    assert "needs --run" in capsys.readouterr().err
    for words in (["train", "seqgan"], ["train", "--run", str(run), "--resume"]):
        assert main(words) == 2
        assert "seqgan is a command of its own" in capsys.readouterr().err
    assert main(["seqgan", "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 100


SENTENCES = ["The cat sat.", "the DOG sat .", "A cat ran!", "one two three four five six seven"]


def text(tmp_path, **settings):
    said = []
    file = write(tmp_path / "t.jsonl", [{"en": s} for s in SENTENCES for _ in range(1)])
    made = GROUPS["task"](**({"length": 6, "held_out": 0.25} | settings))
    return text_task(str(file), made, 0, said.append, fields={"response": "en"}, where=()), said


def test_a_text_becomes_words_and_what_does_not_fit_is_told(tmp_path):
    task, said = text(tmp_path)
    assert task.has_end and task.words[:2] == ("<end>", "<unknown>") and len(task.train) + len(task.held_out) == 3
    assert "1 of 4 sentences have 6 words or more and are left out" in said[0] and "learn from" in said[1]
    lines = [task.text(line) for line in task.train.tolist()]
    assert set(lines) <= {"the cat sat .", "the dog sat .", "a cat ran !"}


def test_rare_words_become_one_unknown_word(tmp_path):
    task, said = text(tmp_path, vocabulary=4)
    assert len(task.words) == 4 and (task.train == UNKNOWN).any() and task.train.max() == 3
    assert "100.0%" not in said[1]


def test_what_cannot_be_used_is_told_with_its_cure(tmp_path):
    with pytest.raises(DataError, match="raise --length"):
        text(tmp_path, length=3)
    with pytest.raises(SettingError, match="length is 1"):
        text(tmp_path, length=1)
    with pytest.raises(SettingError, match="batch is 1"):
        play(tmp_path / "run", batch=1, baseline="others")
    with pytest.raises(SettingError, match="vocabulary is 2"):
        play(tmp_path / "run", data="x.jsonl", vocabulary=2)
    with pytest.raises(SettingError, match="name it with --data"):
        train(run=tmp_path / "run", where=["a=b"])
    with pytest.raises(SettingError, match="rollouts"):
        play(tmp_path / "run", rollout=3)
    assert not (tmp_path / "run").exists()

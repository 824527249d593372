import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sparring.compare.trail import trail
from sparring.core.credit import AdaptiveKL
from sparring.core.errors import Diverged, FeedbackError, SettingError
from sparring.core.metrics import METRICS
from sparring.evaluation.suite import evaluate
from sparring.loops.figures import Facts, describe
from sparring.loops.learner import total_updates
from sparring.loops.reward import rewarded
from sparring.loops.settings import OnlineSettings
from sparring.loops.watch import Seen, Watch
from sparring.methods import get
from sparring.models import checkpoint
from sparring.models.backbone import load_trunk
from sparring.rollout.sample import Stop
from tests.small import ONLINE, apart, quick, rows, same, weights, world, write


class Broken:
    """Feedback that gives no number from its third call on."""

    def __init__(self):
        self.calls = 0

    def score(self, responses):
        self.calls += 1
        scores = torch.zeros(responses.batch.exists.shape)
        if self.calls > 2:
            scores[1, 0] = torch.nan
        return scores


def test_the_figures_of_a_round_are_counted_as_by_hand():
    a = Facts(tokens=(5, 6, 5, 6), ended=True, score=1.0, paid=1.0, entropy=4.0, kl=2.0, kl_k3=1.0, ref_logp=-8.0,
              returns=(4.0, 8.0), errors=(2.0, 3.0))  # fmt: skip
    b = Facts(tokens=(5, 6), ended=False, score=3.0, paid=2.5, entropy=1.0, kl=1.0, kl_k3=0.5, ref_logp=-1.0,
              returns=(2.0, 4.0), errors=(1.0, 1.0))  # fmt: skip
    row = describe([a, b], price=0.5)
    assert (row["score"], row["score_std"], row["length"], row["eos_rate"]) == (2.0, 1.0, 3.0, 0.5)
    assert (row["kl"], row["kl_per_token"], row["kl_k3"], row["kl_price"]) == (1.5, 3 / 6, 0.75, 0.5)
    assert row["reward"] == 1.75 - 0.5 * 1.5 and row["entropy"] == 5 / 6 and row["ref_nll"] == 5 / 6 + 3 / 6
    # 4/3 a token: a has 6 nats where 16/3 are expected, b 2 where 8/3 are; over six tokens
    assert row["ref_nll_error"] == pytest.approx((2 * (2 / 3) ** 2) ** 0.5 / 6)
    assert row["distinct_2"] == 2 / 4  # 56 65 56 56
    # two points: longer means worse, more fluent (-1/2 against -2 a token) means better
    assert (row["cue_length"], row["cue_fluency"]) == (pytest.approx(-1.0), pytest.approx(1.0))
    # variances: 12/6 - 1 = 1 of the returns, 4/6 - 1/4 = 5/12 of the errors
    assert row["value_explained"] == pytest.approx(1 - 5 / 12)
    assert "kl" not in describe([replace(a, kl=None, kl_k3=None, ref_logp=None)], price=0.0)


def test_rounds_in_which_only_the_judge_learns_are_no_steps_of_the_policys_schedule(tmp_path):
    assert total_updates(OnlineSettings(rounds=3, epochs=2, minibatches=4, batch=8)) == 24
    settings = {"rounds": 4, "judge_warmup": 12, "warmup": 0.0, "schedule": "cosine", "lr": 1e-2}
    found = rows(quick("rlgaf", tmp_path / "run", settings=settings))
    # 12 updates are three rounds of 5, 5 and 2; then four steps down half a cosine: (1 + cos(pi i / 4)) / 2
    assert [r["judge_steps"] for r in found] == [5.0, 5.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert ["lr" in r for r in found] == [False] * 3 + [True] * 4
    assert [r["lr"] for r in found[3:]] == pytest.approx([1e-2, 0.85355e-2, 0.5e-2, 0.14645e-2], rel=1e-4)


def test_every_round_takes_epochs_times_minibatches_steps_that_share_the_batch(tmp_path, monkeypatch):
    from sparring.models.update import Updater

    taken, step = [], Updater.step
    monkeypatch.setattr(Updater, "step", lambda self: taken.append(1) or step(self))
    settings = {"rounds": 2, "batch": 5, "epochs": 2, "minibatches": 3, "warmup": 0.0}
    found = rows(quick("ppo", tmp_path / "run", feedback=["length"], settings=settings))
    assert len(taken) == 2 * 2 * 3
    assert found[-1]["lr"] == pytest.approx(1e-2 * 0.5 * (1 + torch.tensor(torch.pi * 11 / 12).cos().item()), rel=1e-5)


def test_the_first_update_of_a_round_is_made_where_it_was_sampled(tmp_path):
    one = rows(quick("ppo", tmp_path / "one", feedback=["length"]))
    assert all(r["ratio_max"] == pytest.approx(1.0, abs=1e-4) and r["clip_fraction"] == 0.0 for r in one)
    many = rows(quick("ppo", tmp_path / "many", feedback=["length"], settings={"epochs": 4}))
    assert max(r["ratio_max"] for r in many) > 1.01


def test_any_size_of_micro_batch_makes_the_same_model(tmp_path):
    settings = {"rounds": 2, "lr": 1e-5, "judge_warmup": 0, "judge_lr": 1e-5}
    made = [quick("rlgaf", tmp_path / str(n), settings=settings | {"micro_tokens": n}) for n in (1, 60, 8192)]
    for run in made[:2]:
        assert apart(weights(run), weights(made[2])) < 1e-6
        assert apart(weights(run, "judge"), weights(made[2], "judge")) < 1e-5
        for mine, theirs in zip(rows(run), rows(made[2]), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_more_prompts_than_there_are_fill_a_batch_with_different_samples(tmp_path):
    file = write(tmp_path / "one.jsonl", [{"prompt": "ba"}])
    run = quick("rloo", tmp_path / "run", data=file, feedback=["length"], settings={"batch": 6, "held_out": 0.0})
    first = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()][:12]
    assert {s["prompt"] for s in first} == {"ba"} and len({s["response"] for s in first}) > 6


def test_the_price_of_kl_follows_its_target_by_the_kl_of_the_round_before(tmp_path):
    settings = {"kl_target": 1.0, "kl": 0.2, "rounds": 4, "lr": 3e-2}
    found = rows(quick("reinforce", tmp_path / "run", feedback=["length"], settings=settings))
    price = AdaptiveKL(beta=0.2, target=1.0)
    for row in found:
        assert row["kl_price"] == pytest.approx(price.beta)
        assert row["reward"] == pytest.approx(row["score"] - price.beta * row["kl"], abs=1e-5)
        error = min(max(row["kl"] / 1.0 - 1, -0.2), 0.2)
        price = replace(price, beta=price.beta * (1 + 0.1 * error))
    assert price.beta != 0.2


def test_the_price_reaches_a_loss_that_holds_the_kl_itself(tmp_path, monkeypatch):
    cls, paid = get("grpo"), []
    loss = cls.loss
    monkeypatch.setattr(cls, "loss", lambda self, token_logps, old_token_logps, ref_token_logps, advantages, mask:
                        paid.append(self.kl) or loss(self, token_logps, old_token_logps, ref_token_logps, advantages,
                                                     mask))  # fmt: skip
    settings = {"kl_target": 1.0, "kl": 0.2, "lr": 3e-2}
    found = rows(quick("grpo", tmp_path / "run", feedback=["length"], settings=settings))
    assert [r["kl_price"] for r in found] == paid and len(set(paid)) == 4


def test_the_price_may_move_by_responses_over_a_horizon_instead(tmp_path):
    settings = {"kl_target": 1.0, "kl_horizon": 100.0, "kl": 0.2, "rounds": 4, "lr": 3e-2}
    found = rows(quick("reinforce", tmp_path / "run", feedback=["length"], settings=settings))
    price = 0.2
    for row in found:
        assert row["kl_price"] == pytest.approx(price)
        price *= 1 + 4 * 2 / 100 * min(max(row["kl"] / 1.0 - 1, -0.2), 0.2)  # 4 prompts, 2 responses each
    assert price != 0.2


def test_a_response_that_did_not_end_is_paid_less_and_scored_the_same(tmp_path):
    ended, cut = Stop.EOS, Stop.LENGTH
    assert rewarded(torch.tensor([[1.0, 2.0]]), [[ended, cut]], 0.75).tolist() == [[1.0, 1.25]]
    free, dear = (
        rows(quick("reinforce", tmp_path / str(p), feedback=["length"], settings={"unfinished": p, "kl": 0.0}))
        for p in (0.0, 3.0)
    )
    assert dear[0]["score"] == free[0]["score"] and 0 < dear[0]["eos_rate"] < 1
    assert dear[0]["reward"] == pytest.approx(free[0]["reward"] - 3.0 * (1 - dear[0]["eos_rate"]))
    assert dear[1]["score"] != free[1]["score"]  # and the policy has learnt otherwise


def test_ppo_ptx_of_weight_zero_is_ppo_and_of_any_other_weight_is_not(tmp_path):
    ppo = quick("ppo", tmp_path / "ppo", feedback=["length"])
    zero = quick("ppo_ptx", tmp_path / "zero", feedback=["length"], settings={"pretrain_weight": 0.0})
    assert same(weights(zero), weights(ppo)) and rows(zero) == rows(ppo)
    text = write(tmp_path / "texts.jsonl", [{"text": "ba be bi"}, {"text": "do du"}])
    mixed = quick("ppo_ptx", tmp_path / "mixed", feedback=["length"], pretrain=str(text))
    found = [r["pretrain_loss"] for r in rows(mixed)]
    assert found[-1] < found[0] and apart(weights(mixed), weights(ppo)) > 1e-4


def test_the_texts_of_an_update_are_divided_by_their_own_tokens_at_temperature_one(tmp_path):
    # At the start nothing has moved, so the first figure is the start's own loss: -log p of a word and of the end.
    text = write(tmp_path / "texts.jsonl", [{"prompt": "ba", "response": " be"}])
    settings = {"pretrain_weight": 1.0, "temperature": 0.5, "micro_tokens": 1, "pretrain_batch": 3}
    run = quick("rloo", tmp_path / "run", feedback=["length"], pretrain=str(text), settings=settings)
    trunk = load_trunk(str(world() / "model"))
    ids = [*trunk.tokenizer("ba be")["input_ids"], trunk.tokenizer.eos_token_id]
    logps = trunk.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    want = -(logps[-3, ids[-2]] + logps[-2, ids[-1]]).item() / 2
    assert rows(run)[0]["pretrain_loss"] == pytest.approx(want, rel=1e-4)


NLPO = {"nucleus": 0.6, "nucleus_least": 1, "nucleus_every": 3, "lr": 3e-2}


def test_nlpo_that_allows_everything_is_ppo(tmp_path):
    settings = {"nucleus": 1.0, "kl": 0.05}
    nlpo, ppo = quick("nlpo", tmp_path / "nlpo", feedback=["length"], settings=settings), quick(
        "ppo", tmp_path / "ppo", feedback=["length"])  # fmt: skip
    assert same(weights(nlpo), weights(ppo)) and rows(nlpo) == rows(ppo)
    # Allowing every token one by one is the same as not asking, too.
    settings = {"nucleus": 0.5, "nucleus_least": 10_000, "kl": 0.05}
    asked = quick("nlpo", tmp_path / "asked", feedback=["length"], settings=settings)
    assert same(weights(asked), weights(ppo)) and rows(asked) == rows(ppo)
    masked = quick("nlpo", tmp_path / "masked", feedback=["length"], settings=NLPO)
    assert apart(weights(masked), weights(ppo)) > 1e-4


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_nlpo_recomputes_its_samples_under_the_very_sets_they_were_drawn_from(tmp_path, adapter):
    # Over four rounds, the policy moves away from its copy; yet the first update of each begins at ratio 1.
    settings = {**NLPO, "adapter": adapter, "rank": 2, "lr": 3e-2}
    found = rows(quick("nlpo", tmp_path / "run", feedback=["length"], settings=settings))
    assert all(r["ratio_max"] == pytest.approx(1.0, abs=1e-4) for r in found)
    free = rows(quick("ppo", tmp_path / "free", feedback=["length"], settings={"adapter": adapter, "rank": 2}))
    assert found[0]["entropy"] < free[0]["entropy"]


def test_without_a_target_the_price_stays(tmp_path):
    found = rows(quick("reinforce", tmp_path / "run", feedback=["length"], settings={"kl": 0.3}))
    assert [r["kl_price"] for r in found] == [0.3] * 4


def test_a_score_that_is_no_number_names_its_prompt_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"round 3; the prompts are .*texts.jsonl:\d+\. .*step-00000002"):
        quick("rloo", tmp_path / "run", feedback=[Broken()], settings={"held_out": 0.0})


def test_a_rule_is_told_what_the_data_holds_for_right_in_training_in_evaluation_and_of_logged_samples(tmp_path):
    right = {"ba": "be", "de": "do", "mu": ("ma", "mi")}
    (tmp_path / "rules.py").write_text(f"def told(prompt, response, reference): return reference == {right}[prompt]\n")
    rule, file = f"{tmp_path / 'rules.py'}:told", tmp_path / "right.jsonl"
    write(file, [{"prompt": prompt, "reference": reference} for prompt, reference in right.items()])
    run = quick("rloo", tmp_path / "run", data=file, feedback=[rule], settings={"held_out": 0.0})
    assert [row["score"] for row in rows(run)] == [1.0] * 4
    assert evaluate(str(run), data=str(file), feedback=[rule], max_tokens=3)[f"score {rule}"]["mean"] == 1
    assert [row["gold"] for row in trail(run, rule)] == [1.0] * 3


def test_a_rule_that_reads_references_is_refused_before_anything_is_written_where_there_is_none(tmp_path):
    file = write(tmp_path / "some.jsonl", [{"prompt": "ba", "reference": "be"}, {"prompt": "de"}])

    def exact(prompt, response, reference):
        return 1.0

    with pytest.raises(FeedbackError, match=r"rule exact reads a reference.*some.jsonl:2"):
        quick("rloo", tmp_path / "run", data=file, feedback=[exact], settings={"held_out": 0.0})
    assert not (tmp_path / "run").exists()


def test_a_rule_that_fails_ends_the_run_as_the_users_error(tmp_path):
    def wrong(response):
        return response.no_such_thing

    with pytest.raises(FeedbackError, match="no_such_thing"):
        quick("rloo", tmp_path / "run", feedback=[wrong])


def test_a_number_of_responses_that_the_method_cannot_use_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingError, match=r"rloo: K is 1"):
        quick("rloo", tmp_path / "run", feedback=["length"], settings={"K": 1})
    assert not (tmp_path / "run").exists()


def test_held_out_prompts_are_scored_and_the_best_round_becomes_the_model(tmp_path):
    settings = {"rounds": 8, "save_every": 1, "keep_best": "eval_score", "lr": 0.1, "schedule": "constant", "kl": 0.0}
    run = quick("reinforce", tmp_path / "run", feedback=["length"], settings=settings)
    scores = {r["round"]: r["eval_score"] for r in rows(run)}
    best = max(scores, key=scores.get)  # the first of equals
    kept = checkpoint.load(run / "checkpoints" / f"step-{best:08d}")["updater"]["weights"]
    made = weights(run)
    assert all(torch.equal(made[n.removeprefix("policy.body.")], w) for n, w in kept.items())


def test_a_judge_that_moves_is_no_measure_of_held_out_prompts(tmp_path):
    assert not any("eval_score" in r for r in rows(quick("rlgaf", tmp_path / "run")))


def test_a_judge_that_learns_learns_within_a_sum_too(tmp_path):
    settings = {"judge_warmup": 5, "judge_steps": 2}
    run = quick("ppo", tmp_path / "sum", feedback=["0.5*discriminator+0.1*length"], settings=settings)
    found = rows(run)
    assert [r["judge_steps"] for r in found] == [5.0] + [2.0] * 4 and (run / "judge" / "model.safetensors").is_file()
    assert not any("eval_score" in r for r in found)
    alone = quick("ppo", tmp_path / "alone", feedback=["discriminator"], settings=settings)
    assert rows(alone)[0]["judge_loss"] == found[0]["judge_loss"]  # the same judge, the same first samples
    assert rows(alone)[0]["score"] != found[0]["score"]
    state = checkpoint.load(checkpoint.found(run / "checkpoints")[0])
    assert len(state["judges"]) == 1 and state["judges"][0]["buffer"]


def test_responses_are_scored_by_the_judge_as_it_was_before_it_learnt_from_them(tmp_path, monkeypatch):
    from sparring.feedback.discriminator import Discriminator

    events = []
    for name in ("score", "learn"):
        was = getattr(Discriminator, name)
        monkeypatch.setattr(Discriminator, name, lambda self, fake, was=was, name=name, **more:
                            events.append((name, fake)) or was(self, fake, **more))  # fmt: skip
    quick("rlgaf", tmp_path / "run", settings={"rounds": 2, "judge_warmup": 0})
    assert [name for name, _ in events] == ["score", "learn"] * 2
    assert events[0][1] is events[1][1] and events[2][1] is events[3][1]


def test_the_judge_that_is_kept_scores_as_it_did(tmp_path):
    from sparring.feedback.reward_model import load_reward_model
    from sparring.models.backbone import load_trunk

    run = quick("rlgaf", tmp_path / "run")
    judge = load_reward_model(str(run / "judge"), load_trunk(str(run)), device="cpu")
    kept = checkpoint.load(checkpoint.found(run / "checkpoints")[0])["judges"][0]["updater"]["weights"]
    assert torch.equal(judge.network.head.weight, kept["head.weight"])


@pytest.mark.parametrize("method", ["reinforce", "grpo", "ppo", "rlgaf"])
def test_every_figure_that_is_written_down_has_a_meaning(tmp_path, method):
    more = {"feedback": ["length"]} if method != "rlgaf" else {}
    run = quick(method, tmp_path / "run", settings={"rounds": 2}, **more)
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        assert row.keys() <= METRICS.keys(), row.keys() - METRICS.keys()


def collapsing(monkeypatch, at, lasts=1000):
    """A watch that is certain from one round on, and has a remark on the judge in every round."""
    looked = []

    def look(self, figures):
        looked.append(figures)
        return Seen(["how odd a judge"], [], ["all is lost"] if at <= len(looked) < at + lasts else [])

    monkeypatch.setattr(Watch, "look", look)


def test_when_collapse_is_certain_the_last_healthy_checkpoint_becomes_the_model(tmp_path, monkeypatch, capsys):
    collapsing(monkeypatch, at=6)
    run = quick("ppo", tmp_path / "run", feedback=["length"], settings={"rounds": 9, "watch": "rollback"}, quiet=False)
    assert [r["round"] for r in rows(run)] == [1, 2, 3, 4, 5, 6]
    kept = checkpoint.load(run / "checkpoints" / "step-00000004")["updater"]["weights"]
    made = weights(run)
    assert all(torch.equal(made[n.removeprefix("policy.body.")], w) for n, w in kept.items() if "policy.body" in n)
    said = capsys.readouterr().err
    assert "stopped in round 6: all is lost" in said and "checkpoint of round 4" in said


def test_a_checkpoint_is_as_healthy_as_what_its_policy_says_in_the_next_round(tmp_path, monkeypatch, capsys):
    collapsing(monkeypatch, at=5)
    quick("ppo", tmp_path / "run", feedback=["length"], settings={"rounds": 9, "watch": "rollback"}, quiet=False)
    assert "checkpoint of round 2" in capsys.readouterr().err, "round 4 ended with the step that broke it"


def test_the_judge_that_is_kept_is_that_of_the_same_round(tmp_path, monkeypatch):
    collapsing(monkeypatch, at=5)
    run = quick("rlgaf", tmp_path / "run", settings={"rounds": 9, "watch": "rollback"})
    kept = checkpoint.load(run / "checkpoints" / "step-00000004")["judges"][0]["updater"]["weights"]
    assert torch.equal(weights(run, "judge")["score.weight"], kept["head.weight"])


def test_a_run_that_is_stopped_without_a_model_stays_stopped_when_it_is_resumed(tmp_path, monkeypatch):
    collapsing(monkeypatch, at=4, lasts=1)  # resumed, it would find nothing any more
    ask = {"feedback": ["length"], "settings": {"watch": "stop", "rounds": 9}}
    for resume in (False, True):
        with pytest.raises(Diverged, match=r"stopped in round 4: all is lost\. No model is written"):
            quick("ppo", tmp_path / "run", resume=resume, **ask)
        assert not (tmp_path / "run" / "model").exists() and len(rows(tmp_path / "run")) == 4


@pytest.mark.parametrize(("method", "start"), [("ppo", 0), ("rlgaf", 2)])
def test_a_run_that_was_never_healthy_is_taken_back_to_its_start(tmp_path, monkeypatch, capsys, method, start):
    # With save_every 4 no checkpoint but that of the start is written before the watch is certain.
    collapsing(monkeypatch, at=1, lasts=1)
    ask = {"settings": {"rounds": 9, "save_every": 4, "watch": "rollback"}, "feedback": ["length"]}
    if start:
        ask = {"settings": ask["settings"] | {"judge_warmup": 10}}
    run = quick(method, tmp_path / "run", quiet=False, **ask)
    assert [r["round"] for r in rows(run)] == list(range(1, start + 2))
    assert same(weights(run), load_file(world() / "model" / "model.safetensors"))
    assert f"the model is the checkpoint of round {start}, before its first step" in capsys.readouterr().err
    cut = shutil.copytree(run, tmp_path / "cut")
    shutil.rmtree(cut / "model")
    assert same(weights(quick(method, cut, resume=True, **ask)), weights(run))


def test_a_watch_that_only_warns_lets_the_run_go_on(tmp_path, monkeypatch, capsys):
    collapsing(monkeypatch, at=2)
    run = quick("ppo", tmp_path / "run", feedback=["length"], settings={"watch": "warn"}, quiet=False)
    assert len(rows(run)) == ONLINE["rounds"]
    assert "round 2: all is lost" in capsys.readouterr().err


def test_what_the_watch_says_is_printed_as_it_is(tmp_path, monkeypatch, capsys):
    # Brackets are no markup here, and a long line is not broken: it may hold a path.
    monkeypatch.setattr(Watch, "look", lambda self, figures: Seen([], ["[/bold] " + "a/long/path/" * 20], []))
    quick("rloo", tmp_path / "run", feedback=["length"], settings={"rounds": 1}, quiet=False)
    assert "[/bold] " + "a/long/path/" * 20 in capsys.readouterr().err


def test_samples_of_the_first_and_of_every_saved_round_are_written_down(tmp_path):
    run = quick("ppo", tmp_path / "run", feedback=["length"], settings={"rounds": 5})
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert sorted({s["round"] for s in samples}) == [1, 2, 4, 5]
    for s in samples:
        assert s["score"] == len(s["response"].split()) and s["stop"] in ("eos", "length")


def test_two_runs_of_one_seed_are_the_same_and_of_two_seeds_are_not(tmp_path):
    a, b = (quick("rlgaf", tmp_path / n) for n in "ab")
    assert same(weights(a), weights(b)) and rows(a) == rows(b)
    assert not same(weights(a), weights(quick("rlgaf", tmp_path / "c", settings={"seed": 1})))

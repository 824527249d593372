import json
import math

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from sparring.cli.main import main
from sparring.core.errors import FeedbackError, ModelError, SettingError
from sparring.data.batch import Row, collate
from sparring.data.responses import Responses, read_out
from sparring.evaluation import intervals
from sparring.evaluation.figures import FIGURES, meaning
from sparring.evaluation.given import order_figures
from sparring.evaluation.intervals import difference, distinct_of, mean_of, over_seeds, ratio_of, share_of, t_quantile
from sparring.evaluation.measure import measure, select, token_logps
from sparring.evaluation.suite import evaluate
from sparring.evaluation.text import text_figures
from sparring.feedback.rule import as_rule
from sparring.models.backbone import save_trunk, tiny_model
from sparring.models.forward import probe
from sparring.models.heads import scalar_head
from sparring.models.roles import Network
from sparring.models.scorers import save_scorer
from sparring.rollout.sample import Rollout, Sampling, Stop, sample

WORDS = ["good", "bad", "film", "was", "the"]
EOS = 1  # of the tiny models


def trunk(seed: int, spread: float = 8.0):
    """A tiny model with random weights, whose next token is far from evenly spread."""
    made = tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=seed)
    made.lm.get_input_embeddings().weight.data.mul_(spread)
    probe(made)
    return made


def network(seed: int) -> Network:
    return Network(trunk=trunk(seed))


def drawn(policy: Network, prompts: int = 6, K: int = 2, **how) -> Rollout:
    ids = [(3 + i % 5, 3 + i % 3) for i in range(prompts)]
    return sample(policy, ids, K, Sampling(max_tokens=6, **how), seed=0)


def coverage(trials: int, estimate, truth: float) -> float:
    found = [estimate(i) for i in range(trials)]
    return sum(e.low <= truth <= e.high for e in found) / trials


def is_about_95(share: float, trials: int) -> bool:
    """Whether a simulated coverage is within 93 to 97 %, give or take two standard errors of so few trials."""
    errors = [2 * math.sqrt(limit * (1 - limit) / trials) for limit in (0.93, 0.97)]
    return 0.93 - errors[0] <= share <= 0.97 + errors[1]


# Intervals


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 600)


def test_quantiles_of_student_are_those_of_the_tables():
    # Two-sided 95 %, from any printed table.
    table = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 29: 2.045, 120: 1.980}
    assert {v: round(t_quantile(0.975, v), 3) for v in table} == table
    for v in (1, 2, 3, 8, 59, 60, 61, 500):
        assert t_quantile(0.995, v) == pytest.approx(stats.t.ppf(0.995, v), rel=1e-6)


@pytest.mark.parametrize("n", [30, 80])
def test_the_interval_of_a_skewed_mean_covers_the_truth_95_times_in_100(few_draws, n):
    draw = np.random.default_rng(n)
    got = coverage(600, lambda i: mean_of(draw.exponential(2.0, n).tolist(), seed=i), truth=2.0)
    assert is_about_95(got, 600)


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_the_interval_of_a_mean_covers_the_truth_93_to_97_times_in_100_by_many_trials(n, kind):
    # 4,000 trials, so that the standard error is a third of a point; the draws are as many as in earnest.
    draw = np.random.default_rng(12345)
    got = coverage(4000, lambda i: mean_of(getattr(draw, kind)(size=n).tolist(), seed=i), truth=float(kind != "normal"))
    assert 0.93 <= got <= 0.97


def test_the_interval_of_a_ratio_of_sums_covers_the_truth_95_times_in_100(few_draws):
    draw = np.random.default_rng(0)

    def nats_by_tokens(i: int):
        tokens = draw.integers(1, 40, 60)
        own = draw.normal(3.0, 0.5, 60)  # nats a token: prompts differ, and their lengths too
        return ratio_of((tokens * own).tolist(), tokens.astype(float).tolist(), seed=i)

    assert is_about_95(coverage(600, nats_by_tokens, truth=3.0), 600)


def test_wilsons_interval_is_scipys_and_covers_95_times_in_100_on_average_over_shares():
    for hits, n in ((0, 9), (3, 20), (50, 50), (499, 1000)):
        low, high = stats.binomtest(hits, n).proportion_ci(method="wilson")
        got = share_of(hits, n)
        assert (got.mean, got.low, got.high) == pytest.approx((hits / n, low, high), abs=1e-12)
    n, ends = 60, [share_of(hits, 60) for hits in range(61)]
    shares = np.linspace(0.02, 0.98, 97)
    hit = [sum(stats.binom.pmf(k, n, p) for k, e in enumerate(ends) if e.low <= p <= e.high) for p in shares]
    assert 0.945 <= np.mean(hit) <= 0.955


def test_the_interval_over_five_seeds_is_students_and_covers_95_times_in_100():
    draw = np.random.default_rng(1)
    runs = draw.normal(size=(600, 5))
    got = over_seeds(runs[0].tolist())
    expected = stats.t.interval(0.95, 4, loc=runs[0].mean(), scale=stats.sem(runs[0]))
    assert (got.low, got.high) == pytest.approx(expected)
    assert is_about_95(coverage(600, lambda i: over_seeds(runs[i].tolist()), truth=0.0), 600)


def test_the_share_of_distinct_things_is_jackknifed_by_leaving_out_each_unit():
    things = [["a", "b", "a"], ["b", "c"], ["d"], ["a", "d", "e", "e"]]
    share = lambda units: len({t for u in units for t in u}) / sum(map(len, units))  # noqa: E731 - used twice
    without = np.array([share(things[:i] + things[i + 1 :]) for i in range(4)])
    error = math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    got = distinct_of(things)
    assert got.mean == pytest.approx(5 / 10)
    assert got.high == pytest.approx(min(1.0, 0.5 + 3.182446 * error), rel=1e-6)  # Student's quantile, 3 degrees


def test_the_interval_of_the_share_of_distinct_words_covers_its_expectation():
    draw = np.random.default_rng(2)
    chances = 1 / np.arange(1, 301)  # words are about as frequent as one over their rank
    chances /= chances.sum()
    words = draw.choice(300, (1500, 40, 12), p=chances)
    units = [[[int(w) for w in text] for text in one] for one in words]
    truth = float(np.mean([len(np.unique(one)) / one.size for one in words]))
    # The jackknife never says less than the truth about the spread on average, so it may cover a little more.
    assert 0.93 <= coverage(400, lambda i: distinct_of(units[i]), truth) <= 0.99


def test_a_paired_difference_is_the_mean_of_differences_and_surer_than_two_intervals():
    draw = np.random.default_rng(3)
    easy = draw.normal(0, 5, 100)  # prompts differ far more than the two models do
    a, b = mean_of((easy + 1 + draw.normal(0, 0.1, 100)).tolist()), mean_of(easy.tolist())
    got = difference(a, b)
    assert got.mean == pytest.approx(a.mean - b.mean) and 0.9 < got.low < 1 < got.high < 1.1
    assert a.low < b.mean  # taken apart, nothing could be said
    with pytest.raises(ValueError, match="100 and 2"):
        difference(a, mean_of([1.0, 2.0]))


def test_a_single_unit_has_no_interval_and_equal_units_have_an_empty_one():
    for one in (mean_of([2.0]), over_seeds([2.0]), distinct_of([["a", "b"]])):
        assert one.low is None and one.high is None
    same = mean_of([2.0, 2.0, 2.0])
    assert (same.mean, same.low, same.high) == (2.0, 2.0, 2.0)


def test_the_same_numbers_give_the_same_interval():
    values = np.random.default_rng(4).normal(size=50).tolist()
    assert mean_of(values) == mean_of(values) and mean_of(values) != mean_of(values, seed=1)


# Text


def responses(*texts: tuple[str, ...]) -> Responses:
    rows = [Row(prompt=(3,), responses=tuple((4,) for _ in row)) for row in texts]
    return Responses(batch=collate(rows), prompts=("p",) * len(texts), texts=texts)


def test_text_figures_count_words_by_hand():
    got = text_figures(responses(("a b a b a b", "a b"), ("c", "a b")))
    assert got["words"].mean == (4 + 1.5) / 2
    assert got["distinct_1_words"].mean == 3 / 11  # a, b, c
    assert got["distinct_2_words"].mean == 2 / 7  # "a b" and "b a"
    assert got["repeated_4grams_words"].mean == 1 / 3  # abab, baba, abab
    assert got["identical"].mean == 1 / 4  # "a b" twice


def test_figures_about_ngrams_are_left_out_when_no_response_is_long_enough():
    got = text_figures(responses(("a",), ("b",)))
    assert "distinct_2_words" not in got and "repeated_4grams_words" not in got
    assert text_figures(responses(("",), ("",)))["words"].mean == 0


# Measuring responses


def brute_logps(lm, prompt: list[int], response: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of a response by the whole model and one row, without a line of ours."""
    with torch.no_grad():
        logits = lm(torch.tensor([prompt + response])).logits[0].double() / temperature
    logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logps[torch.arange(len(response)), torch.tensor(response)]


def pairs_of(rollout: Rollout) -> list[list[tuple[list[int], list[int]]]]:
    b = rollout.batch
    return [
        [(b.prompt_ids[i][b.prompt_mask[i]].tolist(), b.response_ids[i, k][b.mask[i, k]].tolist()) for k in range(2)]
        for i in range(len(b))
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_and_perplexity_are_those_of_one_row_at_a_time(temperature):
    policy, start = network(0), network(1)
    rollout = drawn(policy, temperature=temperature)
    got = measure(rollout, policy.trunk.tokenizer, start=start, temperature=temperature, micro_tokens=20)
    k1, k3, nats, tokens = [], [], 0.0, 0
    for row in pairs_of(rollout):
        ratios = [
            brute_logps(policy.trunk.lm, *pair, temperature) - brute_logps(start.trunk.lm, *pair, temperature)
            for pair in row
        ]
        k1.append(sum(float(r.sum()) for r in ratios) / 2)
        k3.append(sum(float(((-r).exp() - 1 + r).sum()) for r in ratios) / 2)
        for prompt, response in row:
            text = response[:-1] if response[-1] == EOS else response
            nats -= float(brute_logps(start.trunk.lm, prompt, response)[: len(text)].sum())
            tokens += len(text)
    assert got["kl"].values == pytest.approx(k1, abs=1e-4) and got["kl"].mean > 0.1
    assert got["kl_k3"].values == pytest.approx(k3, rel=1e-3, abs=1e-4)
    assert got["perplexity"].mean == pytest.approx(math.exp(nats / tokens), rel=1e-4)


def test_the_units_are_prompts_and_not_responses():
    policy = network(0)
    rollout = drawn(policy)
    scores = {"size": as_rule("size", len).score(read_out(rollout.batch, policy.trunk.tokenizer))}
    got = measure(rollout, policy.trunk.tokenizer, scores=scores, start=network(1))
    assert {e.n for e in got.values()} == {6} and len(got["score size"].values) == 6
    assert list(got) == ["score size", *[name for name in FIGURES if name in got]]
    assert all(meaning(name) for name in got)


def test_a_policy_is_no_distance_from_itself():
    policy = network(0)
    got = measure(drawn(policy), policy.trunk.tokenizer, start=policy)
    assert got["kl"].mean == pytest.approx(0, abs=1e-5) and got["kl_k3"].mean == pytest.approx(0, abs=1e-5)


def test_no_kl_is_given_for_greedy_or_selected_responses():
    policy, start = network(0), network(1)
    greedy = measure(drawn(policy, temperature=0.0), policy.trunk.tokenizer, start=start, temperature=0.0)
    picked = measure(drawn(policy), policy.trunk.tokenizer, start=start, is_selected=True)
    assert "kl" not in greedy and "kl" not in picked and "perplexity" in greedy and "perplexity" in picked


def test_log_probabilities_do_not_depend_on_the_parts_they_are_computed_in():
    policy = network(0)
    batch = drawn(policy, prompts=9).batch
    whole, parts = (token_logps(batch, policy, micro_tokens=n) for n in (10_000, 1))
    assert torch.allclose(whole, parts, atol=1e-5)


def test_selecting_takes_the_best_of_every_n_with_all_that_belongs_to_it():
    policy = network(0)
    rollout = drawn(policy, prompts=3, K=4)
    scores = torch.tensor([[1.0, 3, 2, 0], [5, 5, 7, 9], [0, 1, 1, 0]])
    got = select(rollout, scores, 2)
    for b, chosen in enumerate([[1, 2], [0, 3], [1, 2]]):
        for k, c in enumerate(chosen):
            assert torch.equal(got.batch.response_ids[b, k], rollout.batch.response_ids[b, c])
            assert torch.equal(got.token_logps[b, k], rollout.token_logps[b, c])
            assert got.stops[b][k] is rollout.stops[b][c]


def test_accuracy_counts_neighbours_in_order_ties_as_half_and_prompts_once():
    rows = [
        Row(prompt=(1,), responses=((3,), (4,), (5,))),  # 3 > 2 right, 2 = 2 half: 3/4
        Row(prompt=(2,), responses=((3,), (4,))),  # wrong: 0, and its prompt occurs twice
        Row(prompt=(2,), responses=((3,), (4,))),  # right: 1
    ]
    reward = torch.tensor([[3.0, 2, 2], [1, 4, 0], [4, 1, 0]])
    got = order_figures(rows, reward, collate(rows))
    assert got["reward_accuracy"].mean == pytest.approx((0.75 + 0.5) / 2) and got["reward_accuracy"].n == 2
    assert got["reward_margin"].values == pytest.approx((1.0, 0.0))


# Whole evaluations


@pytest.fixture
def place(tmp_path):
    """A start model, a run that began there, held-out prompts, preferences, and a judge."""
    save_trunk(trunk(1), tmp_path / "start")
    made = trunk(0)
    save_trunk(made, tmp_path / "run" / "model")
    save_scorer(Network(trunk=made, head=scalar_head(made, 3)), tmp_path / "run" / "judge")
    write(tmp_path / "train.jsonl", [{"prompt": "the film", "response": "was good"}])
    prompts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2]]
    write(tmp_path / "test.jsonl", [{"prompt": p, "response": "was good"} for p in prompts])
    write(tmp_path / "pairs.jsonl", [{"prompt": p, "chosen": "good", "rejected": "bad film"} for p in prompts[:12]])
    describe(tmp_path, feedback=["discriminator"])
    return tmp_path


def write(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def describe(place, **more) -> None:
    content = {"method": "rlgaf", "model": str(place / "start"), "data": str(place / "train.jsonl")}
    content |= {"settings": {"held_out": 0.0, "seed": 0}} | more
    (place / "run" / "run.yaml").write_text(yaml.safe_dump(content))


def goods(text: str) -> float:
    return float(text.count("good"))


def run(place, **more) -> dict:
    return evaluate(str(place / "run"), **({"data": str(place / "test.jsonl"), "max_tokens": 5} | more))


def test_an_evaluation_of_a_run_measures_all_and_writes_it_down(place):
    got = run(place, feedback=[goods, "length"], K=2)
    names = {"score goods", "score length", "kl", "kl_k3", "perplexity", "data_perplexity", "tokens", "eos_rate"}
    assert names | {"words", "identical", "distinct_1_words"} <= got.keys()
    assert got["score goods"]["n"] == 50 == len(got["values"]["score goods"])
    assert got["kl"]["mean"] > 0 and got["settings"]["K"] == 2 and got["notes"] == []
    assert len(got["samples"]) == 16 and set(got["samples"][0]["scores"]) == {"goods", "length"}
    assert json.loads((place / "run" / "eval.json").read_text()) == got
    assert run(place, feedback=[goods, "length"], K=2) == got


def test_the_prompts_that_are_taken_are_the_same_for_every_model_and_seed(place):
    first, second = run(place, prompts=7, seed=0), run(place, prompts=7, seed=1)
    other = evaluate(str(place / "start"), data=str(place / "test.jsonl"), prompts=7, max_tokens=5)
    prompts = [[s["prompt"] for s in found["samples"]] for found in (first, second, other)]
    assert prompts[0] == prompts[1] == prompts[2] and len(prompts[0]) == 7
    assert first["samples"] != second["samples"]
    assert "no KL and no perplexity" in other["notes"][0] and "kl" not in other
    assert "the data has 50 different prompts, not 51" in run(place, prompts=51)["notes"]


def test_a_prompt_of_several_records_is_answered_once(place):
    rows = [{"prompt": p, "chosen": "good", "rejected": r} for p in ("the film", "film was") for r in ("bad", "the")]
    write(place / "twice.jsonl", rows)
    got = run(place, data=str(place / "twice.jsonl"))
    assert got["tokens"]["n"] == 2 and got["reward_accuracy"]["n"] == 2 and got["data_perplexity"]["n"] == 2


def test_a_base_that_is_named_comes_before_the_start_of_the_run(place):
    got = run(place, base=str(place / "run"))
    assert got["kl"]["mean"] == pytest.approx(0, abs=1e-5)


def test_a_start_that_is_gone_is_said_and_a_base_that_is_not_there_refused(place):
    describe(place, model=str(place / "gone"))
    got = run(place)
    assert "kl" not in got and any("cannot be loaded here; name it with --base" in n for n in got["notes"])
    with pytest.raises(ModelError, match="no such model folder"):
        run(place, base=str(place / "gone"))


def test_a_judge_of_the_run_and_feedback_it_was_trained_on_are_not_called_held_out(place):
    describe(place, feedback=["0.5*length+0.5*discriminator"])
    judge = str(place / "run" / "judge")
    got = run(place, feedback=["vader+length", judge])
    assert got["notes"] == [
        "run was trained to score well by length, so its score is no held-out figure",
        f"{judge} was trained in run itself, so its score is no held-out figure",
    ]


def test_prompts_that_were_trained_on_are_counted_also_those_of_an_earlier_run(place):
    write(place / "train.jsonl", [{"prompt": p, "response": "was"} for p in ("good bad good", "bad bad bad", "was")])
    later = place / "later"
    save_trunk(trunk(2), later / "model")
    content = {"method": "dpo", "model": str(place / "run"), "data": str(place / "pairs.jsonl"), "where": ["prompt=x"]}
    (later / "run.yaml").write_text(yaml.safe_dump(content | {"settings": {"held_out": 0.0, "seed": 0}}))
    note = "run was trained on 2 of these prompts, so figures measure memory too"
    assert run(place)["notes"] == [note]
    got = evaluate(str(later), data=str(place / "test.jsonl"), max_tokens=5)
    assert "whether later was trained on these prompts is unknown: its data cannot be read here" in got["notes"]
    assert note in got["notes"]


def test_best_of_n_raises_the_judges_score_and_keeps_the_other_file(place):
    plain = run(place, feedback=[goods])
    got = run(place, feedback=[goods], judge=goods, best_of=4)
    assert got["score goods"]["low"] > plain["score goods"]["mean"] and "kl" not in got
    assert "log n - (n-1)/n = 0.64 nats" in got["notes"][0] and "no independent figure" in got["notes"][0]
    assert json.loads((place / "run" / "eval.json").read_text()) == plain
    assert json.loads((place / "run" / "eval-best-of-4.json").read_text()) == got


def test_a_run_folder_as_judge_means_the_judge_in_it(place):
    by_run, by_judge = str(place / "run"), str(place / "run" / "judge")
    got = run(place, feedback=[by_run, by_judge])
    assert got["values"][f"score {by_run}"] == got["values"][f"score {by_judge}"]


def test_preferences_tell_how_often_the_implied_reward_is_right(place):
    got = run(place, data=str(place / "pairs.jsonl"))
    policy, start = trunk(0), trunk(1)
    right = 0
    for a in range(12):
        prompt = [3 + a // 10, 3 + a // 2 % 5, 3 + a % 2]
        reward = [
            float((brute_logps(policy.lm, prompt, y) - brute_logps(start.lm, prompt, y)).sum())
            for y in ([3, EOS], [4, 5, EOS])
        ]
        right += reward[0] > reward[1]
    assert got["reward_accuracy"]["mean"] == pytest.approx(right / 12)
    assert "calibration_error" not in got  # the run learnt from demonstrations: its reward has no unit


def test_the_reward_that_a_run_implies_is_held_to_its_promise_in_the_units_of_its_method(place):
    describe(place, method="dpo", settings={"held_out": 0.0, "seed": 0, "beta": 0.05})
    got = run(place, data=str(place / "pairs.jsonl"))
    policy, start = trunk(0), trunk(1)
    off = []
    for a in range(12):
        prompt = [3 + a // 10, 3 + a // 2 % 5, 3 + a % 2]
        good, bad = (
            float((brute_logps(policy.lm, prompt, y) - brute_logps(start.lm, prompt, y)).sum())
            for y in ([3, EOS], [4, 5, EOS])
        )
        off.append(1 / (1 + math.exp(-0.05 * abs(good - bad))) - (good > bad))
    assert got["overconfidence"]["mean"] == pytest.approx(sum(off) / 12, abs=1e-4)
    assert sum(row["n"] for row in got["tables"]["calibration"]) == 12


def test_a_reward_model_is_measured_by_how_it_ranks(place):
    got = evaluate(str(place / "run" / "judge"), data=str(place / "pairs.jsonl"))
    assert got["reward_accuracy"]["n"] == 12 and "this is a reward model" in got["notes"][-1]
    with pytest.raises(SettingError, match="give it preferences or rankings"):
        evaluate(str(place / "run" / "judge"), data=str(place / "test.jsonl"))


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"best_of": 4}, SettingError, "best_of 4 needs a judge that picks"),
        ({"judge": "length"}, SettingError, "say of how many with --best-of"),
        ({"K": 0}, SettingError, "K must be at least 1, got 0"),
        ({"prompts": -1}, SettingError, "prompts must be at least 1, or 0 for all, got -1"),
        ({"feedback": ["length", "length"]}, FeedbackError, "length is named twice"),
        ({"feedback": ["discriminator"]}, FeedbackError, "RUN/judge"),
        ({"feedback": ["lenght"]}, FeedbackError, "did you mean length"),
        ({"max_tokens": 32}, SettingError, "32 positions; a response of 32 tokens leaves none"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(place, more, error, words):
    with pytest.raises(error, match=words):
        run(place, **more)
    assert not (place / "run" / "eval.json").exists()


def test_another_tokenizers_model_is_no_base(place):
    save_trunk(tiny_model(["x"], width=8, layers=1, heads=1, context=32, seed=0), place / "other")
    with pytest.raises(ModelError, match="its tokenizer is not that of"):
        run(place, base=str(place / "other"))


def test_the_command_prints_a_table_or_json_and_says_where_it_wrote(place, capsys):
    flags = ["evaluate", str(place / "run"), "--data", str(place / "test.jsonl"), "--max-tokens", "5", "--prompts", "9"]
    assert main([*flags, "--feedback", "length"]) == 0
    out, err = capsys.readouterr()
    assert "score length" in out and "95 % interval" in out and "eval.json" in err
    assert main([*flags, "--json", "--best-of", "2", "--judge", "length"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["best_of"] == 2


def test_why_a_response_stopped_is_counted_by_prompt():
    policy = network(0)
    rollout = drawn(policy, prompts=10)
    got = measure(rollout, policy.trunk.tokenizer)["eos_rate"]
    ended = sum(stop is Stop.EOS for row in rollout.stops for stop in row)
    assert got.mean == pytest.approx(ended / 20) and got.n == 10 and 0 < ended < 20

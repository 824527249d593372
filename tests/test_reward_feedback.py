"""What is done with reward models once they are trained: their level, ensembles, the gate."""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers

from sparring.core.errors import FeedbackError, ModelError
from sparring.core.seeds import rng
from sparring.data.batch import collate
from sparring.data.encode import encode
from sparring.data.formats import to_records
from sparring.data.read import RawRow, read_rows
from sparring.data.responses import read_out
from sparring.data.split import split
from sparring.evaluation.origin import Origin, judge_notes
from sparring.evaluation.plan import judge_name
from sparring.feedback.combine import build, is_learnt, learners
from sparring.feedback.expression import Call, call_of, leaves, parse
from sparring.feedback.reward_model import load_reward_model
from sparring.feedback.rule import load_rule
from sparring.loops import results
from sparring.models.backbone import load_trunk
from tests.small import apart, quick, rows, weights, world
from tests.test_feedback_rules import Learner, responses

# The level of a reward model


def plain_scores(folder, records):
    """Score the best responses one by one with plain transformers: the head on the last token."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    out = []
    for row in encode(records, load_trunk(str(world() / "model")).tokenizer):
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([[*row.prompt, *row.responses[0]]])).last_hidden_state
        out.append(model.score(hidden[0, -1]).item())
    return out


def pairs():
    return to_records(read_rows(str(world() / "pairs.jsonl")), "preference")


@pytest.mark.parametrize(("share", "of"), [(0.25, "held-out"), (0.0, "training")])
def test_a_trained_reward_model_keeps_its_mean_score_of_chosen_responses(tmp_path, share, of):
    settings = {"held_out": share, "keep_best": "eval_loss" if share else "last"}
    run = quick("reward_model", tmp_path / "rm", settings=settings)
    train, held_out = split(pairs(), share, 0)
    chosen = held_out or train
    kept = json.loads((run / "model" / "score.json").read_text())
    scores = plain_scores(run / "model", chosen)
    assert kept["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-5) and kept["mean"] != 0
    assert (kept["rows"], kept["of"]) == (len(chosen), of)
    assert f"{len(chosen)} {of} rows: {kept['mean']:.4g}" in (run / "README.md").read_text()


def test_as_feedback_a_reward_model_gives_good_responses_zero_on_average(tmp_path):
    run = quick("reward_model", tmp_path / "rm", settings={"held_out": 0.25})
    trunk = load_trunk(str(world() / "model"))
    judge = load_reward_model(str(run), trunk, device="cpu")
    _, held_out = split(pairs(), 0.25, 0)
    chosen = [replace(row, responses=row.responses[:1]) for row in encode(held_out, trunk.tokenizer)]
    scores = judge.score(read_out(collate(chosen), trunk.tokenizer))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5) and float(scores.std()) > 1e-4
    ragged = collate([replace(chosen[0], responses=chosen[0].responses * 2), chosen[1]])
    assert judge.score(read_out(ragged, trunk.tokenizer))[1, 1] == 0  # not minus the mean: there is no response


def test_a_ranking_reward_model_is_levelled_by_the_best_of_each_ranking(tmp_path):
    file = tmp_path / "ranked.jsonl"
    file.write_text("".join(json.dumps({"prompt": r.prompt, "ranked": [r.rejected, r.chosen]}) + "\n" for r in pairs()))
    run = quick(
        "ranking_reward_model", tmp_path / "rm", data=str(file), settings={"held_out": 0.0, "keep_best": "last"}
    )
    best = [replace(r, chosen=r.rejected, rejected=r.chosen) for r in pairs()]
    scores = plain_scores(run / "model", best)
    assert json.loads((run / "model" / "score.json").read_text())["mean"] == pytest.approx(sum(scores) / 24, abs=1e-5)


def test_the_level_is_measured_on_a_limited_number_of_rows_drawn_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MEASURED", 5)
    run = quick("reward_model", tmp_path / "rm", settings={"held_out": 0.0, "keep_best": "last"})
    drawn = [pairs()[i] for i in rng(0, "level").permutation(24)[:5]]
    kept = json.loads((run / "model" / "score.json").read_text())
    assert kept["rows"] == 5 and kept["mean"] == pytest.approx(sum(plain_scores(run / "model", drawn)) / 5, abs=1e-5)


def test_a_scorer_without_a_level_scores_as_it_is_and_a_damaged_level_is_refused(tmp_path):
    run = quick("reward_model", tmp_path / "rm")
    level = run / "model" / "score.json"
    trunk = load_trunk(str(world() / "model"))
    for text in ('{"mean": "high"}', "{", '{"mean": NaN}', "[]"):
        level.write_text(text)
        with pytest.raises(ModelError, match=r"score\.json"):
            load_reward_model(str(run), trunk, device="cpu")
    level.unlink()
    assert load_reward_model(str(run), trunk, device="cpu").mean == 0


# Ensembles


class Fixed:
    def __init__(self, *scores):
        self.scores = torch.tensor(scores)

    def score(self, responses):
        return self.scores


ONES = {"a": Fixed([1.0, 0.0]), "b": Fixed([2.0, 0.0]), "c": Fixed([6.0, 0.0])}


def score(spec, judges=ONES, batch=None):
    return build([spec], judges.__getitem__).score(batch or responses(("x", "y"))).tolist()


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("mean(a,b,c)", 3.0),
        ("worst(a,b,c)", 1.0),
        ("uwo(a,b,c)", 3.0 - 0.5 * 14 / 3),  # the population's variance: (4 + 1 + 9) / 3; the unbiased one is 7
        ("uwo(a,b,c,lam=0.1)", 3.0 - 0.1 * 14 / 3),
        ("uwo(a, b, c, lam = 0)", 3.0),
        ("2*mean(a,b)+0.5*c", 3.0 + 3.0),
        ("mean(a,2*b+c)", (1 + 10) / 2),
        ("worst(mean(b,c),a)", 1.0),
        ("-1*worst(a,b)+mean(a,c)", -1 + 3.5),
    ],
)
def test_an_ensemble_is_what_its_formula_says(spec, value):
    assert score(spec) == [[pytest.approx(value), 0.0]]


def test_an_ensemble_of_models_that_agree_is_any_of_them():
    twins = {n: Fixed([1.5, -2.0]) for n in "abc"}
    for spec in ("mean(a,b,c)", "worst(a,b,c)", "uwo(a,b,c)"):
        assert score(spec, twins) == [[1.5, -2.0]]


def test_a_judge_that_is_named_at_two_places_is_loaded_once_and_learns_once():
    learner, asked = Learner(), []

    def load(name):
        asked.append(name)
        return learner

    both = build(["judge+mean(judge,0.5*judge)"], load)
    assert asked == ["judge"] and learners(both) == (learner,)


def test_learners_are_found_at_any_depth():
    one, two = Learner(), Learner()
    known = {"one": one, "two": two, "length": load_rule("length")}
    both = build(["gated(safety=one,helpfulness=uwo(length,2*two))"], known.__getitem__)
    assert learners(both) == (one, two)
    rules = build(["gated(safety=length,helpfulness=uwo(length,2*vader))"], load_rule)
    assert is_learnt(both) and is_learnt(one) and not is_learnt(rules) and not is_learnt(load_rule("length"))


def test_the_judges_inside_an_expression_are_those_that_a_run_was_trained_on(tmp_path):
    spec = "gated(safety=runs/s,helpfulness=uwo(runs/a,2*runs/b,lam=0.1),below=0.2)"
    assert leaves([spec, "length"]) == ["runs/s", "runs/a", "runs/b", "length"]
    run = Origin(folder=tmp_path, content={"feedback": [spec]})
    assert len(judge_notes("mean(runs/a,runs/c)", [run])) == 1 and judge_notes("runs/c", [run]) == []
    assert judge_name(spec) == spec


def test_a_path_with_brackets_commas_or_an_equals_sign_is_one_judge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mean(a,b)", "x,y", "lam=1"):
        (tmp_path / name).mkdir()
    assert call_of("mean(a,b)") is None and [t.name for t in parse(["mean(a,b)"])] == ["mean(a,b)"]
    assert call_of("worst(lam=1, c)") == Call(function="worst", parts=("lam=1", "c"), named={})
    assert call_of("x" * 5000 + "(a)") is not None  # longer than any name on disk


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mean(a,b", "bracket without its partner"),
        ("mean a,b)", "bracket without its partner"),
        ("mean()", "empty part"),
        ("mean(a,)", "empty part"),
        ("mean(a)", "two different judges or more; write mean"),
        ("worst(a,a)", "two different judges or more; write worst"),
        ("meen(a,b)", "there is no meen.*did you mean mean"),
        ("mean(a,b,lam=1)", "mean has no lam; it takes judges only"),
        ("uwo(a,b,lambda=1)", "uwo has no lambda; did you mean lam"),
        ("uwo(a,b,lam=much)", "lam is 'much'; give a number from 0"),
        ("uwo(a,b,lam=-1)", "lam is '-1'; give a number from 0"),
        ("uwo(a,b,lam=1,lam=2)", "gives lam twice"),
        ("gated(a,b)", "gated needs safety="),
        ("gated(safety=a)", "gated needs helpfulness="),
        ("gated(safety=a,helpfulness=b,c)", "takes no 'c' without a key"),
        ("gated(safety=a,helpfulness=b,below=15)", "below is '15'; give a number from 0 to 1"),
        ("gated(safety=a,helpfulness=b,threshold=0.1)", "gated has no threshold"),
        ("mean(a,half*b)", "the weight 'half' is not a number"),
        ("mean(a,b)+mean(a,b)", "named 2 times"),
    ],
)
def test_an_expression_that_makes_no_sense_is_refused_in_one_sentence(spec, said):
    with pytest.raises(FeedbackError, match=said) as caught:
        score(spec)
    assert "\n" not in str(caught.value)


# The gate


def tagged(*tags):
    made = responses(*[("x",)] * len(tags))
    return replace(made, batch=replace(made.batch, tags=tags))


def logit(p):
    return math.log(p / (1 - p))


def test_the_gate_keeps_llama_2s_table_of_truth():
    # tagged or not, safety 0.1 or 0.2 (the threshold is 0.15); helpfulness is 0.9 throughout
    judges = {
        "s": Fixed([logit(0.1)], [logit(0.2)], [logit(0.1)], [logit(0.2)]),
        "h": Fixed(*[[logit(0.9)]] * 4),
    }
    got = score("gated(safety=s,helpfulness=h)", judges, tagged("safety", "safety", "", "recipes"))
    assert got == [[pytest.approx(logit(p))] for p in (0.1, 0.2, 0.1, 0.9)]
    moved = score("gated(safety=s,helpfulness=h,below=0.05)", judges, tagged("safety", "safety", "", "recipes"))
    assert moved == [[pytest.approx(logit(p))] for p in (0.1, 0.2, 0.9, 0.9)]


def test_tags_come_from_the_data_whatever_kind_it_is_and_reach_the_batch():
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "tag": "safety"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    raw = [RawRow(values=v, where="f:1") for v in rows]
    for kind in ("preference", "demonstration", "ranking", "prompt"):
        assert [r.tag for r in to_records(raw, kind)] == ["safety", ""]
    trunk = load_trunk(str(world() / "model"))
    batch = collate(encode(to_records(raw, "prompt"), trunk.tokenizer))
    assert batch.tags == ("safety", "")
    assert batch.take(torch.tensor([1, 0])).tags == ("", "safety") and batch.rows(1, 2).tags == ("",)


def test_a_column_called_tag_that_holds_no_text_is_left_alone():
    (record,) = to_records([RawRow(values={"prompt": "p", "tag": ["x", "y"]}, where="f:1")], "prompt")
    assert record.tag == ""


def test_the_gate_decides_by_the_tags_of_the_prompts_that_were_sampled_for(tmp_path):
    # Two judges that say which of them was asked; the prompts alternate, and each round has both.
    (tmp_path / "my.py").write_text("def safe(text): return 7\ndef helpful(text): return 3\n")
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"ba {w}", "tag": t}) + "\n" for w, t in [("be", "safety"), ("bi", "")])
    )
    spec = f"gated(safety={tmp_path}/my.py:safe,helpfulness={tmp_path}/my.py:helpful)"
    settings = {"batch": 2, "rounds": 2, "K": 2, "held_out": 0.0, "save_every": 1}
    run = quick("rloo", tmp_path / "run", data=str(file), feedback=[spec], settings=settings)
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {(s["prompt"], s["score"]) for s in samples} == {("ba be", 7.0), ("ba bi", 3.0)}
    assert rows(run)[0]["score"] == 5.0


def test_whitened_scores_teach_the_same_on_any_scale_and_figures_keep_the_judge_s(tmp_path):
    # Llama 2 whitens before the price of KL is taken off, so a scale of the judge changes nothing but its figures.
    made = {}
    for name, judge in (("one", lambda text: float(len(text))), ("ten", lambda text: 10.0 * len(text) - 3)):
        for scores in ("whitened", "given"):
            settings = {"scores": scores, "kl": 0.1, "rounds": 2}
            made[name, scores] = quick("rloo", tmp_path / f"{name}-{scores}", feedback=[judge], settings=settings)
    assert apart(weights(made["one", "whitened"]), weights(made["ten", "whitened"])) < 1e-5
    assert apart(weights(made["one", "given"]), weights(made["ten", "given"])) > 1e-4
    first, second = (rows(made[name, "whitened"])[0]["score"] for name in ("one", "ten"))
    assert second == pytest.approx(10 * first - 3, rel=1e-5)


# Margins in words


@pytest.mark.parametrize(
    ("words", "small", "large"),
    [
        ("significantly better", 1, 3),
        ("better", 2 / 3, 2),
        ("Slightly_Better", 1 / 3, 1),
        ("negligibly better", 0, 0),
        ("negligibly better / unsure", 0, 0),
        ("unsure", 0, 0),
        (0.7, 0.7, 0.7),
    ],
)
def test_a_margin_in_words_is_the_number_of_llama_2s_table(words, small, large):
    row = RawRow(values={"prompt": "p", "chosen": "a", "rejected": "b", "margin": words}, where="f:1")
    for table, margin in (("small", small), ("large", large)):
        (record,) = to_records([row], "preference", margins=table)
        assert record.margin == margin and record.label is None

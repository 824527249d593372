"""Every selection keeps the laws of its kind and agrees with its oracle; the golden numbers of best-of-n and others."""

import inspect
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparring import methods
from sparring.core.best_of import best_of, expected_best, kl, kl_bound
from sparring.core.errors import SettingError
from sparring.core.records import Preference, Ranking
from sparring.core.registry import SELECTIONS, knobs, needs
from sparring.core.selection import SELECTS, Scored
from tests import laws, oracles
from tests.bandit import REF, REWARD, lowest
from tests.traps import accepts_by_value

methods.load_all()
ARMS = "abc"
WORLD = dict(zip(ARMS, REWARD.tolist(), strict=True))


def rule(name, **knobs):
    return methods.find(name).rule(**knobs)


def ask(m, scored, earlier=(), number=0, seed=0):
    offered = {"scored": scored, "earlier": earlier, "number": number, "random": np.random.default_rng(seed)}
    return m.select(**{n: offered[n] for n in needs(m.select)})


def sampled(texts, scores=None, where="row", **more):
    """One prompt with these responses, scored as the world of three arms scores them."""
    scores = [WORLD[y] for y in texts] if scores is None else scores
    flat = {"logps": (0.0,) * len(texts), "ref_logps": (0.0,) * len(texts)} | more
    return Scored(prompt="ask", responses=tuple(texts), scores=tuple(scores), where=where, **flat)


def made_up(seed, K=16, rows=4):
    """Samples of a few prompts, all different."""
    draw = np.random.default_rng(seed)
    return [
        sampled(
            [f"{b}-{k}-{seed}" for k in range(K)], draw.normal(size=K).tolist(), f"row {b}",
            logps=tuple(draw.normal(size=K).tolist()), ref_logps=tuple((30 * draw.normal(size=K)).tolist()),
            given=f"given {b}",
        )
        for b in range(rows)
    ]  # fmt: skip


def outcome(selected):
    """What was selected, as an oracle says it."""

    def one(r):
        label = (r.label,) if isinstance(r, Preference) and r.label is not None else ()
        return (r.where, r.responses(), *label)

    return sorted(map(one, selected.records))


SCORED, EARLIER = made_up(3), [made_up(1), made_up(2)]


@pytest.mark.parametrize("name", SELECTIONS)
def test_law_words_and_kinds(name):
    m = rule(name)
    assert set(needs(m.select)) <= set(SELECTS), "a selection asks only for words of SELECTS"
    assert all(p.annotation is not p.empty for p in inspect.signature(m.select).parameters.values())
    laws.law_explained(m)
    laws.law_found_by_its_name(m)


@pytest.mark.parametrize("name", SELECTIONS)
def test_law_no_two_knobs_of_a_run_share_a_name(name):
    from sparring.loops import settings

    found = methods.find(name)
    rest = [settings.SelectionSettings, settings.ModelSettings, settings.DataSettings, settings.OptimizerSettings]
    for policy in found.policies:
        names = [k.name for cls in [found.rule, methods.get(policy), *rest, settings.RunSettings] for k in knobs(cls)]
        assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
        assert found.defaults[policy].keys() <= set(names)


@pytest.mark.parametrize("name", SELECTIONS)
def test_law_records_are_made_of_the_samples_of_their_own_prompt(name):
    said = {(s.where, y) for s in [*SCORED, *itertools.chain(*EARLIER)] for y in (*s.responses, s.given)}
    for m in [rule(name), *(moved for _, moved in laws.variants(rule(name)))]:
        records = ask(m, SCORED, EARLIER, number=1).records
        assert records and all((r.where, y) in said for r in records for y in r.responses())
        assert ask(m, SCORED, EARLIER, number=1).records == records, "the same samples, the same records"


@pytest.mark.parametrize("name", SELECTIONS)
def test_law_every_knob_counts(name):
    seen = [outcome(ask(rule(name), SCORED, EARLIER, number=1))]
    for what, moved in laws.variants(rule(name)):
        now = outcome(ask(moved, SCORED, EARLIER, number=1))
        assert now not in seen, what
        seen.append(now)


@pytest.mark.parametrize("joined", [0, 3])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", SELECTIONS)
def test_selects_what_the_paper_does_at_any_setting_of_its_knobs(name, number, joined):
    scored, *earlier = ([replace(s, joined=joined) for s in part] for part in (SCORED, *EARLIER))
    plain, *before = (
        [vars(s) | {n: list(getattr(s, n)) for n in ("responses", "scores")} for s in part]
        for part in (scored, *earlier)
    )
    for m in [rule(name), *(moved for _, moved in laws.variants(rule(name)))]:
        offered = {"scored": plain, "earlier": before, "number": number, "random": np.random.default_rng(5)}
        want = getattr(oracles, name)(m, **{n: offered[n] for n in needs(m.select)})
        got = outcome(ask(m, scored, earlier, number, seed=5))
        assert [g[:2] for g in got] == [w[:2] for w in sorted(want)], m
        assert [x for g in got for x in g[2:]] == pytest.approx([x for w in sorted(want) for x in w[2:]])


# Best of n, in numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "probs", "distance"), [(2, [0.75, 0.21, 0.04], 0.164820), (4, [0.9375, 0.0609, 0.0016], 0.484487)]
)
def test_best_of_n_golden(n, probs, distance):
    found = best_of(REF.tolist(), REWARD.tolist(), n)
    assert found == pytest.approx(probs, abs=1e-9)
    assert kl(found, REF.tolist()) == pytest.approx(distance, abs=1e-6)
    assert distance < kl_bound(n) and kl_bound(2) == pytest.approx(0.193147, abs=1e-6)


def test_the_bound_is_reached_when_no_two_samples_score_the_same():
    size = 2000
    found = best_of([1 / size] * size, list(range(size)), 4)
    assert kl(found, [1 / size] * size) == pytest.approx(kl_bound(4), abs=3e-3)


def test_responses_that_score_the_same_share_what_they_have_together():
    # two thirds of .8 and one third: the two best arms together are best unless both samples are the third
    assert best_of([0.5, 0.3, 0.2], [1.0, 1.0, 0.0], 2) == pytest.approx([0.96 * 5 / 8, 0.96 * 3 / 8, 0.04])


def test_the_expected_best_of_two_of_four_golden_and_by_all_subsets():
    assert expected_best([1, 2, 3, 4], 2) == pytest.approx(10 / 3)  # (1/6) 2 + (1/3) 3 + (1/2) 4
    proxy, gold = [0.3, -1.0, 0.9, 0.3, 2.0], [5.0, 1.0, -2.0, 7.0, 0.5]
    sets = list(itertools.combinations(range(5), 3))
    total = 0.0
    for s in sets:
        top = max(proxy[i] for i in s)
        ties = [gold[i] for i in s if proxy[i] == top]
        total += sum(ties) / len(ties)
    assert expected_best(proxy, 3, gold) == pytest.approx(total / len(sets))
    with pytest.raises(SettingError, match="best of 6 cannot be estimated from 5"):
        expected_best(proxy, 6)


def stage(probs, m, K):
    """The exact distribution of what is selected from K samples of a policy: every outcome, as likely as it is."""
    out = dict.fromkeys(ARMS, 0.0)
    for texts in itertools.product(ARMS, repeat=K):
        records = ask(m, [sampled(texts)]).records
        for r in records:
            out[r.response] += math.prod(probs[ARMS.index(y)] for y in texts) / len(records)
    return list(out.values())


@pytest.mark.parametrize("name", ["best_of_n", "raft"])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_what_is_selected_is_distributed_as_the_best_of_k(name, K):
    # with K 1 the policy imitates itself, and nothing moves
    assert stage(REF.tolist(), rule(name), K) == pytest.approx(best_of(REF.tolist(), REWARD.tolist(), K))


def test_raft_golden_stage_by_stage():
    probs = REF.tolist()
    for want in ([0.75, 0.21, 0.04], [0.9375, 0.0609, 0.0016], [0.996094, 0.003904, 3e-6]):
        probs = stage(probs, rule("raft"), 2)
        assert probs == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["best_of_n", "raft", "sample_rank"])
def test_only_the_order_of_scores_counts(name):
    m = rule(name, **({"sampling_beta": 0.0} if name == "sample_rank" else {}))
    stretched = [sampled(s.responses, [math.exp(x) for x in s.scores], s.where) for s in SCORED]
    assert ask(m, SCORED).records == ask(m, stretched).records


def test_rest_with_the_top_quantile_of_a_prompt_is_raft():
    m = rule("rest", thresholds=str(1 - 1 / 16), within="prompt")
    assert ask(m, SCORED).records == ask(rule("raft"), SCORED).records


def test_raft_with_a_memory_is_best_of_all_rounds():
    joined = [
        sampled(sum((s.responses for s in all_of), ()), sum((s.scores for s in all_of), ()), all_of[0].where)
        for all_of in zip(*EARLIER, SCORED, strict=True)
    ]
    assert outcome(ask(rule("raft", memory="all"), SCORED, EARLIER)) == outcome(ask(rule("best_of_n"), joined))


# Thresholds ----------------------------------------------------------------------------------------


def shares(records):
    texts = [r.response for r in records]
    return [texts.count(y) / len(texts) for y in ARMS]


def test_rest_golden():
    # rewards 1, 0, -1 are scaled to 1, 1/2, 0, so the thresholds -.5 and .5 are .25 and .75
    pool = [sampled("aaaaabbbcc")]
    m = rule("rest", thresholds="0.25,0.75")
    kept = [ask(m, pool, number=n).records for n in (0, 1)]
    assert shares(kept[0]) == [0.625, 0.375, 0.0] and shares(kept[1]) == [1.0, 0.0, 0.0]
    assert set(kept[1]) < set(kept[0])
    plain = rule("rest", thresholds="-0.5,0.5", scale="none")
    assert [ask(plain, pool, number=n).records for n in (0, 1)] == kept
    assert ask(m, pool, number=2).records == kept[0], "after the last threshold comes the first"


def test_a_threshold_must_be_exceeded_and_not_only_reached():
    pool = [sampled("ab", [0.5, 1.0])]
    assert shares(ask(rule("farl", threshold=0.5), pool).records) == [0.0, 1.0, 0.0]
    assert shares(ask(rule("rest", thresholds="0.5", scale="none"), pool).records) == [0.0, 1.0, 0.0]
    assert ask(rule("rest", thresholds="1.0", scale="none"), pool).records == ()
    assert ask(rule("rest"), [sampled("aa")]).records == (), "equal scores: nothing is better than anything"


@pytest.mark.parametrize("text", ["0.8,0.7", "0.7,0.7", "high", "", "0.5,nan"])
def test_thresholds_that_do_not_rise_are_refused(text):
    with pytest.raises(SettingError, match="rising numbers"):
        ask(rule("rest", thresholds=text), SCORED)
    with pytest.raises(SettingError, match="between 0 and 1"):
        ask(rule("rest", thresholds="0.5,1.5", within="prompt"), SCORED)


# Rejection sampling --------------------------------------------------------------------------------

RSO_SCORES = dict(zip(ARMS, (0.0, 0.5, 1.0), strict=True))


def first_accepted(pool, scores, times, beta):
    """How often each arm is the first to be accepted, from pools that `pool` draws."""
    m = rule("sample_rank", accepted=2, sampling_beta=beta)
    draw, counts = np.random.default_rng(0), dict.fromkeys(ARMS, 0)
    for _ in range(times):
        texts = pool(draw)
        counts[texts[m._accept([scores[y] for y in texts], draw)[0]]] += 1
    return [n / times for n in counts.values()]


def test_the_acceptance_rate_golden():
    # Z exp(-max / beta) = .5 e^-2 + .3 e^-1 + .2
    pool = "aaaaabbbcc"
    selected = ask(rule("sample_rank", accepted=2), [sampled(pool, [RSO_SCORES[y] for y in pool])])
    assert selected.figures["acceptance_rate"] == pytest.approx(0.378031, abs=1e-6)


def test_rejection_from_a_pool_of_two_golden():
    # The better one is always accepted, the other with e^-1 when it comes first: e^-1 / 2, not the
    # self-normalised .268941. 3,000 draws: standard error .007.
    found = first_accepted(lambda draw: draw.permutation(["a", "b"]), {"a": 0.0, "b": 1.0}, 3000, 1.0)
    assert found[0] == pytest.approx(math.exp(-1) / 2, abs=0.025)


def test_rejection_from_64_samples_is_nearly_the_optimal_policy_and_keyed_by_value_it_is_not():
    def pool(draw):
        return draw.choice(list(ARMS), size=64, p=REF.numpy())

    weights = [p * math.exp(RSO_SCORES[y] / 0.5) for p, y in zip(REF.tolist(), ARMS, strict=True)]
    target = [w / sum(weights) for w in weights]
    assert target == pytest.approx([0.179, 0.292, 0.529], abs=1e-3)
    # 1,500 pools: standard error .013 at most
    assert first_accepted(pool, RSO_SCORES, 1500, 0.5) == pytest.approx(target, abs=0.045)
    draw, counts = np.random.default_rng(0), dict.fromkeys(ARMS, 0)
    for _ in range(1500):
        texts = pool(draw)
        counts[accepts_by_value(texts, [RSO_SCORES[y] for y in texts], 0.5, 1, draw)[0]] += 1
    trapped = [n / 1500 for n in counts.values()]
    assert trapped == pytest.approx([0.087, 0.207, 0.706], abs=0.045) and trapped[2] > target[2] + 0.1


def test_the_corners_of_rejection_sampling():
    scores = SCORED[0].scores
    top = sorted(range(16), key=lambda k: -scores[k])[:8]
    draw = np.random.default_rng(0)
    assert rule("sample_rank", sampling_beta=0.0)._accept(scores, draw) == top
    assert rule("sample_rank", sampling_beta=1e6)._accept(scores, draw) == list(range(8))
    assert rule("sample_rank", sampler="policy")._accept(scores, draw) == list(range(8))
    everything = rule("sample_rank", accepted=16)._accept(scores, draw)
    assert sorted(everything) == list(range(16)), "each is accepted once, and it ends"
    with pytest.raises(SettingError, match=r"accepted is 8, but only K 4 are drawn; raise K"):
        ask(rule("sample_rank"), made_up(0, K=4))


def test_pairs_are_disjoint_or_a_tournament_or_a_ranking():
    known = dict(zip(SCORED[0].responses, SCORED[0].scores, strict=True))
    first = ask(rule("sample_rank"), SCORED[:1]).records
    used = [y for r in first for y in r.responses()]
    assert len(first) == 4 and len(set(used)) == 8
    cup = ask(rule("sample_rank", pairs="tournament", accepted=7), SCORED[:1]).records
    assert len(cup) == 6, "m - 1 matches, whoever has a bye"
    losers = [r.rejected for r in cup]
    assert len(set(losers)) == 6 and all(known[r.chosen] > known[r.rejected] for r in (*first, *cup))
    (ranked,) = ask(rule("sample_rank", pairs="list"), SCORED[:1]).records
    assert isinstance(ranked, Ranking) and list(ranked.scores) == sorted(ranked.scores, reverse=True)


def test_raft_remembers_samples_but_counts_what_the_data_says_once():
    before = [sampled(["data", "s1"], [9.0, 1.0], joined=1)]
    now = [sampled(["data", "s2"], [9.0, 2.0], joined=1)]
    texts = [r.response for r in ask(rule("raft", memory="all", share=0.67), now, [before]).records]
    assert texts == ["data", "s2"]  # two of three


def test_what_the_data_itself_says_is_always_compared_and_never_rejected():
    # 2 of the 6 responses are the data's own, and the worst: with beta 0 only the best sample is ever accepted at once
    pool = [sampled(["d1", "d2", "s1", "s2", "s3", "s4"], [-9.0, -8.0, 1.0, 2.0, 3.0, 4.0], joined=2)]
    for sampler, own in (("rejection", ("s4", "s3")), ("policy", ("s2", "s1"))):
        m = rule("sample_rank", pairs="list", sampler=sampler, accepted=2, sampling_beta=0.0)
        (ranked,) = ask(m, pool).records
        assert ranked.ranked == (*own, "d2", "d1")
    with pytest.raises(SettingError, match="accepted is 5, but only K 4 are drawn"):
        ask(rule("sample_rank", accepted=5), pool)


def test_rest_scales_and_filters_the_data_with_the_samples():
    # alone the samples 0 and 1 would be scaled to 0 and 1; beside a response of the data that scores 4, to 0 and 1/4
    pool = [sampled(["data", "worse", "better"], [4.0, 0.0, 1.0], joined=1)]
    texts = [r.response for r in ask(rule("rest", thresholds="0.2,0.5"), pool).records]
    assert texts == ["data", "better"]
    assert [r.response for r in ask(rule("rest", thresholds="0.2,0.5"), pool, number=1).records] == ["data"]


def test_a_tie_is_left_out_or_said_to_be_one_and_equal_texts_are_no_pair():
    tie, same = [sampled("ab", [1.0, 1.0])], [sampled("aa", [1.0, 0.0])]
    hard, soft = (rule("sample_rank", accepted=2, sampler="policy", labels=x) for x in ("hard", "soft"))
    assert ask(hard, tie).records == ask(hard, same).records == ask(soft, same).records == ()
    assert [r.label for r in ask(soft, tie).records] == [0.5]


# Self-play -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_spin_moves_towards_the_data_by_the_power_one_over_beta(beta):
    # Every demonstration against every sample, as likely as they are; dpo with the sampling policy as reference.
    data, dpo = torch.tensor([0.1, 0.3, 0.6]).double(), methods.get("dpo")(beta=beta)
    chosen, weight = [], []
    for i, j in itertools.product(range(3), repeat=2):
        for r in ask(rule("spin"), [sampled(ARMS[j], given=ARMS[i])]).records:
            chosen.append([ARMS.index(r.chosen), ARMS.index(r.rejected)])
            weight.append(data[i] * REF[j])
    arms, mask = torch.tensor(chosen), torch.ones(len(chosen), 2, 1, dtype=torch.bool)

    def loss(x):
        logps = (REF.log() + x).log_softmax(-1)
        total = dpo.loss(
            token_logps=logps[arms][..., None], ref_token_logps=REF.log()[arms][..., None], mask=mask
        ).total
        return (torch.stack(weight) * total).sum()

    reached = (REF.log() + lowest(loss)).softmax(-1)
    want = REF * (data / REF) ** (1 / beta)
    assert reached.tolist() == pytest.approx((want / want.sum()).tolist(), abs=1e-4)
    assert beta != 1.0 or reached.tolist() == pytest.approx(data.tolist(), abs=1e-4)


def test_spin_plays_against_the_round_before_as_well_when_asked():
    alone, mixed = (outcome(ask(rule("spin", mix=x), SCORED, EARLIER)) for x in ("none", "last"))
    assert len(mixed) == 2 * len(alone) and set(alone) < set(mixed)

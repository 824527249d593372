"""A judge that is a language model: it scores a response by how much likelier it finds it than another model does."""

import json
import math
import shutil

import pytest
import torch
from torch.nn.functional import one_hot

import sparring
from sparring.core.errors import ModelError, SettingError
from sparring.data.batch import Row, collate
from sparring.feedback.adversary import Demonstrations
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.judge_loss import judge_loss
from sparring.feedback.level import centre
from sparring.feedback.reward_model import score_texts as score_rows
from sparring.loops.job import make_job
from sparring.loops.judges import make_discriminator
from sparring.loops.load import Data, load_model
from sparring.loops.plan import plan
from sparring.loops.settings import DiscriminatorSettings, JudgeSettings
from sparring.models.backbone import tiny_model
from sparring.models.roles import Network, frozen_start, new_ratio
from sparring.models.scorers import load_scorer, save_scorer
from sparring.models.signals import score, score_prefixes
from sparring.models.update import Updater
from tests.small import JUDGE, ONLINE, WORDS, machine, quick, rows, same, weights, world
from tests.test_discriminator import BAD, EOS, GOOD, PROMPTS, SETTINGS, demonstrations, responses


def tiny(seed=0):
    return tiny_model(WORDS, width=16, layers=1, heads=2, context=32, seed=seed)


def pair():
    """A role and the one it is held against, which think differently."""
    other = Network(trunk=tiny(1).frozen_copy())
    return new_ratio(tiny(0), "judge", 0, other, length=4.0), other


TEXTS = {(0, 0): ((3, 4), (10, 11, EOS)), (0, 1): ((3, 4), (12, 13, 14, 15, EOS)), (1, 0): ((5,), (16,))}


def batch():
    pairs = [Row(prompt=(3, 4), responses=(TEXTS[0, 0][1], TEXTS[0, 1][1])), Row(prompt=(5,), responses=((16,),))]
    return collate(pairs)


def likelihoods(trunk, prompt, response):
    """The plain library's log-probability of each token."""
    with torch.no_grad():
        logits = trunk.lm(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    return [float(logits[len(prompt) + t - 1, token]) for t, token in enumerate(response)]


def test_the_score_is_the_sum_of_log_ratios_over_the_root_of_the_usual_length():
    judge, other = pair()
    judge.head.level = 0.2
    judge.head.bias.data.fill_(-0.3)
    found = score(judge, batch()).detach()
    for place, (prompt, response) in TEXTS.items():
        own, base = (likelihoods(t, prompt, response) for t in (judge.trunk, other.trunk))
        want = sum(a - b - 0.2 for a, b in zip(own, base, strict=True)) / 4.0**0.5 - 0.3
        assert float(found[place]) == pytest.approx(want, abs=1e-4)
    assert float(found[1, 1]) == 0.0, "a response that is not there"


def test_a_prefix_scores_as_the_text_that_ends_there():
    judge, _ = pair()
    whole = score_prefixes(judge, collate([Row(prompt=(3,), responses=((10, 11, 12),))]))[0, 0].detach()
    for t in range(3):
        part = score(judge, collate([Row(prompt=(3,), responses=((10, 11, 12)[: t + 1],))]))
        assert float(whole[t]) == pytest.approx(float(part.detach()), abs=1e-5)


def test_the_level_is_where_the_tokens_of_the_policy_but_the_last_are_worth_nothing():
    network, _ = pair()
    fresh = [Row(prompt=(3,), responses=((*[10] * n, EOS),)) for n in (0, 1, 2, 5)]
    begun = [Row(prompt=(3,), responses=((10,) * n,)) for n in (1, 2, 5)]
    for parts in ([(0, 3)], [(0, 1), (1, 3)]):
        network.head.level = 0.3
        centre(network, fresh, lambda pairs, parts=parts: parts, machine())
        assert float(score_rows(network, begun).detach().sum()) == pytest.approx(0.0, abs=1e-5)
    network.head.bias.data.fill_(-2.0)  # which is the judge's own and not the level's
    before = network.head.level
    centre(network, fresh, lambda pairs: [(0, 3)], machine())
    assert network.head.level == pytest.approx(before, abs=1e-6)


def test_a_mixture_of_tokens_is_as_much_likelier_as_its_tokens_are_on_average():
    judge, other = pair()
    texts = batch()
    exact = one_hot(texts.response_ids[texts.mask], len(judge.trunk.embedding)).float()
    assert torch.allclose(score(judge, texts, exact), score(judge, texts), atol=1e-4)
    # The slope in a last token, on which no other depends, is how much likelier each token would be there.
    exact.requires_grad_()
    score(judge, texts, exact)[1, 0].backward()
    prompt = torch.tensor([TEXTS[1, 0][0]])
    with torch.no_grad():
        own, base = (n.trunk.lm(prompt).logits[0, -1].log_softmax(-1) for n in (judge, other))
    assert torch.allclose(exact.grad[-1], (own - base) / 4.0**0.5, atol=1e-4)
    # An earlier one moves what comes after it as well, in the eyes of both: a difference of two small steps.
    mixed, step = exact.detach().clone(), 1e-2
    score(judge, texts, mixed.requires_grad_())[0, 0].backward()
    away = torch.zeros_like(mixed)
    away[0] = torch.linspace(-1, 1, mixed.shape[1])
    with torch.no_grad():
        ahead, behind = (score(judge, texts, exact + s * step * away)[0, 0] for s in (1, -1))
    assert float((mixed.grad * away).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=0.02)


def test_against_what_it_is_itself_nothing_is_likelier():
    trunk = tiny(0)
    judge = new_ratio(trunk, "judge", 0, frozen_start(trunk), length=4.0)
    assert score(judge, batch()).abs().max() < 1e-5


def test_only_its_own_weights_learn():
    judge, other = pair()
    score(judge, batch()).sum().backward()
    assert all(p.grad is None for p in other.trunk.lm.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in judge.trainable().values())
    # Tied embeddings have two names and are one; nothing of the language model is left out.
    assert {id(p) for p in judge.trunk.lm.parameters()} <= {id(p) for p in judge.trainable().values()}


def test_it_learns_to_tell_what_people_write_and_knows_it_of_texts_it_has_not_seen():
    trunk = tiny(0)
    network = new_ratio(trunk, "judge", 0, frozen_start(trunk), length=4.0)
    data = Demonstrations(
        real=demonstrations(PROMPTS[:4] * 3, "real"), held_out=demonstrations(PROMPTS[4:] * 3, "kept")
    )
    settings = DiscriminatorSettings(**SETTINGS | {"judge_steps": 30})
    d = Discriminator(network, Updater(network.trainable(), machine(), lr=3e-3, total=1), data, settings,
                      JudgeSettings(), seed=0, micro_tokens=8192)  # fmt: skip
    for round_ in range(3):
        figures = d.learn(responses(seed=round_))
    assert figures["judge_accuracy_held_out"] > 0.8
    good, bad = (d.score(responses(tokens=tokens, seed=9)).mean() for tokens in (GOOD, BAD))
    assert good > bad + 1


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_it_is_saved_as_a_language_model_and_scores_as_before(tmp_path, adapter):
    base = world() / "model"
    job = make_job("rlgaf", model=str(base), data=str(world() / "texts.jsonl"), run=tmp_path / "run", base=str(base),
                   settings={**ONLINE, **JUDGE, "adapter": adapter, "judge_reads": "ratio"})  # fmt: skip
    trunk = load_model(job, machine())
    data = Data(train=demonstrations(PROMPTS, "real"), held_out=())
    network = make_discriminator(job, trunk, data, machine()).network
    with torch.no_grad():
        for p in network.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    before = score(network, batch())
    save_scorer(network, tmp_path / "judge")
    assert json.loads((tmp_path / "judge" / "ratio.json").read_text())["against"] == str(base)
    after = load_scorer(str(tmp_path / "judge"))
    assert torch.allclose(score(after, batch()), before, atol=1e-4) and before.abs().max() > 0.01
    assert not any(p.requires_grad for p in (*after.trunk.lm.parameters(), *after.against.trunk.lm.parameters()))
    assert sparring.sample(str(tmp_path / "judge"), ["ba"], K=2, max_tokens=3, seed=0), "it speaks, too"


def test_a_run_with_it_goes_on_exactly_and_leaves_a_judge_that_scores(tmp_path):
    base, how = str(world() / "model"), {"judge_reads": "ratio"}
    run = quick("rlgaf", tmp_path / "run", base=base, settings=how)
    cut = shutil.copytree(run, tmp_path / "cut")
    for part in ("model", "judge", "checkpoints/step-00000005"):
        shutil.rmtree(cut / part)
    quick("rlgaf", cut, base=base, settings=how, resume=True)
    assert rows(cut) == rows(run) and same(weights(cut), weights(run))
    found = sparring.score(str(run), ["ba", "bi"], [["ba be", "bi"], ["bo"]])
    assert [len(x) for x in found] == [2, 1]
    file = run / "judge" / "ratio.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"against": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="held against cannot be loaded"):
        sparring.score(str(run), ["ba"], [["ba"]])
    file.write_text("{}")
    with pytest.raises(ModelError, match="not all are there"):
        sparring.score(str(run), ["ba"], [["ba"]])


def test_what_it_cannot_do_is_refused_with_the_cure(tmp_path):
    def job(method="rlgaf", base="b", **settings):
        return make_job(
            method, model="m", data="d", run=tmp_path, base=base, settings={"judge_reads": "ratio"} | settings
        )

    with pytest.raises(SettingError, match="name it with --base"):
        job(base=None)
    with pytest.raises(SettingError, match="two responses as one text"):
        job(judge_sees="pair", judge_loss="tie")


def test_a_plan_counts_what_the_base_reads_and_holds(tmp_path):
    base = str(world() / "model")
    jobs = [
        make_job("rlgaf", model=base, data=str(world() / "texts.jsonl"), run=tmp_path / "run", base=base,
                 settings={**ONLINE, **JUDGE, "overflow": "cut", "judge_reads": reads})
        for reads in ("mean", "ratio")
    ]  # fmt: skip
    before, after = (plan(job, from_config=True) for job in jobs)
    assert after.work.read > before.work.read and after.work.judged == before.work.judged
    assert after.standing["judge"] > before.standing["judge"]
    assert after.moments["update of the judge"] >= before.moments["update of the judge"]


def test_what_it_learns_is_the_log_of_how_much_more_people_write_a_text_than_the_policy():
    # Three answers of one token: people give them 6, 3 and 1 time of ten, the policy 2, 3 and 5 times. A likelihood
    # adds up to one over all tokens, which log p_data / pi does not: the number that is added makes room for that.
    judge, _ = pair()
    answers, people, policy = (10, 11, 12), (6, 3, 1), (2, 3, 5)

    def texts(counts):
        return [Row(prompt=(3,), responses=((a,),)) for a, n in zip(answers, counts, strict=True) for _ in range(n)]

    optimizer = torch.optim.Adam(judge.trainable().values(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        real, fake = score_rows(judge, [*texts(people), *texts(policy)]).split(10)
        judge_loss(real, fake, "bce", 0.0).total.mean().backward()
        optimizer.step()
    found = score_rows(judge, [Row(prompt=(3,), responses=((a,),)) for a in answers])
    want = [math.log(p / q) for p, q in zip(people, policy, strict=True)]
    assert found.tolist() == pytest.approx(want, abs=0.03)

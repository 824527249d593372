"""From a request to a loop that is ready to go: the roles of the networks, their optimizer, the judge."""

from dataclasses import replace

import torch

from sparring.core.errors import SettingError
from sparring.core.glossary import SIGNALS
from sparring.core.registry import needs, welcomes
from sparring.core.seeds import derive
from sparring.feedback.discriminator import Discriminator
from sparring.feedback.protocol import Feedback
from sparring.loops.gumbel import RelaxedLearner
from sparring.loops.job import Job
from sparring.loops.judges import base_of, head_rate, load_feedback
from sparring.loops.lag import Lagged
from sparring.loops.learner import total_updates
from sparring.loops.load import Data, trainable
from sparring.loops.offline import Offline, total_steps
from sparring.loops.online import Online
from sparring.loops.order import Order
from sparring.loops.pretrain import Pretraining
from sparring.loops.progress import Progress
from sparring.models.machine import Machine
from sparring.models.reference import StoredReference, cache_folder, store_reference
from sparring.models.roles import Network, Networks, new_critic, new_masker, new_policy, new_reference, new_scorer
from sparring.models.signals import asks_for_reference
from sparring.models.trunk import Trunk
from sparring.models.twin import Twin
from sparring.models.update import Updater, fitting_rate
from sparring.rollout.nucleus import Masker
from sparring.rollout.relaxed import Relaxation, differentiable_past


def build_offline(job: Job, trunk: Trunk, data: Data, machine: Machine, *, start: str, quiet: bool) -> Offline:
    """Make the loop of a method that learns from a file; `start` is the hash of the weights it starts with."""
    settings = job.offline
    assert settings is not None
    names = [*needs(job.equation.loss), *welcomes(job.equation.loss)]
    if job.trains_scorer:
        reads = job.scorer.reads if job.scorer else "last"
        scorer = new_scorer(trunk, "default", derive(job.seed, "head"), copies=False, reads=reads)
        networks = Networks(policy=Network(trunk=trunk), scorer=scorer)
        weights = trainable(scorer.trainable())
    else:
        policy = new_policy(trunk, derive(job.seed, "adapter"))
        reference = new_reference(policy) if asks_for_reference(names) else None
        networks = Networks(policy=policy, reference=reference)
        weights = trainable(policy.trainable())
    stored = None
    if networks.reference is not None and settings.reference == "stored":
        stored = _stored(job, data, networks, machine, start, quiet=quiet)
        networks = Networks(policy=networks.policy)  # the reference's weights are needed no more
    return Offline(
        method=job.equation, rows=data.train, held_out=data.held_out, networks=networks, stored=stored,
        updater=_updater(job, trunk, weights, machine, total_steps(len(data.train), settings)),
        machine=machine, settings=settings, micro_tokens=job.optimizer.micro_tokens,
    )  # fmt: skip


def build_online(job: Job, trunk: Trunk, data: Data, machine: Machine) -> Online:
    """Make the loop of a method that learns from its own samples, and its judge."""
    settings, reward = job.online, job.reward
    assert settings is not None and reward is not None
    _rehearse(job, settings.K)
    asked = needs(job.equation.credit) + needs(job.equation.loss)
    policy = new_policy(trunk, derive(job.seed, "adapter"))
    reference = new_reference(policy) if job.relaxed or asks_for_reference(asked) else None
    critic = new_critic(policy, derive(job.seed, "critic")) if "values" in asked else None
    feedback = load_feedback(job, trunk, data, machine)
    weights = trainable(policy.trainable(), *([] if critic is None else [_own(critic)]))
    networks = Networks(policy=policy, reference=reference, critic=critic, temperature=settings.temperature)
    updater = _updater(job, trunk, weights, machine, total_updates(settings))
    mix = _pretraining(job, data, networks, updater, machine)
    return Online(
        method=job.equation, prompts=data.train, held_out=data.held_out, feedback=feedback, networks=networks,
        updater=updater, machine=machine, settings=settings, reward=reward, pretraining=mix,
        lagged=_lagged(job, policy), relaxed=_relaxed(job, feedback, networks, updater, machine, mix),
        micro_tokens=job.optimizer.micro_tokens,
        judge_warmup=job.judge.judge_warmup if job.judge else 0,
        opponent=base_of(job, trunk) if job.opponent else None,
    )  # fmt: skip


def _pretraining(job: Job, data: Data, networks: Networks, updater: Updater, machine: Machine) -> Pretraining | None:
    """Make what mixes other text into the updates, if there is any."""
    if not data.pretrain or job.mix is None:
        return None
    return Pretraining(
        rows=data.pretrain, order=Order(len(data.pretrain), job.mix.pretrain_batch, job.seed, "pretrain"),
        weight=job.mix.pretrain_weight, networks=networks, updater=updater, machine=machine,
        micro_tokens=job.optimizer.micro_tokens,
    )  # fmt: skip


def _relaxed(
    job: Job, judge: Feedback, networks: Networks, updater: Updater, machine: Machine, mix: Pretraining | None
) -> RelaxedLearner | None:
    """Make what learns through relaxed tokens, if the equation does; a judge of soft tokens learns from such, too."""
    if job.relaxed is None or job.online is None:
        return None
    assert isinstance(judge, Discriminator), "_relaxed_problem refuses other judges"
    for network in (networks.policy, judge.network.against):  # whatever reads mixtures of tokens
        if network is not None:
            differentiable_past(network.trunk, job.data_settings.max_prompt + job.online.max_tokens)
    relaxation = Relaxation(
        policy=networks.policy, tau=job.relaxed.tau, is_soft=job.relaxed.form == "soft",
        temperature=networks.temperature, seed=job.seed,
    )  # fmt: skip
    if relaxation.is_soft:
        judge.network = replace(judge.network, relaxes=relaxation.of_text)
    return RelaxedLearner(
        method=job.equation, networks=networks, judge=judge, relaxation=relaxation, updater=updater, machine=machine,
        settings=job.online, relaxed=job.relaxed, pretraining=mix, micro_tokens=job.optimizer.micro_tokens,
    )  # fmt: skip


def _lagged(job: Job, policy: Network) -> Lagged | None:
    """Make the copy of the policy whose nucleus bounds what may be drawn, if anything does."""
    if job.nucleus is None or job.nucleus.nucleus == 1:
        return None
    network = new_masker(policy, derive(job.seed, "masker"))
    masker = Masker(network=network, share=job.nucleus.nucleus, least=job.nucleus.nucleus_least)
    return Lagged(twin=Twin(original=policy, copy=network), masker=masker, every=job.nucleus.nucleus_every)


def _rehearse(job: Job, K: int) -> None:
    """Give credit once for made-up responses: a K that a method cannot use is refused before anything is written."""
    sizes = {"B": 2, "K": K, "T": 1}
    signals = {n: torch.ones([sizes[axis] for axis in SIGNALS[n].axes.split()]) for n in needs(job.equation.credit)}
    try:
        job.equation.credit(**{n: x.bool() if n == "mask" else x for n, x in signals.items()})
    except SettingError as error:
        raise SettingError(f"{job.method}: {error}") from error


def _stored(job: Job, data: Data, networks: Networks, machine: Machine, start: str, *, quiet: bool) -> StoredReference:
    """Look the reference's log-probabilities up, or compute them now, once and for all."""
    rows = [*data.train, *data.held_out]
    with Progress("reference", len(rows), (), quiet=quiet) as bar:
        return store_reference(
            rows, networks, machine, model=start, cache=cache_folder(),
            micro_tokens=job.optimizer.micro_tokens, tick=lambda n: bar.show(n, {}),
        )  # fmt: skip


def _own(critic: Network) -> dict[str, torch.nn.Parameter]:
    """The critic's own weights: its head, and its adapter if it has one; never the policy's."""
    if critic.adapter is not None:
        return critic.trainable()
    assert critic.head is not None
    return {f"head.{n}": p for n, p in critic.head.named_parameters()}


def _updater(job: Job, trunk: Trunk, weights: dict[str, torch.nn.Parameter], machine: Machine, total: int) -> Updater:
    """The policy's (or a reward model's) weights and their optimizer."""
    o = job.optimizer
    size = sum(p.numel() for p in trunk.lm.parameters())
    rate = o.lr or fitting_rate(size, is_adapter=trunk.adapter != "none")
    return Updater(
        weights, machine, lr=rate, head_rate=head_rate(job.scorer.reads) if job.scorer else 1.0,
        total=total, warmup=o.warmup, schedule=o.schedule,
        weight_decay=o.weight_decay, max_grad_norm=o.max_grad_norm,
    )  # fmt: skip

"""sparring.train: from names to a finished run folder."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import RunError
from sparring.core.registry import needs, welcomes
from sparring.core.seeds import derive
from sparring.core.version import VERSION
from sparring.data.read import fingerprint
from sparring.feedback.protocol import Feedback
from sparring.loops import offline, online
from sparring.loops.card import write_card
from sparring.loops.job import Job, make_job, read_yaml, write_yaml
from sparring.loops.load import Data, load_data, load_feedback, load_model, trainable
from sparring.loops.progress import Progress, note
from sparring.loops.run import Run
from sparring.models import checkpoint
from sparring.models.backbone import save_scorer, save_trunk
from sparring.models.machine import Machine
from sparring.models.reference import cache_folder, hash_weights, store_reference
from sparring.models.signals import Network, Networks, new_critic, new_policy, new_reference, new_scorer
from sparring.models.update import Updater


def train(
    method: str,
    *,
    model: str,
    data: str,
    run: str | Path,
    eval_data: str | None = None,
    feedback: Sequence[Any] = (),
    negatives: str | None = None,
    fields: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    negatives_where: Sequence[str] = (),
    policy: str | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    command: str = "",
    quiet: bool = False,
) -> Path:
    """Train `model` on `data` with a method and write the run folder; returns the folder.

    `feedback` holds judges by name, or one Python function of (response) or (prompt, response). `settings`
    are the method's knobs and the settings of its loop, by name; `sparring train METHOD --help` lists them.
    With `resume` the run goes on from its newest checkpoint with the settings it was started with; a run
    that was never started is started. Raises UserError for anything that cannot be used, before anything
    is written, and Diverged when training had to be stopped.
    """
    folder = Path(run)
    job = make_job(
        method, model=model, data=data, run=folder, policy=policy, eval_data=eval_data, feedback=feedback,
        negatives=negatives, fields=fields, where=where, negatives_where=negatives_where, settings=settings,
        command=command,
    )  # fmt: skip
    if resume and (folder / "run.yaml").is_file():
        _check_same(job, read_yaml(folder))
    elif folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder}: the folder is not empty; choose another --run, or add --resume to go on with it")
    if (folder / "model").is_dir():
        note(f"{folder}: this run is finished; its model is in {folder / 'model'}", quiet=quiet)
        return folder
    return _execute(_warmed_up(job, resume=resume, quiet=quiet), quiet=quiet)


def _warmed_up(job: Job, *, resume: bool, quiet: bool) -> Job:
    """Fine-tune on the demonstrations first, in a run folder of its own inside the run, if the recipe says so."""
    from dataclasses import replace

    if job.recipe is None or job.recipe.sft_epochs == 0:
        return job
    shared = {**vars(job.data_settings), **vars(job.model_settings), **vars(job.optimizer)}
    shared |= {"epochs": job.recipe.sft_epochs, "seed": job.seed, "lr": job.recipe.sft_lr, "keep_best": "last"}
    shared |= {"max_response": min(job.data_settings.max_response, job.online.max_tokens if job.online else 10**6)}
    first = train(
        "sft", model=job.model, data=job.data, run=job.run / "sft", eval_data=job.eval_data, fields=job.fields,
        where=job.where, resume=True, settings=shared, command=f"warm-up of {job.run}", quiet=quiet,
    )  # fmt: skip
    return replace(job, model=str(first))


def _execute(job: Job, *, quiet: bool) -> Path:
    machine = Machine(job.model_settings.device, _precision_before(job) or job.model_settings.precision)
    say = lambda text: note(text, quiet=quiet or not machine.is_first)  # noqa: E731 - local shorthand
    trunk = load_model(job, machine)
    data = load_data(job, trunk, say)
    if job.online is None:
        summary = _train_offline(job, trunk, data, machine, quiet=quiet)
    else:
        summary = _train_online(job, trunk, data, machine, quiet=quiet)
    if machine.is_first:
        write_card(job, summary)
        from sparring.loops.summary import show_summary

        show_summary(job.run, quiet=quiet)
    machine.wait()
    return job.run


def _train_offline(job: Job, trunk: Any, data: Data, machine: Machine, *, quiet: bool) -> dict[str, float]:
    settings = job.offline
    assert settings is not None
    names = [*needs(job.equation.loss), *welcomes(job.equation.loss)]
    start = hash_weights(trunk.lm.state_dict())
    scorer = policy = None
    if job.trains_scorer:
        scorer = new_scorer(trunk, "default", derive(job.seed, "head"), copies=False)
        weights = trainable(scorer.trainable())
    else:
        policy = new_policy(trunk, derive(job.seed, "adapter"))
        weights = trainable(policy.trainable())
    speaker = policy or Network(trunk=trunk)
    reference = new_reference(speaker) if "ref_token_logps" in names else None
    networks = Networks(policy=speaker, reference=reference, scorer=scorer)
    total = offline.total_steps(len(data.train), settings)
    updater = _updater(job, weights, machine, total)
    _begin(job, machine, start)
    stored = None
    if reference is not None and settings.reference == "stored":
        rows = [*data.train, *data.held_out]
        with Progress("reference", len(rows), (), quiet=quiet or not machine.is_first) as bar:
            stored = store_reference(rows, networks, machine, model=start, cache=cache_folder(),
                                     micro_tokens=job.optimizer.micro_tokens, tick=lambda n: bar.show(n, {}))  # fmt: skip
        networks = Networks(policy=speaker)
    work = offline.Offline(
        method=job.equation, rows=data.train, held_out=data.held_out, networks=networks, updater=updater,
        machine=machine, settings=settings, micro_tokens=job.optimizer.micro_tokens, stored=stored,
    )  # fmt: skip
    with (
        Run(job.run, "step") as run,
        Progress(job.method, total, offline.SHOWN, quiet=quiet or not machine.is_first) as bar,
    ):
        summary = offline.train(work, run, bar)
    if machine.is_first:
        if scorer is not None:
            head = scorer.head
            assert head is not None
            checkpoint.write_folder(job.run / "model", lambda p: save_scorer(trunk, scorer.adapter, head, p))
        else:
            checkpoint.write_folder(job.run / "model", lambda p: save_trunk(trunk, p))
    return summary


def _train_online(job: Job, trunk: Any, data: Data, machine: Machine, *, quiet: bool) -> dict[str, float]:
    settings = job.online
    assert settings is not None
    start = hash_weights(trunk.lm.state_dict())
    asked = needs(job.equation.credit) + needs(job.equation.loss)
    policy = new_policy(trunk, derive(job.seed, "adapter"))
    reference = new_reference(policy) if "ref_token_logps" in asked else None
    critic = new_critic(policy, derive(job.seed, "critic")) if "values" in asked else None
    feedback: Feedback = load_feedback(job, trunk, data, machine)
    networks = Networks(policy=policy, reference=reference, critic=critic, temperature=settings.temperature)
    weights = trainable(policy.trainable(), *([] if critic is None else [_own(critic)]))
    total = settings.rounds * settings.epochs * settings.minibatches
    work = online.Online(
        method=job.equation, prompts=data.train, held_out=data.held_out, feedback=feedback, networks=networks,
        updater=_updater(job, weights, machine, total), machine=machine, settings=settings,
        micro_tokens=job.optimizer.micro_tokens,
        judge_warmup=job.discriminator.judge_warmup if job.discriminator else 0,
    )  # fmt: skip
    _begin(job, machine, start)
    with (
        Run(job.run, "round") as run,
        Progress(job.method, work.warm_up_rounds + settings.rounds, online.SHOWN, quiet=quiet or not machine.is_first) as bar,
    ):
        summary = online.train(work, run, bar)
    if machine.is_first:
        if job.discriminator is not None and trunk.adapter != "qlora":
            _save_judge(job, feedback)
        checkpoint.write_folder(job.run / "model", lambda p: save_trunk(trunk, p))
    return summary


def _own(critic: Network) -> dict[str, Any]:
    """The critic's own weights: its head, and its adapter if it has one; never the policy's."""
    if critic.adapter is not None:
        return critic.trainable()
    assert critic.head is not None
    return {f"head.{n}": p for n, p in critic.head.named_parameters()}


def _save_judge(job: Job, feedback: Feedback) -> None:
    """Keep the judge beside the model: it is a reward model that later runs, and best-of-n, can use."""
    from sparring.feedback.combine import learners
    from sparring.feedback.discriminator import Discriminator

    for judge in learners(feedback):
        if isinstance(judge, Discriminator):
            network = judge.network
            head = network.head
            assert head is not None
            checkpoint.write_folder(job.run / "judge", lambda p: save_scorer(network.trunk, network.adapter, head, p))


def _updater(job: Job, weights: dict[str, Any], machine: Machine, total: int) -> Updater:
    o = job.optimizer
    return Updater(
        weights, machine, lr=o.lr, total=total, warmup=o.warmup, schedule=o.schedule,
        weight_decay=o.weight_decay, max_grad_norm=o.max_grad_norm,
    )  # fmt: skip


def _begin(job: Job, machine: Machine, start: str) -> None:
    """Write run.yaml, once everything has been loaded and nothing can be wrong with the request any more."""
    if not machine.is_first or (job.run / "run.yaml").is_file():
        return
    import torch
    import transformers

    hashes = {"model": start, "data": fingerprint(job.data)}
    if job.eval_data:
        hashes["eval_data"] = fingerprint(job.eval_data)
    extra = {
        "hashes": hashes,
        "versions": {
            "sparring": VERSION, "python": platform.python_version(), "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
        "machine": {"device": str(machine.device), "precision": machine.precision, "processes": machine.world,
                    "threads": torch.get_num_threads(), "platform": platform.platform()},
    }  # fmt: skip
    checkpoint.write_text(job.run / "run.yaml", write_yaml(job, extra))


def _precision_before(job: Job) -> str | None:
    """The number format that a resumed run was started with; a new measurement could come out otherwise."""
    if not (job.run / "run.yaml").is_file():
        return None
    return (read_yaml(job.run).get("machine") or {}).get("precision")


def _check_same(job: Job, before: Mapping[str, Any]) -> None:
    """Refuse to go on with another run's settings. The model may be the warm-up's, which is the same start."""
    now = job.to_dict()
    for key in ("method", "data", "policy", "eval_data", "negatives"):
        if before.get(key) != now[key]:
            raise RunError(f"{job.run}: the run was started with {key} {before.get(key)!r}, not {now[key]!r}; resume it unchanged")
    for name, value in now["settings"].items():
        if before.get("settings", {}).get(name) != value:
            old = before.get("settings", {}).get(name)
            raise RunError(f"{job.run}: the run was started with {name} {old!r}, not {value!r}; resume it unchanged")

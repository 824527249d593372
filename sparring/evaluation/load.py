"""From names to things: records, judges, the start model. What cannot be had is said in a note, or refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring import methods
from sparring.core.errors import FeedbackError, ModelError, SettingError
from sparring.core.records import Record
from sparring.core.seeds import rng
from sparring.data.batch import Row
from sparring.data.formats import recognise, to_records
from sparring.data.read import read_rows
from sparring.data.split import prompt_text
from sparring.data.tokens import prepare
from sparring.evaluation.measure import Tick
from sparring.evaluation.origin import Origin, ancestry, judge_notes
from sparring.feedback.combine import build
from sparring.feedback.expression import LEARN_ALONG
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import is_ranker, load_ranker
from sparring.feedback.rule import as_rule, load_rule
from sparring.feedback.saved import load_saved
from sparring.models.backbone import load_trunk
from sparring.models.folders import resolve
from sparring.models.signals import Network
from sparring.models.trunk import Trunk
from sparring.rollout.sample import Sampling

ENDLESS = 1_000_000_000  # positions of a model that does not say how many it has

Judge = str | Feedback | Callable[..., Any]
"""A judge by name (or a weighted sum, or a folder), as an object, or as a function of the text."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an evaluation is done; sizes are in tokens. Raises SettingError for what does not fit together."""

    feedback: tuple[Judge, ...]
    judge: Judge | None
    best_of: int
    against: str | None
    overlap: bool
    base: str | None
    reference: str | None
    shown: int
    K: int
    how: Sampling
    seed: int
    max_prompt: int
    max_response: int
    micro_tokens: int
    device: str
    tick: Tick

    def __post_init__(self) -> None:
        for name in ("best_of", "shown", "K", "max_prompt", "max_response", "micro_tokens"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.best_of > 1 and self.judge is None:
            raise SettingError(f"best_of {self.best_of} needs a judge that picks, for example --judge runs/NAME/judge")
        if self.best_of == 1 and self.judge is not None:
            raise SettingError("a judge picks among several responses; say of how many with --best-of, for example 4")
        if self.against is not None and not self.feedback:
            raise SettingError(f"who wins against {self.against} is for a judge to say; name one with --feedback")

    def to_dict(self) -> dict[str, Any]:
        """Give what eval.json holds of it: all that the figures depend on."""
        return {
            "feedback": [judge_name(f) for f in self.feedback],
            "judge": None if self.judge is None else judge_name(self.judge),
            "best_of": self.best_of, "against": self.against, "overlap": self.overlap, "base": self.base,
            "reference": self.reference, "K": self.K, "max_tokens": self.how.max_tokens,
            "temperature": self.how.temperature, "seed": self.seed,
            "max_prompt": self.max_prompt, "max_response": self.max_response,
        }  # fmt: skip


def read_records(
    data: str, fields: Mapping[str, str], where: Sequence[str], prompts: int
) -> tuple[list[Record], list[str]]:
    """Read the records of the prompts that are evaluated, in the order of the file, and say what is to be known.

    Which prompts are taken depends on the data and their number alone.
    """
    rows = read_rows(data, where=where)
    records = to_records(rows, recognise(rows, fields=fields).kind, fields=fields)
    keys = _keys(records)
    known = list(dict.fromkeys(keys))
    if prompts == 0 or prompts >= len(known):
        notes = [f"the data has {len(known)} different prompts, not {prompts}"] if prompts > len(known) else []
        return records, notes
    taken = {known[i] for i in rng(0, "evaluate", "prompts").permutation(len(known))[:prompts]}
    return [r for r, key in zip(records, keys, strict=True) if key in taken], []


def different(records: Sequence[Record]) -> list[Record]:
    """Take one record for each different prompt, the first; every empty prompt is one of its own."""
    first: dict[object, Record] = {}
    for key, record in zip(_keys(records), records, strict=True):
        first.setdefault(key, record)
    return list(first.values())


def given_rows(
    records: Sequence[Record], trunk: Trunk, plan: Plan, notes: list[str], whose: str = "the data's own"
) -> list[Row]:
    """Encode records with their own responses, cut to fit; a response takes at most half of the model's positions."""
    context = ENDLESS if trunk.context is None else trunk.context
    rows, truncation = prepare(
        records, trunk.tokenizer, max_prompt=plan.max_prompt, max_response=min(plan.max_response, context // 2),
        overflow="cut", context=trunk.context,
    )  # fmt: skip
    limit = f"{truncation.max_response:,} tokens"
    said = [
        (truncation.responses_cut, truncation.responses, f"responses are longer than {limit}"),
        (truncation.prompts_cut, truncation.rows, "prompts do not fit beside their response"),
    ]
    notes += [f"{count:,} of {whose} {total:,} {what}: cut" for count, total, what in said if count]
    return rows


def load_judges(trunk: Trunk, runs: Sequence[Origin], plan: Plan, notes: list[str]) -> dict[str, Feedback]:
    """Load every judge that scores, by name, and say which of all judges were not held out."""
    judges: dict[str, Feedback] = {}
    for spec in plan.feedback:
        if isinstance(spec, str):
            notes += judge_notes(spec, runs)
        if _compares(spec):
            continue
        name = judge_name(spec)
        if name in judges:
            raise FeedbackError(f"feedback {name} is named twice; each is a figure of its own")
        judges[name] = load_judge(spec, trunk, device=plan.device)
    return judges


def load_rankers(plan: Plan) -> dict[str, Network]:
    """Load every judge that compares two responses and scores none. Raises FeedbackError when there is no rival."""
    named = [str(spec) for spec in plan.feedback if _compares(spec)]
    if named and plan.against is None:
        raise FeedbackError(f"{named[0]} is a pairwise ranker: it scores nothing alone; say --against what it compares")
    return {name: Network(trunk=load_trunk(name, device=plan.device)) for name in named}


def load_judge(spec: Judge, policy: Trunk, *, device: str) -> Feedback:
    """Make a judge of a name, a weighted sum, a function or a folder; a run folder means the judge in it.

    Raises FeedbackError or ModelError when it cannot be loaded or reads another tokenizer's tokens.
    """

    def find(name: str) -> Feedback:
        if name in LEARN_ALONG:
            raise FeedbackError(f"a {name} lives only in its run; name the folder where it is kept: RUN/judge")
        if is_ranker(name):
            return load_ranker(name, policy, device=device)
        if Path(name).expanduser().is_dir():
            return load_saved(name, policy, device=device)
        return load_rule(name)

    if isinstance(spec, str):
        return build([spec], find)
    return spec if isinstance(spec, Feedback) else as_rule(judge_name(spec), spec)


def load_start(runs: Sequence[Origin], trunk: Trunk, plan: Plan, notes: list[str]) -> Network | None:
    """Load the model that distance is measured from: the one that was named, else the run's own start."""
    if plan.base is None and not runs:
        notes.append("no KL and no perplexity: this is no run, so its start is unknown; name one with --base")
        return None
    path = plan.base if plan.base is not None else runs[0].start
    try:
        start = load_trunk(path, device=plan.device)
    except ModelError:
        if plan.base is not None:
            raise
        notes.append(f"no KL and no perplexity: the run's start {path} cannot be loaded here; name it with --base")
        return None
    if start.tokenizer.get_vocab() != trunk.tokenizer.get_vocab():
        raise ModelError(f"{path}: its tokenizer is not that of {trunk.source}, so no distance can be measured from it")
    return Network(trunk=start)


def is_scorer(model: str) -> bool:
    """Tell a reward model from a language model by what its config.json says."""
    file = Path(resolve(model)) / "config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):  # loading says better what is wrong
        return False
    return any(str(n).endswith("ForSequenceClassification") for n in named)


def is_pairwise(runs: Sequence[Origin]) -> bool:
    """Tell whether the newest of a model's runs taught it to compare two responses, and not to write any."""
    name = str(runs[0].content.get("method", "")) if runs else ""
    return name in methods.names() and getattr(methods.find(name), "view", "") == "comparison"


def judge_name(judge: Judge) -> str:
    """Name a judge as it was named, or by its function or class."""
    return judge if isinstance(judge, str) else str(getattr(judge, "__name__", type(judge).__name__.lower()))


def _compares(judge: Judge) -> bool:
    return isinstance(judge, str) and Path(judge).expanduser().is_dir() and is_pairwise(ancestry(judge))


def _keys(records: Sequence[Record]) -> list[tuple[str, int]]:
    texts = [prompt_text(r.prompt) for r in records]
    return [(text, 0 if text else i) for i, text in enumerate(texts)]

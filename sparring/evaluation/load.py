"""From names to things: records, judges, the start model. What cannot be had is said in a note, or refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparring import methods
from sparring.core.errors import FeedbackError, ModelError
from sparring.core.records import Record
from sparring.core.seeds import rng
from sparring.data.batch import Row
from sparring.data.formats import recognise, to_records
from sparring.data.read import read_rows
from sparring.data.split import prompt_text
from sparring.data.tokens import prepare
from sparring.evaluation.origin import Origin, ancestry, judge_notes
from sparring.evaluation.plan import Judge, Plan, Reading, judge_name
from sparring.feedback.combine import build
from sparring.feedback.comparison import Comparison, as_comparison, comparison_by
from sparring.feedback.expression import LEARN_ALONG, leaves
from sparring.feedback.protocol import Feedback
from sparring.feedback.ranker import is_ranker, load_ranker
from sparring.feedback.rule import as_rule, load_rule
from sparring.feedback.saved import load_saved
from sparring.models.backbone import load_trunk
from sparring.models.folders import resolve
from sparring.models.roles import Network
from sparring.models.scorers import RATIO, load_scorer
from sparring.models.trunk import Trunk

ENDLESS = 1_000_000_000  # positions of a model that does not say how many it has


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
    records: Sequence[Record], trunk: Trunk, plan: Reading, notes: list[str], whose: str = "the data's own"
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
            continue  # load_comparisons has them
        name = judge_name(spec)
        if name in judges:
            raise FeedbackError(f"feedback {name} is named twice; each is a figure of its own")
        judges[name] = load_judge(spec, trunk, device=plan.device)
    return judges


def load_comparisons(plan: Plan) -> dict[str, Comparison]:
    """Load every judge that compares two responses and scores none. Raises FeedbackError when there is no rival."""
    found = {judge_name(spec): load_comparison(spec, plan.device, plan.micro_tokens) for spec in plan.feedback}
    judges = {name: judge for name, judge in found.items() if judge is not None}
    if judges and plan.against is None:
        first = next(iter(judges))
        raise FeedbackError(f"{first} is a pairwise ranker: it scores nothing alone; say --against what it compares")
    return judges


def load_comparison(spec: Judge, device: str, micro_tokens: int) -> Comparison | None:
    """Load a judge that compares two responses: a pairwise ranker's run, or a function of three; None for others."""
    if isinstance(spec, str) and Path(spec).expanduser().is_dir():
        is_ranker_run = is_pairwise(ancestry(spec))
        return comparison_by(Network(trunk=load_trunk(spec, device=device)), micro_tokens) if is_ranker_run else None
    return as_comparison(spec)


def load_judge(spec: Judge, policy: Trunk | None, *, device: str) -> Feedback:
    """Make a judge of a name, a weighted sum, a function or a folder; a run folder means the judge in it.

    `policy` is whose tokens it reads, None for a judge that reads text. Raises FeedbackError or ModelError when it
    cannot be loaded or reads another tokenizer's tokens.
    """

    def find(name: str) -> Feedback:
        if name in LEARN_ALONG:
            raise FeedbackError(f"a {name} lives only in its run; name the folder where it is kept: RUN/judge")
        if not is_ranker(name) and not Path(name).expanduser().is_dir():
            return load_rule(name)
        assert policy is not None, "load_reader finds whose tokens a judge reads"
        return (load_ranker if is_ranker(name) else load_saved)(name, policy, device=device)

    if isinstance(spec, str):
        return build([spec], find)
    return spec if isinstance(spec, Feedback) else as_rule(judge_name(spec), spec)


def load_reader(judge: Judge, device: str) -> Trunk | None:
    """Load a model with the tokenizer of a judge that reads tokens, the first of its folders; None if it has none."""
    folders = [leaf for leaf in leaves([judge]) if Path(leaf).expanduser().is_dir()] if isinstance(judge, str) else []
    if not folders:
        return None
    if is_scorer(folders[0]):
        return load_scorer(folders[0], device=device).trunk
    runs = ancestry(folders[0])
    return load_trunk(runs[0].start if runs else folders[0], device=device)


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
    """Tell a reward model from a language model by what its config.json says, or what it is held against."""
    folder = Path(resolve(model))
    if (folder / RATIO).is_file():
        return True
    file = folder / "config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):  # loading says better what is wrong
        return False
    return any(str(n).endswith("ForSequenceClassification") for n in named)


def is_pairwise(runs: Sequence[Origin]) -> bool:
    """Tell whether the newest of a model's runs taught it to compare two responses, and not to write any."""
    name = str(runs[0].content.get("method", "")) if runs else ""
    return name in methods.names() and getattr(methods.find(name), "view", "") == "comparison"


def _compares(judge: Judge) -> bool:
    if isinstance(judge, str) and Path(judge).expanduser().is_dir():
        return is_pairwise(ancestry(judge))
    return as_comparison(judge) is not None


def _keys(records: Sequence[Record]) -> list[tuple[str, int]]:
    texts = [prompt_text(r.prompt) for r in records]
    return [(text, 0 if text else i) for i, text in enumerate(texts)]

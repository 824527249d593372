"""sparring.score: what a judge says of responses that are there already."""

from collections.abc import Sequence
from dataclasses import replace

from sparring.core.errors import SettingError
from sparring.core.records import Demonstration, Reference, Text
from sparring.evaluation.agreement import PARTS, as_responses, written
from sparring.evaluation.load import load_judge, load_reader
from sparring.evaluation.plan import Judge, Limits
from sparring.models.machine import Machine


def score(
    judge: Judge,
    prompts: Sequence[Text],
    responses: Sequence[Sequence[str]],
    *,
    references: Sequence[Reference] | None = None,
    max_prompt: int = 512,
    max_response: int = 512,
    device: str = "auto",
) -> list[list[float]]:
    """Score the responses to each prompt, in the judge's own units.

    A judge is whatever `evaluate` takes as feedback: a name, a weighted sum, a function, or the folder of a reward
    model or of a run that holds a judge. `references` are what is right as an answer to each prompt, for a function
    that reads it. Texts that are longer than the limits, in tokens of a judge that reads tokens, are cut. Raises
    UserError for a judge that cannot be used, and SettingError for an empty response or lists of different lengths.
    """
    known = (None,) * len(prompts) if references is None else references
    for number, what in ((len(responses), "responses"), (len(known), "references")):
        if number != len(prompts):
            raise SettingError(f"there are {len(prompts)} prompts and {what} to {number}")
    pairs = [(i, prompt, text) for i, prompt in enumerate(prompts) for text in responses[i]]
    if (empty := next((i for i, _, text in pairs if not text.strip()), None)) is not None:
        raise SettingError(f"a response to prompt {empty} is empty, so there is nothing to score")
    device = str(Machine(device, "fp32").device)
    reader = load_reader(judge, device)
    feedback = load_judge(judge, reader, device=device)
    records = [Demonstration(prompt=prompt, response=text, where=f"prompt {i}") for i, prompt, text in pairs]
    rows = written(records, reader, Limits(max_prompt=max_prompt, max_response=max_response), []) if records else []
    rows = [replace(row, reference=known[i]) for row, (i, _, _) in zip(rows, pairs, strict=True)]
    found: list[list[float]] = [[] for _ in prompts]
    for start in range(0, len(pairs), PARTS):
        part = slice(start, start + PARTS)
        some = as_responses(records[part], rows[part], device)
        for (i, _, _), value in zip(pairs[part], feedback.score(some)[:, 0].tolist(), strict=True):
            found[i].append(value)
    return found

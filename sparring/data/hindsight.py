"""Look back at marked responses: say in the prompt what each of them was good for.

A response that was marked good follows the instruction to answer rightly, any other the opposite one; so
every response can be imitated. Some rows are cut in two at a random token: what was written so far joins
the prompt, and only the rest is learnt.

Source: Zhang et al. 2023, arXiv:2302.05206, section 4 (instruction relabelling, sub-output relabelling).
"""

from collections.abc import Sequence
from dataclasses import replace

from sparring.core.records import Message, Prompt, Rating, Text
from sparring.core.seeds import rng
from sparring.data.batch import Row


def relabel(ratings: Sequence[Rating], good: str, bad: str) -> tuple[list[Rating], list[Prompt]]:
    """Put before each prompt the instruction that its response fulfilled; and, as other prompts, the opposite one."""
    told = [(good, bad) if r.is_good else (bad, good) for r in ratings]
    pairs = list(zip(ratings, told, strict=True))
    own = [replace(r, prompt=instructed(r.prompt, fulfilled)) for r, (fulfilled, _) in pairs]
    return own, [Prompt(prompt=instructed(r.prompt, opposite), where=r.where) for r, (_, opposite) in pairs]


def instructed(prompt: Text, instruction: str) -> Text:
    """Put an instruction before a prompt: as text, or as the system's turn of a conversation."""
    if isinstance(prompt, str):
        return instruction + prompt
    return (Message(role="system", content=instruction.strip()), *prompt)


def cut_in_two(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Move the beginning of a response into its prompts, in this share of the rows that have two tokens or more."""
    out = []
    for row in rows:
        draw, (response,) = rng(seed, "sub-output", row.index), row.responses
        if len(response) < 2 or draw.random() >= share:
            out.append(row)
            continue
        end = int(draw.integers(1, len(response)))
        assert row.other_prompt is not None
        said, rest = response[:end], response[end:]
        out.append(replace(row, prompt=row.prompt + said, other_prompt=row.other_prompt + said, responses=(rest,)))
    return out

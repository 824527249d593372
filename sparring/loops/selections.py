"""Ask a selection: give its rule what it names, and try it on made-up samples before anything is computed."""

from collections.abc import Sequence
from typing import Any

from sparring.core.errors import SettingError
from sparring.core.registry import needs
from sparring.core.seeds import rng
from sparring.core.selection import Scored, Selected
from sparring.data.formats import CONVERSIONS


def select(
    rule: Any, scored: Sequence[Scored], earlier: Sequence[Sequence[Scored]], *, number: int, seed: int
) -> Selected:
    """Select from the samples of one round, counted from 0; the same samples give the same records."""
    offered = {"scored": scored, "earlier": earlier, "number": number, "random": rng(seed, "select", number)}
    return rule.select(**{name: offered[name] for name in needs(rule.select)})


def rehearse(rule: Any, K: int, equation: Any) -> str:
    """Select among made-up samples, once for each pass; say what a run would find wrong only after it had sampled.

    Empty when nothing is: a K or a knob that the rule refuses, or records that the equation cannot learn from.
    """
    places = range(K)
    sample = Scored(
        prompt="prompt", responses=tuple(f"response {k}" for k in places), scores=tuple(1.0 + k for k in places),
        logps=(0.0,) * K, ref_logps=(0.0,) * K, given="demonstration", where="rehearsal",
    )  # fmt: skip
    try:
        for number in range(rule.passes):
            for record in select(rule, [sample], [], number=number, seed=0).records:
                if record.kind != equation.data and (record.kind, equation.data) not in CONVERSIONS:
                    return f"it selects {record.kind}s, but {equation.name} learns from {equation.data}s"
    except SettingError as error:
        return str(error)
    return ""

"""What a user can get wrong, and the cure: every message says where, what was found and what to do.

The command line prints these without a traceback and exits with code 2. `assert` is for our own
invariants; these are for input.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that cannot be used; the message is written for the person who gave it."""


class DataError(UserError):
    """A data file, a row or a field of it is not what the method needs."""


class SettingError(UserError):
    """A flag, knob or setting has no such name or no such value."""


class ModelError(UserError):
    """A model folder or hub id cannot be loaded, or does not fit its tokenizer or its task."""


class FeedbackError(UserError):
    """A judge cannot be loaded, or a response got no usable score from it."""


class RunError(UserError):
    """A run folder is missing, damaged, or belongs to something else."""


class Diverged(RuntimeError):
    """Training stopped because going on would only destroy the model; the message says what was seen."""


class Interrupted(Exception):
    """The process was asked to end, and what it was doing has been saved; the message says how to go on."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Say which right names are nearest to a wrong one, or list them all when none is near."""
    options = sorted(set(options))
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"choose from {', '.join(options)}" if options else "there is nothing to choose from"

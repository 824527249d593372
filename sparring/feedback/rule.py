"""Feedback from a plain Python function of the text, ours or the user's.

A rule takes (response), (prompt, response) or (prompt, response, reference), decided by how many arguments it
cannot do without, and returns a number. The reference is what the data holds for right, and is called so: three
arguments of other names are those of a judge that compares. A number that is no number stops the training: a reward
of NaN would make every later step do nothing, in silence.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import FeedbackError, did_you_mean
from sparring.core.records import Reference
from sparring.data.responses import Responses

HOW = "a rule is named FILE.py:FUNCTION or package.module:FUNCTION"
ALL = 3  # arguments of a rule that reads the reference too
REFERENCED = "give it a column reference, or name yours by --fields reference=COLUMN"
SHOWN = 200
"""Characters of a prompt or response that an error quotes."""


def length(response: str) -> float:
    """Count the words of a response: runs of anything but white space, whatever the tokenizer."""
    return float(len(response.split()))


def vader(response: str) -> float:
    """Rate the sentiment of a response by VADER's compound score, from -1 (negative) to 1 (positive)."""
    return _vader().polarity_scores(response)["compound"]


RULES: dict[str, Callable[[str], float]] = {"length": length, "vader": vader}
"""Rules that need no file."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Scores each response by calling `function` with as many of (prompt, response, reference) as it takes."""

    name: str
    function: Callable[..., Any]
    takes: int = 1

    @property
    def reads_reference(self) -> bool:
        """Whether it is told what is right."""
        return self.takes == ALL

    def untold(self, place: str) -> FeedbackError:
        """The error for a prompt of which the data does not say what is right."""
        return FeedbackError(f"rule {self.name} reads a reference, and the data has none for {place}; {REFERENCED}")

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Call the function once per response; FeedbackError names the response that it fails on."""
        exists = responses.batch.exists.tolist()
        right = responses.batch.references or (None,) * len(responses)
        rows = [
            [self._one(prompt, text, known) if there else 0.0 for text, there in zip(texts, present, strict=True)]
            for prompt, texts, present, known in zip(responses.prompts, responses.texts, exists, right, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32, device=responses.batch.mask.device).reshape(len(rows), -1)

    def _one(self, prompt: str, response: str, reference: Reference) -> float:
        quote = f"prompt {_short(prompt)}, response {_short(response)}"
        if self.reads_reference and reference is None:
            raise self.untold(quote)
        given = (response,) if self.takes == 1 else (prompt, response, reference)[: self.takes]
        try:
            value = self.function(*given)
        except FeedbackError:
            raise
        except Exception as e:
            what = f"{type(e).__name__}: {e}{_line_of(e, self.function)}"
            raise FeedbackError(f"rule {self.name} failed with {what}; {quote}") from e
        try:
            number = float(value) if isinstance(value, SupportsFloat) else None
        except (TypeError, ValueError, RuntimeError):  # arrays and tensors of more than one element
            number = None
        if number is None:
            raise FeedbackError(
                f"rule {self.name} returned {type(value).__name__} {_short(repr(value))}, not a number; {quote}"
            )
        if not math.isfinite(number):
            raise FeedbackError(f"rule {self.name} returned {number}; a score must be finite; {quote}")
        return number


def load_rule(spec: str) -> Rule:
    """Find the rule called `spec`: one of RULES, FILE.py:FUNCTION, or package.module:FUNCTION.

    Raises FeedbackError when the file, the module or the function is not there, when the file does not
    run, or when the function takes none of (response), (prompt, response) and (prompt, response, reference).
    """
    if spec in RULES:
        if spec == "vader":
            _vader()  # a missing package is found now, not in the first round
        return Rule(name=spec, function=RULES[spec])
    return as_rule(spec, find_function(spec))


def find_function(spec: str) -> Callable[..., Any]:
    """Find the function that FILE.py:FUNCTION or package.module:FUNCTION names; raises FeedbackError as load_rule."""
    source, colon, function = spec.rpartition(":")
    if not colon and spec.endswith(".py"):
        known = ", ".join(_functions(_module(spec))) or "none"
        raise FeedbackError(f"feedback {spec}: which function? write {spec}:FUNCTION; it has {known}")
    if not colon:
        raise FeedbackError(f"there is no feedback called {spec!r}; {did_you_mean(spec, RULES)} Otherwise {HOW}")
    if not source or not function:
        raise FeedbackError(f"feedback {spec!r} is incomplete; {HOW}")
    return _function(source, function)


def as_rule(name: str, function: Callable[..., Any]) -> Rule:
    """Make a rule of a function, deciding by its signature what it wants to know."""
    required = required_of(function)
    if required is None:  # a few builtins do not say; they take the text
        return Rule(name=name, function=function)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    is_known = len(required) in (1, 2) or reads_reference(function)
    if not is_known or any(p.kind not in by_place for p in required):
        takes = ", ".join(p.name for p in required) or "nothing"
        how = "it must take (response), (prompt, response) or (prompt, response, reference)"
        raise FeedbackError(f"rule {name} takes ({takes}); {how}")
    return Rule(name=name, function=function, takes=len(required))


def reads_reference(function: Callable[..., Any]) -> bool:
    """Tell (prompt, response, reference) from (prompt, first, second), which compares two responses: by the name."""
    required = required_of(function) or []
    return len(required) == ALL and required[-1].name == "reference"


def required_of(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """List the parameters that a function cannot do without; None when it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return None
    return [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _function(source: str, name: str) -> Callable[..., Any]:
    module = _module(source)
    found = getattr(module, name, None)
    if found is None:
        raise FeedbackError(f"{source} has no function {name!r}; {did_you_mean(name, _functions(module))}")
    if not callable(found):
        raise FeedbackError(f"{source}: {name} is {type(found).__name__}, not a function")
    return found


def _functions(module: ModuleType) -> list[str]:
    """The public functions that a module defines itself."""
    own = (n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__)
    return sorted(n for n in own if not n.startswith("_"))


def _module(source: str) -> ModuleType:
    path = Path(source)
    if not source.endswith(".py") and len(path.parts) == 1:
        try:
            return importlib.import_module(source)
        except Exception as e:
            raise FeedbackError(f"feedback module {source!r} cannot be imported: {type(e).__name__}: {e}; {HOW}") from e
    if not path.is_file():
        others = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FeedbackError(f"feedback file {source} does not exist; {did_you_mean(path.name, others)}")
    name = f"_sparring_rule_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FeedbackError(f"feedback file {source} is not a Python file; {HOW}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        line = e.lineno if isinstance(e, SyntaxError) else traceback.extract_tb(e.__traceback__)[-1].lineno
        raise FeedbackError(f"feedback file {source}, line {line}: {type(e).__name__}: {e}") from e
    return module


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as e:
        raise FeedbackError('feedback vader needs an extra: pip install "sparring[vader]"') from e
    return SentimentIntensityAnalyzer()


def _line_of(error: Exception, function: Callable[..., Any]) -> str:
    """Where in the rule's own file it failed, if it has one."""
    code = getattr(function, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")

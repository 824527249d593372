"""Several judges as one: a weighted sum, an ensemble, or Llama 2's gate, written as they are read.

    0.7*vader+0.3*length              sum_i w_i r_i
    mean(runs/a,runs/b,runs/c)        mean_i r_i
    worst(runs/a,runs/b,runs/c)       min_i r_i
    uwo(runs/a,runs/b,lam=0.5)        mean_i r_i - lam var_i r_i
    gated(safety=runs/s,helpfulness=runs/h,below=0.15)
                                      r_s  where the prompt is tagged safety or sigmoid(r_s) < below,  r_h  elsewhere

An ensemble is a guard against a policy that finds where one reward model is wrong: models that were trained alike but
for the seed agree on what the data taught them, and disagree elsewhere. Their scores must be in the same units. The
variance is the population's, as in the best-of-n code of Coste et al., whose PPO code has the unbiased one; lam is 0.5
in the former and 0.1 in the latter.

The gate is Llama 2's R_c. There the models' outputs are probabilities, and the reward is logit(R_c): as the logit of a
sigmoid is the score itself, scores are passed on as they are. What the paper does next, whitening, needs the whole
round and belongs to the loop (`--scores whitened`). A threshold asks for scores whose level means something:
Llama 2's safety model learns safe and unsafe besides; here 0.5 is what good responses score on average, since a
reward model's mean score is taken off. Judges on other scales (VADER, words) have no use for the gate.

Source: Coste et al. 2023, arXiv:2310.02743, section 3 (ensembles); Touvron et al. 2023, arXiv:2307.09288,
section 3.2.3 (the gate, and its threshold of 0.15).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparring.core.errors import FeedbackError, did_you_mean
from sparring.data.responses import Responses
from sparring.feedback.expression import HOW, RANKER, Call, Term, as_number, call_of, parse
from sparring.feedback.protocol import Feedback, LearningFeedback, TokenFeedback
from sparring.feedback.rule import Rule

SAFETY = "safety"
"""What a prompt's tag says when the gate always asks the safety model."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Scores a response by the weighted sum of what its judges say."""

    terms: tuple[Term, ...]
    judges: tuple[Feedback, ...]

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Add the weighted scores of all judges."""
        first, *others = self.weighted(responses).values()
        return sum(others, start=first)

    def score_tokens(self, responses: Responses) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K T"] | None]:
        """Add the weighted scores, and what tokens earned by the judges that say so."""
        found = [(term.weight, *judged(judge, responses)) for term, judge in zip(self.terms, self.judges, strict=True)]
        earned = [weight * by_token for weight, _, by_token in found if by_token is not None]
        first, *others = (weight * scores for weight, scores, _ in found)
        return sum(others, start=first), sum(earned[1:], start=earned[0]) if earned else None

    def weighted(self, responses: Responses) -> dict[str, Float[Tensor, "B K"]]:
        """Say what each judge adds to the score, by name, in the order of the terms."""
        pairs = zip(self.terms, self.judges, strict=True)
        return {term.name: term.weight * judge.score(responses) for term, judge in pairs}


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Scores a response by what several judges of the same thing say of it: `form` is mean, worst or uwo."""

    form: str
    judges: tuple[Feedback, ...]
    lam: float = 0.5

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score by all judges and take them together."""
        scores = torch.stack([judge.score(responses) for judge in self.judges])
        if self.form == "worst":
            return scores.amin(0)
        mean = scores.mean(0)
        return mean if self.form == "mean" else mean - self.lam * scores.var(0, correction=0)


@dataclass(frozen=True, kw_only=True)
class Gated:
    """Asks about safety first: its judge's score counts where it is the point or too low, else helpfulness does."""

    judges: tuple[Feedback, Feedback]
    below: float = 0.15

    def score(self, responses: Responses) -> Float[Tensor, "B K"]:
        """Score by safety where the prompt is tagged so or safety is below the threshold, else by helpfulness."""
        safety, helpfulness = (judge.score(responses) for judge in self.judges)
        tags = responses.batch.tags or ("",) * len(responses)
        tagged = torch.tensor([tag == SAFETY for tag in tags], device=safety.device)
        return safety.where(tagged[:, None] | (safety.sigmoid() < self.below), helpfulness)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a function is called: the keys of its judges (none: any two or more), and numbers with their range."""

    make: Callable[..., Feedback]
    roles: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    example: str


FUNCTIONS: dict[str, _Form] = {
    "mean": _Form(make=functools.partial(Ensemble, form="mean"), example="mean(runs/a,runs/b)"),
    "worst": _Form(make=functools.partial(Ensemble, form="worst"), example="worst(runs/a,runs/b)"),
    "uwo": _Form(
        make=functools.partial(Ensemble, form="uwo"), numbers={"lam": (0, 1e6)}, example="uwo(runs/a,runs/b,lam=0.5)"
    ),
    "gated": _Form(
        make=Gated, roles=("safety", "helpfulness"), numbers={"below": (0, 1)},
        example="gated(safety=runs/a,helpfulness=runs/b,below=0.15)",
    ),
}  # fmt: skip


def build(specs: Sequence[str], load: Callable[[str], Feedback]) -> Feedback:
    """Make one judge of several specs; `load` finds a judge by its name, and is asked once for each name.

    A single judge of weight 1 is returned as it is. Raises FeedbackError for an expression that makes no sense.
    """
    return _sum(specs, functools.cache(load))


def judged(feedback: Feedback, responses: Responses) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K T"] | None]:
    """Score each response, and say what each token earned of that where the judge knows it."""
    if isinstance(feedback, TokenFeedback):
        return feedback.score_tokens(responses)
    return feedback.score(responses), None


def learners(feedback: Feedback) -> tuple[LearningFeedback, ...]:
    """List the judges that learn, each once, within others or alone."""
    return tuple({id(j): j for j in _alone(feedback) if isinstance(j, LearningFeedback)}.values())


def is_learnt(feedback: Feedback) -> bool:
    """Whether any of the judges, within others or alone, was learnt from examples and not written down as a rule."""
    return any(not isinstance(judge, Rule) for judge in _alone(feedback))


def _alone(feedback: Feedback) -> Iterator[Feedback]:
    """Every judge that is not made of others, at any depth."""
    if isinstance(feedback, Combined | Ensemble | Gated):
        for inner in feedback.judges:
            yield from _alone(inner)
    else:
        yield feedback


def _sum(specs: Sequence[str], load: Callable[[str], Feedback]) -> Feedback:
    terms = parse(specs)
    if not terms:
        raise FeedbackError(f"no feedback was named; {HOW}")
    judges = tuple(_judge(t.name, load) for t in terms)
    if len(terms) == 1 and terms[0].weight == 1:
        return judges[0]
    return Combined(terms=terms, judges=judges)


def _judge(name: str, load: Callable[[str], Feedback]) -> Feedback:
    call = call_of(name)
    if call is None or call.function == RANKER:
        return load(name)
    form = FUNCTIONS.get(call.function)
    if form is None:
        known = did_you_mean(call.function, [*FUNCTIONS, RANKER])
        raise FeedbackError(f"feedback {name!r}: there is no {call.function}(...); {known}")
    judges = tuple(_sum([text], load) for text in _judges_of(call, form, name))
    return form.make(judges=judges, **_numbers_of(call, form, name))


def _judges_of(call: Call, form: _Form, name: str) -> list[str]:
    """The expressions of the judges that a function is called with, in the order of its roles."""
    known = (*form.roles, *form.numbers)
    for key in call.named:
        if key not in known:
            near = did_you_mean(key, known) if known else "it takes judges only"
            raise FeedbackError(f"feedback {name!r}: {call.function} has no {key}; {near}, as in {form.example}")
    if form.roles:
        missing = [role for role in form.roles if role not in call.named]
        if missing or call.parts:
            what = f"needs {missing[0]}=" if missing else f"takes no {call.parts[0]!r} without a key"
            raise FeedbackError(f"feedback {name!r}: {call.function} {what}; write {form.example}")
        return [call.named[role] for role in form.roles]
    if len(call.parts) < 2 or len(set(call.parts)) < len(call.parts):
        raise FeedbackError(f"feedback {name!r}: {call.function} needs two different judges or more; "
                            f"write {form.example}")  # fmt: skip
    return list(call.parts)


def _numbers_of(call: Call, form: _Form, name: str) -> dict[str, float]:
    found = {}
    for key, (low, high) in form.numbers.items():
        if key in call.named:
            number = as_number(call.named[key])
            if number is None or not low <= number <= high:
                raise FeedbackError(
                    f"feedback {name!r}: {key} is {call.named[key]!r}; give a number from {low:g} to {high:g}"
                )
            found[key] = number
    return found

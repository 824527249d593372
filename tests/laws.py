"""What every method owes, whatever its equation. A law returns None, or raises AssertionError.

LAWS hold for the equation, FILE_LAWS for the file it stands in.
"""

import inspect
import re
import sys
import typing
import zlib
from dataclasses import MISSING, replace
from pathlib import Path

import torch

from sparring.core.glossary import SIGNALS
from sparring.core.registry import knobs, needs, welcomes

K_OF = {"demonstration": 1, "rating": 1, "preference": 2, "ranking": 4, "prompt": 4}
# what a network produces while it is trained
LIVE = ("token_logps", "other_token_logps", "entropies", "token_kls", "values", "scores", "relaxed_scores", "step_kls")
COMPUTED = {
    "mask", "token_logps", "ref_token_logps", "old_token_logps", "values", "old_values", "relaxed_scores", "step_kls",
}  # fmt: skip
NEUTRAL = {  # what the glossary says an absent signal means
    "margin": torch.zeros_like,
    "label": torch.ones_like,
    "token_scores": torch.zeros_like,
    "ratings": lambda x: torch.arange(x.shape[1] - 1, -1, -1).to(x).expand(x.shape),
}


def signals(cls, B=4, T=7, seed=0, *, equal=False, names=None, dtype=torch.double):
    """Random inputs of the right shapes; `equal` puts the policy, the old one and the reference at the same place."""
    g = torch.Generator().manual_seed(seed)
    size = {"B": B, "K": K_OF[cls.data], "T": T}
    full = {"mask": torch.arange(T) < torch.randint(2, T + 1, (B, size["K"]), generator=g)[..., None]}
    for name, signal in SIGNALS.items():
        shape = [size[axis] for axis in signal.axes.split()]
        # Each has a stream of its own, so that a new word changes the numbers of no other.
        own = torch.Generator().manual_seed(1000 * seed + zlib.crc32(name.encode()) % 1000)
        x = torch.randn(shape, generator=own, dtype=torch.double).to(dtype)
        known = {
            "nats": -x.abs(),
            "nats of KL": x.abs(),
            "nats of entropy": x.abs(),
            "probability": torch.sigmoid(x),
            "mark": _best_first(x),
        }
        full.setdefault(name, known.get(signal.unit, x))
    if equal:
        full["ref_token_logps"] = full["old_token_logps"] = full["token_logps"].clone()
    return {n: full[n] for n in (asked(cls.loss) if names is None else names)}


def asked(equation):
    """Every signal that an equation can use."""
    return needs(equation) + welcomes(equation)


def equations(m):
    return [m.loss] + ([m.credit] if hasattr(m, "credit") else [])


def variants(m):
    """The method with one knob moved, for each knob and each choice."""
    for k in knobs(type(m)):
        value, choices = getattr(m, k.name), k.metadata["choices"]
        for moved in [c for c in choices if c != value] if choices else [elsewhere(value)]:
            yield f"{k.name}={moved}", replace(m, **{k.name: moved})


def elsewhere(value):
    """Another value of a knob."""
    if isinstance(value, str):
        return value.replace("0.", "0.1")  # a list of numbers, all of them lower
    return value - 1 if isinstance(value, int) else value * 0.9 if value else 0.1


def gradient(m, x):
    """The loss, and its gradient with respect to whatever a network produces."""
    live = {n: v.clone().requires_grad_() for n, v in x.items() if n in LIVE}
    loss = m.loss(**{**x, **live})
    grads = torch.autograd.grad(loss.total.sum(), list(live.values()), allow_unused=True)
    return loss, {n: torch.zeros_like(x[n]) if g is None else g for n, g in zip(live, grads, strict=True)}


def law_words(m):
    """It asks only for signals of the glossary, in the glossary's shapes, and swallows nothing else."""
    for equation in equations(m):
        for name, p in inspect.signature(equation).parameters.items():
            assert p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD), f"{name}: no *args or **kwargs in an equation"
            assert name in SIGNALS, f"{name} is not in the glossary"
            assert p.default in (p.empty, None), f"{name}: an optional signal defaults to None"
            kinds = typing.get_args(p.annotation) or (p.annotation,)
            assert (type(None) in kinds) == (p.default is None), f"{name} is optional in only one of two places"
            assert kinds[0].dim_str.strip() == SIGNALS[name].axes, f"{name} must be annotated [{SIGNALS[name].axes}]"


def law_shape(m):
    """One total and one weight to a prompt, whatever the sizes and the precision."""
    for B, T, dtype in [(4, 7, torch.double), (1, 3, torch.double), (5, 5, torch.float)]:
        x = signals(type(m), B, T, dtype=dtype)
        loss = m.loss(**x)
        assert loss.total.shape == loss.weight.shape == (B,), (loss.total.shape, loss.weight.shape)
        assert loss.total.dtype == loss.weight.dtype == dtype, (loss.total.dtype, loss.weight.dtype)
        assert loss.reward is None or loss.reward.shape == (B, K_OF[type(m).data])
        assert (loss.weight > 0).all()


def law_finite_at_start(m):
    """Loss and gradient are finite at step 0, where the policy is the reference."""
    loss, grads = gradient(m, signals(type(m), equal=True))
    assert loss.total.isfinite().all() and all(g.isfinite().all() for g in grads.values())


def law_finite_far_away(m):
    """Loss and gradient stay finite when a model is very sure, and very wrong."""
    if type(m).data == "prompt":
        return  # a ratio of probabilities has no bound, and clipping is the method's own
    kept = ("mask", "margin", "label")
    x = {n: v if n in kept else v * 1e5 for n, v in signals(type(m)).items()}
    loss, grads = gradient(m, x)
    assert loss.total.isfinite().all() and all(g.isfinite().all() for g in grads.values())


def law_padding(m):
    """Padding changes nothing: not its amount, and not what it holds, even NaN."""
    x = signals(type(m))
    wide = {n: _padded(v) for n, v in x.items()}
    a, ga = gradient(m, x)
    b, gb = gradient(m, wide)
    assert torch.allclose(a.total, b.total) and torch.allclose(a.weight, b.weight)
    for n, g in ga.items():
        if g.dim() == 3:
            assert torch.allclose(g, gb[n][..., :-3]) and not gb[n][..., -3:].any(), f"padding has a gradient in {n}"
    if hasattr(m, "credit"):
        y = signals(type(m), names=asked(m.credit))
        a, b = m.credit(**y), m.credit(**{n: _padded(v) for n, v in y.items()})
        for n in a:
            assert torch.allclose(a[n][y["mask"]], b[n][..., :-3][y["mask"]]), f"padding changes {n}"


def law_micro_batches(m):
    """Splitting the batch changes nothing: totals and weights add up."""
    x = signals(type(m))
    whole = m.loss(**x)
    parts = [m.loss(**{n: v[i : i + 1] for n, v in x.items()}) for i in range(4)]
    assert torch.allclose(whole.total, torch.cat([p.total for p in parts]))
    assert torch.allclose(whole.weight, torch.cat([p.weight for p in parts]))


def law_gradient(m):
    """The gradient is the derivative of the loss, by central differences along random directions."""
    x = signals(type(m), seed=3)
    _, grads = gradient(m, x)
    g, h = torch.Generator().manual_seed(5), 1e-6
    for name, grad in grads.items():
        for _ in range(3):
            way = torch.randn(grad.shape, generator=g, dtype=torch.double)
            ahead, behind = (m.loss(**{**x, name: x[name] + s * h * way}).total.sum() for s in (1, -1))
            measured, claimed = float(ahead - behind) / (2 * h), float((grad * way).sum())
            assert abs(measured - claimed) <= 1e-6 * max(1.0, abs(measured)), f"{name}: {claimed} but {measured}"


def law_every_signal_counts(m):
    """It asks for nothing that it does not use: an unused reference costs a whole model."""
    for equation in equations(m):
        x = signals(type(m), names=asked(equation))
        base = _outcome(equation, x)
        for n, v in x.items():
            step = torch.linspace(-0.3, 0.3, v.numel(), dtype=torch.double).view(v.shape)
            other = ~v if v.dtype == torch.bool else 1 - v if n == "ratings" else v + step
            moved = _outcome(equation, {**x, n: other})
            assert _differ(base, moved), f"{n} has no effect on {equation.__name__}"


def law_absent_means_neutral(m):
    """A signal that the data does not have means what the glossary says: no margin, a certain label."""
    for equation in equations(m):
        x = signals(type(m), names=asked(equation))
        for n in welcomes(equation):
            without = _outcome(equation, {k: v for k, v in x.items() if k != n})
            neutral = _outcome(equation, {**x, n: NEUTRAL[n](x[n])})
            same = all(torch.allclose(a, b) for a, b in zip(without, neutral, strict=True))
            assert same, f"without {n} it is not as with {NEUTRAL[n](x[n])}"


def law_missing_responses(m):
    """A ranking may be shorter than others of its batch: responses that are not there change nothing."""
    if type(m).data != "ranking":
        return
    x = signals(type(m)) | {"mask": signals(type(m), names=["mask"])["mask"]}
    holes = {n: torch.cat([v, torch.zeros_like(v[:, :1])], 1) for n, v in x.items()}
    holes |= {n: torch.cat([x[n], torch.full_like(x[n][:, :1], 7.0)], 1) for n in ("scores", "ratings") if n in x}
    for absent in ((), ("ratings",)):
        a, b = (m.loss(**{n: v for n, v in y.items() if n not in absent}) for y in (x, holes))
        assert torch.allclose(a.total, b.total) and torch.allclose(a.weight, b.weight)
    _, grads = gradient(m, holes)
    assert all(g.isfinite().all() and not g[:, -1].any() for g in grads.values())


def law_every_knob_counts(m):
    """A knob that turns nothing is a lie: each one, and each choice, changes the loss or the credit."""

    def outcome(method):
        return [t for e in equations(method) for t in _outcome(e, signals(type(m), names=asked(e)))]

    seen = [("as it comes", outcome(m))]
    for what, moved in variants(m):
        now = outcome(moved)
        for before, then in seen:
            assert _differ(then, now), f"{what} is the same as {before}"
        seen.append((what, now))


def law_direction(m):
    """A small step down the loss raises what should rise."""
    kind, x = type(m).data, signals(type(m), equal=True)
    x |= {n: NEUTRAL[n](x[n]) for n in NEUTRAL if n in x and kind != "rating"}
    down = {n: -g for n, g in gradient(m, x)[1].items()}
    if "relaxed_scores" in x:
        assert (down["relaxed_scores"] > 0).all() and (down["step_kls"][x["mask"]] < 0).all()
        return
    if kind == "prompt":
        mask = x["mask"]
        assert torch.equal(down["token_logps"][mask] > 0, x["advantages"][mask] > 0)
        return
    up = down["token_logps"].where(x["mask"], 0.0).sum(-1) if "token_logps" in down else down["scores"]
    if kind == "demonstration":
        assert (up > 0).all()
    elif kind == "rating":
        good = x["ratings"] > 0.5 if "ratings" in x else torch.ones_like(up, dtype=torch.bool)  # else it imitates all
        assert torch.equal(up > 0, good) and (up != 0).all()
    else:
        gain = up[:, 0] - up[:, -1]  # nothing, for a method that is content with a margin and has it
        assert (gain >= 0).all() and (gain > 0).any(), "the best response must gain on the worst"


def law_pure(m):
    """It changes none of its inputs, and says the same when asked again."""
    for equation in equations(m):
        x = signals(type(m), names=asked(equation))
        kept = {n: v.clone() for n, v in x.items()}
        first, again = _outcome(equation, x), _outcome(equation, x)
        assert all(torch.equal(x[n], kept[n]) for n in x), "an input was changed in place"
        assert not _differ(first, again)


def law_credit(m):
    """Credit gives the loss exactly what no network computes, in the glossary's shapes, and depends on no order."""
    if not hasattr(m, "credit"):
        assert type(m).data != "prompt", "a method that learns from its own samples must say what they deserve"
        return
    x = signals(type(m), names=asked(m.credit))
    got = m.credit(**x)
    assert set(got) == set(asked(m.loss)) - COMPUTED, f"the loss needs {set(asked(m.loss)) - COMPUTED}, got {set(got)}"
    turned = m.credit(**{n: v.flip(0).flip(1) for n, v in x.items()})
    for n, v in got.items():
        assert SIGNALS[n].axes == "B K T" and v.shape == x["mask"].shape and v.isfinite().all()
        assert torch.allclose(v, turned[n].flip(1).flip(0)), f"{n} depends on the order of prompts or samples"


def law_explained(m):
    """The file states the equation and the source; every knob says what it does, and there are few."""
    doc = sys.modules[type(m).__module__].__doc__ or ""
    assert re.search(r"^    L = ", doc, re.M), "the docstring needs an indented line that starts with 'L = '"
    assert re.search(r"^Source: [\s\S]*(arXiv:\d{4}\.\d{5}|doi:)", doc, re.M), "the docstring needs a 'Source:' line"
    assert len(knobs(type(m))) <= 8
    for k in knobs(type(m)):
        assert k.default is not MISSING and len(k.metadata["doc"]) > 10


def law_found_by_its_name(m):
    """The file is called as the method is, so that help needs no import."""
    assert type(m).__module__ == f"sparring.methods.{type(m).name}"


def law_short(m):
    """An offline loss fits on a page: 60 lines, docstring included."""
    lines = len(Path(sys.modules[type(m).__module__].__file__).read_text().splitlines())
    assert type(m).data == "prompt" or lines <= 60, f"{lines} lines"


def _best_first(x):
    """Marks: falling along a ranking; single responses are good and bad by turns."""
    if x.dim() < 2:
        return x
    return torch.arange(len(x)).to(x)[:, None] % 2 if x.shape[1] == 1 else x.sort(1, descending=True).values


def _padded(v):
    if v.dim() < 3:
        return v
    tail = torch.zeros(*v.shape[:-1], 3, dtype=v.dtype)
    return torch.cat([v, tail if v.dtype == torch.bool else tail * torch.nan], -1)


def _outcome(equation, x):
    out = equation(**x)
    return list(out.values()) if isinstance(out, dict) else [out.total, out.weight]


def _differ(a, b):
    return any(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


FILE_LAWS = [law_explained, law_found_by_its_name, law_short]
LAWS = [f for n, f in sorted(globals().items()) if n.startswith("law_") and f not in FILE_LAWS]

"""How figures spread over prompts: a row of small histograms for each method, and methods by prompts as a heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from sparring.report.charts import bounds_of, interval_axis, tint
from sparring.report.figures import MINUS, Figure, number
from sparring.report.html import Html, el
from sparring.report.inputs import Sample
from sparring.report.parts import section

BINS = 24
FEW = 9  # different values that get a bar each
COLUMNS = 100
HEAT = 8  # steps of colour


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Bars that share their axis: the ends of each, in rising order."""

    edges: tuple[float, ...]

    def counts(self, values: Sequence[float]) -> list[int]:
        """Count values by bar; the last bar has both its ends."""
        found = [0] * (len(self.edges) - 1)
        for value in values:
            place = next((i for i, end in enumerate(self.edges[1:]) if value < end), len(found) - 1)
            found[place] += 1
        return found


def bins_of(values: Sequence[float]) -> Bins:
    """Choose bars for values: one for each where they are few and evenly spaced, else 24 of equal width."""
    kinds = sorted(set(values))
    gaps = [b - a for a, b in pairwise(kinds)]
    if 1 < len(kinds) <= FEW and max(gaps) < 1.5 * min(gaps):
        half = min(gaps) / 2
        return Bins(edges=tuple([kinds[0] - half, *((a + b) / 2 for a, b in pairwise(kinds)), kinds[-1] + half]))
    low, high = bounds_of([Figure(mean=kinds[0]), Figure(mean=kinds[-1])]) if len(kinds) < 2 else (kinds[0], kinds[-1])
    return Bins(edges=tuple(low + (high - low) * i / BINS for i in range(BINS + 1)))


def spread_section(
    samples: Sequence[Sample], names: Sequence[str], base: str, colours: Mapping[str, int]
) -> list[Html]:
    """Draw histograms of the score, the gain over the base, and the length of every method's responses."""
    kinds = kinds_of(samples, names, base)
    told = [name for name in names if any(values.get(name) for values in kinds.values())]
    if not told:
        return []
    bins = {title: bins_of([x for some in values.values() for x in some]) for title, values in kinds.items()}
    rows = [el("div", {"class": "row head"}, [el("div"), *(el("div", None, title) for title in kinds)])]
    for name in told:
        cells = [
            _histogram(values.get(name, []), bins[title], title, name, colours[name]) for title, values in kinds.items()
        ]
        rows.append(el("div", {"class": "row"}, [el("div", {"class": "name"}, name), *cells]))
    feet = [el("div", None, interval_axis((b.edges[0], b.edges[-1]), about=3)) for b in bins.values()]
    rows.append(el("div", {"class": "row foot"}, [el("div"), *feet]))
    lead = "One response to each held-out prompt. Ticks below the bars are means; under gains, how many rose and fell."
    return [section("How it spreads over prompts", lead, [el("div", {"class": f"spread of{len(kinds)}"}, rows)])]


def kinds_of(samples: Sequence[Sample], names: Sequence[str], base: str) -> dict[str, dict[str, list[float]]]:
    """List what is spread: by the title of a column the values of each method; a column without any is left out."""
    told = {name: answers for name in names if (answers := _answers(samples, name))}
    own = told.get(base, {})
    kinds = {
        "score": {n: [s for _, s in a.values() if s is not None] for n, a in told.items()},
        f"gain over {base}": {n: _gains(a, own) for n, a in told.items() if n != base},
        "words": {n: [float(len(text.split())) for text, _ in a.values()] for n, a in told.items()},
    }
    return {title: values for title, values in kinds.items() if any(values.values())}


def means_of(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[float]]:
    """List the mean score on every prompt, for the methods that have all of them."""
    table = {name: [m for s in samples if (m := _mean(s, name)) is not None] for name in names}
    return {name: row for name, row in table.items() if len(row) == len(samples) > 1}


def heat_section(samples: Sequence[Sample], names: Sequence[str]) -> list[Html]:
    """Draw the mean score of every method on every prompt; neighbours are averaged where there are many prompts."""
    table = means_of(samples, names)
    if len(table) < 2:
        return []
    order = sorted(range(len(samples)), key=lambda i: fmean(row[i] for row in table.values()))
    heat = {name: [fmean(row[i] for i in group) for group in groups(order, COLUMNS)] for name, row in table.items()}
    low, high = min(map(min, heat.values())), max(map(max, heat.values()))
    rows = []
    for name in sorted(heat, key=lambda name: -fmean(table[name])):
        cells = [_cell(place, value, (low, high)) for place, value in enumerate(heat[name])]
        size = {"viewBox": f"0 0 {len(cells)} 1", "preserveAspectRatio": "none", "class": "heat", "role": "img"}
        said = {"aria-label": f"{name}: mean {number(fmean(table[name]))}"}
        strip = el("div", {"class": "track"}, el("svg", size | said, cells))
        value = el("div", {"class": "value"}, number(fmean(table[name])))
        rows.append(el("div", {"class": "row"}, [el("div", {"class": "name"}, name), strip, value]))
    each = -(-len(samples) // COLUMNS)
    columns = "A column is a prompt" if each == 1 else f"A column is the mean of {each} prompts of like difficulty"
    lead = f"{columns}, from those on which all did badly to those on which all did well; the best method is above."
    keys = [el("span", {"class": f"key h{i}"}) for i in range(HEAT)]
    scale = el("p", {"class": "scale"}, [el("span", None, number(low, 2)), *keys, el("span", None, number(high, 2))])
    return [section("Method by prompt", lead, [el("div", {"class": "heat-map"}, rows), scale])]


def groups(order: Sequence[int], most: int) -> list[Sequence[int]]:
    """Cut a list into equal parts, the last perhaps shorter, so that there are not more than so many."""
    each = max(1, -(-len(order) // most))
    return [order[i : i + each] for i in range(0, len(order), each)]


Answers = Mapping[int, tuple[str, float | None]]


def _answers(samples: Sequence[Sample], name: str) -> Answers:
    """List text and score of a method's responses, by the place of the prompt."""
    return {i: (a.text, a.score) for i, sample in enumerate(samples) for a in sample.answers if a.method == name}


def _gains(answers: Answers, base: Answers) -> list[float]:
    found = []
    for place, (_, score) in answers.items():
        _, other = base.get(place, ("", None))
        if score is not None and other is not None:
            found.append(score - other)
    return found


def _mean(sample: Sample, name: str) -> float | None:
    return next((a.mean for a in sample.answers if a.method == name), None)


def _histogram(values: Sequence[float], bins: Bins, title: str, name: str, series: int) -> Html:
    if not values:
        return el("div", {"class": "empty"}, "the base" if title.startswith("gain") else "")
    found = bins.counts(values)
    tallest, low, wide = max(found), bins.edges[0], bins.edges[-1] - bins.edges[0]
    bars = [
        el("rect", {"x": round(100 * (a - low) / wide + 0.3, 2), "width": round(100 * (b - a) / wide - 0.6, 2),
                    "y": round(34 - 32 * n / tallest, 2), "height": round(32 * n / tallest, 2)},
           el("title", None, f"{number(a)} to {number(b)}: {n}"))
        for (a, b), n in zip(pairwise(bins.edges), found, strict=True)
        if n
    ]  # fmt: skip
    mean = 100 * (fmean(values) - low) / wide
    parts = [*bars, el("line", {"x1": 0, "x2": 100, "y1": 34, "y2": 34, "class": "axis"})]
    if low < 0 < bins.edges[-1]:
        parts.append(el("line", {"x1": -100 * low / wide, "x2": -100 * low / wide, "y1": 0, "y2": 34, "class": "zero"}))
    parts.append(el("line", {"x1": mean, "x2": mean, "y1": 35, "y2": 40, "class": "mean"}))
    size = {"viewBox": "0 0 100 40", "preserveAspectRatio": "none", "class": f"bars {tint(series)}", "role": "img"}
    drawn = el("svg", size | {"aria-label": f"{title} of {name}, mean {number(fmean(values))}"}, parts)
    said = f"mean {number(fmean(values))}"
    if title.startswith("gain"):
        said = f"+{sum(v > 0 for v in values)}  {MINUS}{sum(v < 0 for v in values)}"
    return el("div", {"class": "cell"}, [drawn, el("small", None, said)])


def _cell(place: int, value: float, ends: tuple[float, float]) -> Html:
    low, high = ends
    step = min(HEAT - 1, int(HEAT * (value - low) / (high - low))) if high > low else 0
    box = {"x": place, "y": 0, "width": 1.02, "height": 1, "class": f"h{step}"}
    return el("rect", box, el("title", None, number(value)))

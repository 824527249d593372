"""How numbers look on a page: few digits, a real minus sign, the interval beside the mean."""

import math
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean and its 95 % interval; `low` and `high` are None when there is no interval."""

    mean: float
    low: float | None = None
    high: float | None = None


def number(value: float, digits: int | None = None) -> str:
    """Write a number with fixed decimals, or with about three digits that count."""
    if not math.isfinite(value):
        return "not finite"
    if digits is None:
        size = abs(value)
        if 0 < size < 0.001 or size >= 1e7:
            mantissa, _, power = f"{value:.1e}".partition("e")
            return f"{mantissa}e{int(power)}".replace("-", MINUS)
        digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
        if value == int(value):
            digits = 0
    return f"{value:,.{digits}f}".replace("-", MINUS)


def interval(figure: Figure, digits: int | None = None) -> str:
    """Write the interval of a figure; nothing when it has none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low, digits)} to {number(figure.high, digits)}"


def duration(seconds: float) -> str:
    """Write a time the way people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """List round numbers between low and high, roughly `about` of them, in rising order."""
    raw = (high - low) / max(about, 1)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_labels(places: list[float]) -> list[str]:
    """Write the numbers of an axis with as many decimals as tell neighbours apart, and no more."""
    if any(0 < abs(place) < 0.001 or abs(place) >= 1e7 for place in places):
        return [number(place) for place in places]
    digits = next((d for d in range(7) if all(abs(round(place, d) - place) < 1e-9 for place in places)), 6)
    return [number(place, digits) for place in places]

"""What there is to say of one figure of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of a run."""

    meaning: str
    unit: str
    healthy: str
    low: float | None = None
    high: float | None = None

"""Time and speed of a run, for people; nothing that is trained depends on them."""

import time


class Stopwatch:
    """Counts seconds since it was made, on top of those `spent` before, and tokens a second from lap to lap."""

    def __init__(self, spent: float = 0.0) -> None:
        self._last = time.monotonic()
        self._start = self._last - spent

    def lap(self, tokens: float) -> dict[str, float]:
        """End a lap in which `tokens` were computed."""
        now = time.monotonic()
        speed = tokens / max(now - self._last, 1e-9)
        self._last = now
        return {"tokens_per_second": round(speed, 1), "seconds": round(now - self._start, 2)}

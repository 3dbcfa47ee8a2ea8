"""How large a batch is: so that it takes the time that it is to take.

The shape is that of GitLab's batched background migrations: the last 20 batches say how fast rows go, a batch grows by a fifth
at most, and one that met a timeout is cut in two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

START, LEAST = 2_000, 1
_REMEMBERED, _GROWTH, _FADES = 20, 1.2, 0.8
_SHORT = 0.02
"""Seconds that somebody may wait and not feel it."""

_AIM = 0.925
"""Of the target: between GitLab's 0.9 and 0.95."""


@dataclass
class Pace:
    """The size of the next batch, in rows. ``target`` is how long it is to take, in seconds; ``most`` its upper bound."""

    target: float
    most: int
    size: int = START
    took: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __post_init__(self) -> None:
        self.size = max(LEAST, min(self.size, self.most))

    def aim(self, target: float) -> None:
        """The next batches are to take so long. Where that is less the next one is smaller at once, by what others took."""
        if target < self.target:
            wanted = self._rate() * target * _AIM if self.took else self.size * target / self.target
            self.size = max(LEAST, min(self.size, int(wanted)))
        self.target = target

    def done(self, rows: int, seconds: float, *, felt: bool) -> None:
        """A batch of ``rows`` has taken so long; ``felt``: somebody waited behind it."""
        self.took.append((rows, max(seconds, 1e-6)))
        if felt and seconds > _SHORT:
            self.halve()
            return
        wanted = min(self._rate() * self.target * _AIM, self.size * _GROWTH + 1)
        if seconds > self.target:
            wanted = min(wanted, self.size * self.target / seconds)
        self.size = max(LEAST, min(self.most, int(wanted)))

    def _rate(self) -> float:
        """Rows a second, of the last batches; the newest count most."""
        weights = [_FADES**age for age in reversed(range(len(self.took)))]
        rows = sum(w * n for w, (n, _) in zip(weights, self.took, strict=True))
        return rows / sum(w * s for w, (_, s) in zip(weights, self.took, strict=True))

    def halve(self) -> None:
        """It was too much for somebody."""
        self.size = max(LEAST, self.size // 2)

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

_FIXED, _ALIKE, _FEW = 4, 1.4, 10
"""Times what it costs to begin, that a batch takes at least; how much larger one may be that counts as of the same
size; and below how many rows nothing is known of what a row costs."""

_AIM = 0.925
"""Of the target: between GitLab's 0.9 and 0.95."""


@dataclass
class Pace:
    """The size of the next batch, in rows. ``target`` is how long it is to take, in seconds; ``most`` its upper bound."""

    target: float
    most: int
    size: int = START
    trip: float = 0.0
    took: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __post_init__(self) -> None:
        self.size = max(LEAST, min(self.size, self.most))

    def went(self, seconds: float) -> None:
        """A short question has taken so long. Of several the shortest counts, and a longer one is believed in time."""
        self.trip = min(seconds, self.trip * _GROWTH) if self.trip else seconds

    def aim(self, target: float, whole: float) -> None:
        """The next batches are to take so long. Where that is less the next one is smaller at once, by what others took.

        Never less than some times what a batch takes that writes nothing, up to ``whole``: smaller ones would be nothing else.
        """
        target = min(whole, max(target, _FIXED * self._fixed()))
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

    def _fixed(self) -> float:
        """Seconds that a batch takes however small it is: by the least and the greatest of the last; 0 while these are alike.

        Of a few rows all of it is taken for that: a larger batch then tells.
        """
        few, many = min((n for n, _ in self.took), default=0), max((n for n, _ in self.took), default=0)
        if many < 2 * few or not few:
            return min(seconds for _, seconds in self.took) if 0 < many < _FEW else 0.0
        short = min(seconds for n, seconds in self.took if n <= few * _ALIKE)
        long = min(seconds for n, seconds in self.took if n >= many / _ALIKE)
        return max(0.0, short - few * max(0.0, long - short) / (many - few))

    def _rate(self) -> float:
        """Rows a second, of the last batches; the newest count most."""
        weights = [_FADES**age for age in reversed(range(len(self.took)))]
        rows = sum(w * n for w, (n, _) in zip(weights, self.took, strict=True))
        return rows / sum(w * s for w, (_, s) in zip(weights, self.took, strict=True))

    def halve(self) -> None:
        """It was too much for somebody."""
        self.size = max(LEAST, self.size // 2)

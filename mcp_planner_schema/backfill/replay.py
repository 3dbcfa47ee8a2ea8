"""How far replicas lie behind: told by what was written when, and by how fast they replay.

``replay_lag`` of ``pg_stat_replication`` is the time that the last replayed record took. On an idle system it stays what it
was, and where replay stands still it is as old as the replica's last message. So the position at each look is kept: what was
written ten seconds ago and is not replayed says that the replica is ten seconds behind, whatever the replica says.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

_SPACING = 0.01
"""Of the limit: positions closer together are not kept. What is told is too low by as much at most."""

_KEPT = 4096
"""So many positions are kept; of older ones every second is given up then."""

_WINDOW = 0.1
"""Of the limit: how long is measured at least how fast a replica replays."""


@dataclass(frozen=True)
class Seen:
    """One look at a replica: when, up to where it had replayed, and up to where was written."""

    at: float
    replayed: int
    written: int


@dataclass
class Replay:
    """What was seen. ``limit`` is how many seconds a replica may lie behind; positions are bytes of WAL."""

    limit: float
    written: list[tuple[int, float]] = field(default_factory=list)
    marks: dict[int, Seen] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)

    def wrote(self, position: int, now: float) -> None:
        """The WAL reaches up to here now."""
        if self.written and (position <= self.written[-1][0] or now - self.written[-1][1] < self.limit * _SPACING):
            return
        self.written.append((position, now))
        if len(self.written) > _KEPT:
            del self.written[2 : _KEPT // 2 : 2]

    def behind(self, replayed: int, told: float | None, now: float) -> float:
        """Seconds since the oldest was written that is not replayed. What was so before the first look, the server has
        ``told``."""
        place = bisect.bisect_right(self.written, replayed, key=lambda one: one[0])
        if place == len(self.written):
            return 0.0
        seconds = now - self.written[place][1]
        return seconds if place else max(seconds, told or 0.0)

    def needs(self, replica: int, replayed: int, written: int, ahead: int, now: float) -> float:
        """Seconds that the replica needs for what it has not replayed: so far behind will be what is written next.

        Up to ``written`` it could have replayed; up to ``ahead`` it has to, once that is flushed.

        How fast it replays is only seen while it has something to do all the time: some of what was there at the last mark is
        left. Where nothing of it is left it keeps up, and needs 0.
        """
        mark = self.marks.get(replica)
        if mark is None or replayed >= mark.written:
            self.rates.pop(replica, None)
            self.marks[replica] = Seen(now, replayed, written)
        elif replayed > mark.replayed and now - mark.at >= self.limit * _WINDOW:
            self.rates[replica] = (replayed - mark.replayed) / (now - mark.at)
            self.marks[replica] = Seen(now, replayed, written)
        rate = self.rates.get(replica)
        return (ahead - replayed) / rate if rate else 0.0

    def forget(self, there: dict[int, int]) -> None:
        """These are the replicas that there are, and what they have replayed: nothing older is needed, nor who has gone."""
        for gone in self.marks.keys() - there:
            del self.marks[gone]
            self.rates.pop(gone, None)
        passed = bisect.bisect_right(self.written, min(there.values(), default=0), key=lambda one: one[0])
        del self.written[: max(0, passed - 1)]

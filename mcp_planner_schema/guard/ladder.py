"""The ladder: how often a step that meets a lock is tried, and how long it gives way between two tries.

Many short tries reach a busy table where one long wait would stop everybody behind it. They come in bursts, for most locks
are gone within a second, and the pauses between the bursts grow, for what is not is a report, a backup or a person. The
shape is that of GitLab's migration helper (41 tries, half an hour in all, ending in failure and never in a blocking wait).
"""

from __future__ import annotations

import random

_BURST = 5
_BETWEEN_TRIES = 0.1
_BETWEEN_BURSTS = (2.0, 5.0, 15.0, 60.0, 180.0, 360.0, 480.0, 600.0)
"""Seconds; after the last burst named here the last pause is repeated."""

TRANSIENT = ("55P03", "40P01")
"""SQLSTATEs that mean "someone is in the way": lock_not_available and deadlock_detected."""

CANCELED = "57014"
"""SQLSTATE query_canceled: by the deadline, by statement_timeout, or by somebody."""

HOPELESS = _BURST
"""So many tries that nobody was in the way of, and that the deadline ended all the same: it is the work itself."""


def pause(tries: int) -> float:
    """Seconds to give way after so many failed tries: between half and the whole of the rung, so that two runs part."""
    burst, within = divmod(tries, _BURST)
    rung = _BETWEEN_TRIES if within else _BETWEEN_BURSTS[min(burst, len(_BETWEEN_BURSTS)) - 1]
    return rung * (0.5 + random.random() / 2)

"""The sensitive log: what sessions were running that were in the way, word for word. A query may hold anybody's data.

Only where ``sensitive_log`` names a file, which only its owner may read; nothing else of the guard's ever shows a query of
another session.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from collections.abc import Mapping


def note(path: str, run: int, revision: str, queries: Mapping[int, str]) -> None:
    """Append a line of JSON for each of these sessions. Raises OSError for a file that others may read or that is a link."""
    if not queries:
        return
    at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    lines = [
        json.dumps({"at": at, "run": run or None, "revision": revision, "pid": pid, "query": text}, ensure_ascii=False)
        for pid, text in queries.items()
    ]
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no file")
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
            raise OSError(f"{path} may be read by others; chmod 600 {path}")
        os.write(handle, ("\n".join(lines) + "\n").encode())
    finally:
        os.close(handle)

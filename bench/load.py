"""A load that does not slow down when the server does: pgbench with a fixed rate, each latency from the scheduled time.

A client that waits for its answer before it sends the next statement hides a stall: it is one slow statement, whatever would
have been asked meanwhile. With ``-R`` each transaction has its time, and those that come late count from it.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LONGEST = 3600
"""Seconds after which a load ends by itself, should nobody end it."""


@dataclass(frozen=True)
class Transaction:
    """When it should have begun, by the clock, and how many seconds after that it was through."""

    scheduled: float
    waited: float
    failed: bool = False


@dataclass(frozen=True)
class Script:
    """One kind of client: its statements, how many transactions a second all of them send, and how many clients they are."""

    text: str
    rate: int
    clients: int = 8


@dataclass
class Record:
    """What one kind of client went through: every transaction, and what ended a client."""

    transactions: list[Transaction] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    def within(self, begin: float, end: float) -> Record:
        """The transactions that were due in that time."""
        return Record([one for one in self.transactions if begin <= one.scheduled < end], self.aborted)

    @property
    def worst(self) -> float:
        """The longest wait, in seconds."""
        return max((one.waited for one in self.transactions), default=0.0)

    @property
    def errors(self) -> int:
        """Transactions that failed and clients that gave up."""
        return sum(one.failed for one in self.transactions) + len(self.aborted)


def percentile(records: Iterable[Transaction], share: float) -> float:
    """The wait that so great a share of the transactions did not exceed."""
    waits = sorted(one.waited for one in records)
    return waits[max(math.ceil(share * len(waits)) - 1, 0)] if waits else 0.0


def read(text: str) -> list[Transaction]:
    """The lines of a log of ``pgbench -R -l``.

    ``client number latency script epoch microseconds lag``: the latency, in microseconds, contains the lag; the time is
    that of the end. Instead of a latency, ``failed`` says that it was a serialization failure or a deadlock.
    """
    found = []
    for line in text.splitlines():
        _, _, latency, _, seconds, microseconds, lag, *_ = line.split()
        ended = int(seconds) + int(microseconds) / 1e6
        failed = not latency.isdecimal()
        waited = (float(lag) if failed else int(latency)) / 1e6
        found.append(Transaction(ended - waited, waited, failed))
    return found


@contextmanager
def load(
    binaries: Path, url: str, folder: Path, rows: int, scripts: Mapping[str, Script]
) -> Iterator[dict[str, Record]]:
    """While inside, the scripts run; the records, by the scripts' names, are filled at the end."""
    records = {name: Record() for name in scripts}
    running = {}
    for name, script in scripts.items():
        (folder / f"{name}.sql").write_text(script.text)
        command: list[str | Path] = [
            binaries / "pgbench", "-n", "-M", "prepared", "-R", str(script.rate), "-c", str(script.clients), "-T", str(LONGEST),
            "-D", f"rows={rows}", "-l", f"--log-prefix={folder / name}", "-f", folder / f"{name}.sql", url,
        ]  # fmt: skip
        with (folder / f"{name}.err").open("w") as errors:
            running[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield records
    finally:
        for process in running.values():
            # What -T sends itself when the time is over: transactions end, the log is written to its last line.
            process.send_signal(signal.SIGALRM)
        for name, process in running.items():
            process.wait(timeout=120)
            records[name].transactions = read("".join(log.read_text() for log in folder.glob(f"{name}.[0-9]*")))
            records[name].aborted = re.findall(r"client \d+ .*?aborted.*", (folder / f"{name}.err").read_text())


def settle(seconds: float) -> float:
    """Let time pass; gives the clock's time after it."""
    time.sleep(seconds)
    return time.time()

"""The availability measurement itself: a stall is seen as long as it was, and a change can be measured."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import picture
from bench.availability import CONTESTANTS, Felt, Times, measure
from bench.changes import CHANGES
from bench.load import Record, Script, Transaction, load, percentile, read
from mcp_planner_schema import embedded
from tests.conftest import Database

SCRIPT = Script("\\set id random(1, :rows)\nSELECT n FROM measured WHERE id = :id;\n", rate=100, clients=4)


def rows(database: Database) -> str:
    """A small table to read from; gives the database's address for pgbench."""
    database.rows("CREATE TABLE measured (id int PRIMARY KEY, n int); INSERT INTO measured VALUES (1, 1), (2, 2)")
    return database.url.replace("+psycopg2", "")


def test_a_line_of_the_log_tells_when_it_was_due_and_how_long_it_took() -> None:
    """The latency contains the lag and ends at the time that is written; a failed one has nothing but its lag."""
    log = "3 7 1250000 0 1796000010 500000 1000000\n0 1 deadlock 0 1796000010 250000 250000.0\n"

    late, failed = read(log)

    assert (late.scheduled, late.waited, late.failed) == (1796000009.25, 1.25, False)
    assert (failed.scheduled, failed.waited, failed.failed) == (1796000010.0, 0.25, True)


def test_a_transaction_belongs_to_the_time_it_was_due_in() -> None:
    """One that was due while the change was made and ended afterwards counts; one that was due before does not."""
    record = Record([Transaction(9.9, 0.1), Transaction(10.0, 5.0), Transaction(11.0, 0.2, failed=True)], ["client 1"])

    during = record.within(10, 12)

    assert (during.worst, during.errors, len(during.transactions)) == (5.0, 2, 2)


def test_a_percentile_is_a_wait_that_was_measured() -> None:
    """Of a thousand waits the 99.9th percentile is the second longest, and that of none is 0."""
    thousand = [Transaction(0, n / 1000) for n in range(1, 1001)]

    found = percentile(thousand, 0.999), percentile(thousand[:3], 0.999), percentile([], 0.999)

    assert found == (0.999, 0.003, 0.0)


def test_a_stall_of_a_second_is_seen_as_one(database: Database, tmp_path: Path) -> None:
    """Behind a lock held for a second one waits a second, and so do, more or less, all who were due meanwhile."""
    url = rows(database)

    with load(embedded.binary("pgbench").parent, url, tmp_path, 2, {"readers": SCRIPT}) as records:
        time.sleep(0.5)
        with database.connect() as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE measured")
            locked = time.monotonic()
            time.sleep(1)
            cursor.execute("COMMIT")
            held = time.monotonic() - locked
        time.sleep(0.5)

    found = records["readers"]
    half = sum(one.waited > held / 2 for one in found.transactions)
    print(
        f"{len(found.transactions)} transactions, the longest {found.worst:.3f} s of {held:.3f} s, {half} above the half"
    )
    assert 0.85 * held < found.worst < held + 0.5
    assert half > 3 * SCRIPT.clients, "who waits for his answer before he asks again sees one stall a client"
    assert found.errors == 0


def test_a_client_that_meets_an_error_is_counted(database: Database, tmp_path: Path) -> None:
    """A column that is renamed under the load ends every client that asks for it, and none of them is forgotten."""
    url = rows(database)

    with load(embedded.binary("pgbench").parent, url, tmp_path, 2, {"readers": SCRIPT}) as records:
        time.sleep(0.3)
        database.rows("ALTER TABLE measured RENAME n TO m")
        time.sleep(0.5)

    assert records["readers"].errors == SCRIPT.clients
    assert 'column "n" does not exist' in records["readers"].aborted[0]


@pytest.mark.long
def test_a_change_is_measured() -> None:
    """One change on a small table: it is made, beside readers and writers that fail at nothing, and then drawn."""
    change = next(one for one in CHANGES if one.name == "add enum value")

    idle, ours, _ = measure(200, [change], Times(quiet=0.3, begun=0.2, reader=0.5, after=0.3), contestants=["ours"])

    assert (idle.contestant, ours.change, ours.contestant) == ("idle", "add enum value", "ours")
    assert ours.done, ours.said
    assert (idle.errors, ours.errors) == (0, 0)
    assert min(*idle.readers, *idle.writers, *ours.readers, *ours.writers) > 0


def test_the_picture_has_a_bar_for_each_way() -> None:
    """Each change has its three bars, the longer wait the longer bar; what failed is said beside its bar."""
    felt = [Felt("nothing", "idle", 10, 1, True, 0, (0.01, 0.01), (0.02, 0.02))]
    felt += [
        Felt("a < b", name, 10, 1, name != "with lock_timeout", 0, (wait, wait), (0.001, 0.001))
        for name, wait in zip(CONTESTANTS, (20.0, 1.0, 0.2), strict=True)
    ]

    drawn = ElementTree.fromstring(picture.draw(felt, 0.25))

    space = "{http://www.w3.org/2000/svg}"
    widths = [float(one.attrib["width"]) for one in drawn.iter(f"{space}rect") if one.attrib.get("height") == "8"]
    said = [one.text or "" for one in drawn.iter(f"{space}text")]
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)
    assert {"a < b", "20.0 s", "1.0 s, change failed", "200 ms", "idle + 250 ms = 270 ms"} <= set(said)

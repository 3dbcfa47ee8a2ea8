"""What a backfill gives way to: a real replica, slots, the archive, vacuum, locks, dead rows; each with and without cause."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from mcp_planner_schema import embedded
from mcp_planner_schema.backfill import keys
from mcp_planner_schema.backfill.feedback import Feedback
from mcp_planner_schema.backfill.replay import Replay
from mcp_planner_schema.embedded import place
from mcp_planner_schema.guard.settings import Backfill as Limits
from tests.conftest import Database, Project, _private_folder
from tests.test_backfill import ROWS, TABLE, begin

pytestmark = pytest.mark.long

MB = 1024**2
LIMITS = Limits(1, 3_600_000, 600_000)  # asked each time; of replicas, only their own tests are to tell
SECOND_BEHIND = replace(LIMITS, lag=1_000)
# autovacuum is there and does not come by itself; what a test does is in the WAL at once.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "archive_mode": "on",
}
WIDE = TABLE + " WITH (fillfactor = 10)"  # many pages, so that a vacuum lasts
SLOW = 'op.backfill("t", set={"n": "filled.n + 1 + length(pg_sleep(0.0002)::text)"}, batch=500)'


def awaited(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What the condition gives, once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.01)
    return pytest.fail("in vain")


def usual(database: Database) -> None:
    """The settings that a test may change are as they were."""
    database.rows("ALTER SYSTEM RESET ALL")
    database.rows("ALTER SYSTEM SET archive_command = 'true'")
    database.rows("ALTER SYSTEM SET autovacuum_naptime = '1d'")
    database.rows("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def cluster() -> Iterator[embedded.Server]:
    """A server with archive, autovacuum and logical decoding, whose settings a test may change."""
    folder = _private_folder()
    try:
        server = embedded.start(folder, settings=SETTINGS, database=None, say=lambda line: None)
        usual(Database(str(server.socket), server.port, "postgres"))
        yield server
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def replica(cluster: embedded.Server) -> Iterator[Database]:
    """A streaming replica of it, which calls itself r1."""
    folder = _private_folder()
    data = folder / ".postgres" / "data"
    data.parent.mkdir()
    place.own_folder(data, 0o700, cluster.owner)
    source = f"host={cluster.socket} port={cluster.port} user=postgres application_name=r1"
    place.run(cluster, cluster.binaries / "pg_basebackup", "-D", str(data), "-d", source, "-R", "-c", "fast")
    try:
        server = embedded.start(folder, settings=SETTINGS, database=None, say=lambda line: None)
        yield Database(str(server.socket), server.port, "postgres")
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


@pytest.fixture
def own(cluster: embedded.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database there, named by DATABASE_URL; afterwards no setting, slot or database is left."""
    whole = Database(str(cluster.socket), cluster.port, "postgres")
    one = replace(whole, name=f"t_{uuid.uuid4().hex[:12]}")
    whole.rows(f"CREATE DATABASE {one.name}")
    monkeypatch.setenv("DATABASE_URL", one.url)
    yield one
    usual(whole)
    whole.rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
    whole.rows(f"DROP DATABASE {one.name} WITH (FORCE)")


@pytest.fixture
def ordinary(own: Database) -> Iterator[Database]:
    """The same, as a role without any right beyond its own tables."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    own.rows(
        f"CREATE ROLE {role} LOGIN; ALTER DATABASE {own.name} OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}"
    )
    yield replace(own, user=role)
    own.rows(f"ALTER DATABASE {own.name} OWNER TO postgres; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@dataclass
class Asked:
    """What a backfill of t would be told between two batches."""

    connection: sa.Connection
    feedback: Feedback
    leaf: keys.Leaf
    said: list[str] = field(default_factory=list)

    def reasons(self) -> list[str]:
        """Ask once."""
        return self.feedback.reasons(self.connection, self.leaf)

    def waits(self) -> str:
        """The only reason, once there is one."""
        found = awaited(self.reasons)
        assert len(found) == 1, found
        [reason] = found
        return str(reason)

    def goes_on(self) -> bool:
        """No reason is left, at last."""
        return bool(awaited(lambda: not self.reasons()))


@contextmanager
def asking(database: Database, limits: Limits = LIMITS) -> Iterator[Asked]:
    """A backfill of t that has just begun."""
    made = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool)
    with made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        oid = connection.exec_driver_sql("SELECT 't'::regclass::oid::bigint").scalar_one()
        said: list[str] = []
        yield Asked(connection, Feedback(limits, said.append), keys.leaves(connection, oid)[0], said)


@contextmanager
def upgrading(project: Project) -> Iterator[threading.Thread]:
    """The upgrade runs meanwhile, and has to succeed."""
    failed: list[BaseException] = []

    def upgrade() -> None:
        try:
            project.upgrade()
        except BaseException as error:  # raised below
            failed.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(timeout=60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def waits_for(database: Database, what: str = "") -> str:
    """What migration.backfill says that it waits for, once it waits for this."""

    def told() -> Any:
        try:
            return database.rows("SELECT waits_for FROM migration.backfill WHERE strpos(waits_for, %s) > 0", what)
        except psycopg2.errors.UndefinedTable:
            return None

    return str(awaited(told, 20)[0][0])


def written(database: Database) -> int:
    """Rows that the backfill has written so far."""
    return int(database.value("SELECT coalesce(sum(rows_written), 0) FROM migration.backfill_range"))


def caught_up(primary: Database, replica: Database) -> None:
    """Wait until the replica has replayed what is written."""
    until = primary.value("SELECT pg_current_wal_flush_lsn()::text")
    awaited(lambda: replica.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", until), 30)


def goes_on_writing(database: Database) -> None:
    """Wait until some batches were written."""
    awaited(lambda: database.value("SELECT to_regclass('migration.backfill_range')") and written(database))


def test_waits_for_a_replica_that_does_not_replay(
    own: Database, replica: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replay is paused: no batch is written from the limit on, what it waits for is shown, and it goes on when that goes on."""
    project.configure(backfill_lag="1s")
    begin(project, SLOW, rows=ROWS.format(count=4_000))

    with upgrading(project):
        goes_on_writing(own)
        replica.rows("SELECT pg_wal_replay_pause()")
        try:
            told = waits_for(own, "replays")
            before = written(own)
            awaited(lambda: waits_for(own) != told)
            after = written(own)
        finally:
            replica.rows("SELECT pg_wal_replay_resume()")

    assert told.startswith("replica r1 replays 1")
    assert told.endswith("s behind (limit 1 s)")
    assert before == after < 4_000
    assert own.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 4_000)]
    assert own.rows("SELECT state, waits_for FROM migration.backfill") == [("done", None)]
    assert capsys.readouterr().err.count("waits: replica r1") == 1


def test_waits_for_nobody_where_nobody_suffers(
    own: Database, replica: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the settings as they come, a replica that replays, an archive that works and a slot that is read: no wait."""
    own.rows("SELECT pg_create_physical_replication_slot('fresh', true)")
    begin(project, SLOW, rows=ROWS.format(count=4_000))

    project.upgrade()
    caught_up(own, replica)

    assert "waits" not in capsys.readouterr().err
    assert replace(replica, name=own.name).value("SELECT sum(n) FROM t") == 4_000


def test_writes_no_faster_than_a_replica_replays(own: Database, replica: Database, project: Project) -> None:
    """A replica at a tenth of its speed: measured by a clock that is written at one end and read at the other, it is never
    further behind than the limit and a batch."""
    project.configure(backfill_lag="1s", backfill_target="100ms")
    table = f"{TABLE}; CREATE TABLE clock (at timestamptz); INSERT INTO clock VALUES (clock_timestamp())"
    begin(project, 'op.backfill("t", set={"note": "repeat(\'x\', 300)"})', table=table, rows=ROWS.format(count=100_000))
    end = threading.Event()
    lags: list[float] = []

    def tick() -> None:
        with own.connect() as connection, connection.cursor() as cursor:
            while not end.wait(0.02):
                cursor.execute("UPDATE clock SET at = clock_timestamp()")

    def measure() -> None:
        with replace(replica, name=own.name).connect() as connection, connection.cursor() as cursor:
            while not end.wait(0.02):
                cursor.execute("SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM clock")
                lags.extend(cursor.fetchone())

    def brake() -> None:
        with replica.connect() as connection, connection.cursor() as cursor:
            while not end.wait(0.004):
                cursor.execute("SELECT pg_wal_replay_pause()")
                end.wait(0.036)
                cursor.execute("SELECT pg_wal_replay_resume()")

    threads = [threading.Thread(target=one) for one in (tick, measure, brake)]
    own.rows("UPDATE clock SET at = clock_timestamp()")
    caught_up(own, replica)
    for thread in threads:
        thread.start()
    try:
        project.upgrade()
        caught_up(own, replica)
    finally:
        end.set()
        for thread in threads:
            thread.join()
        replica.rows("SELECT pg_wal_replay_resume()")

    assert len(lags) > 50
    assert 0.3 < max(lags) < 1.5  # 1 s and a batch; 3.7 s where the limit is an hour


def test_an_idle_replica_is_not_waited_for(own: Database, replica: Database) -> None:
    """It has replayed everything, and its replay_lag still says what the last record took, which was too long."""
    own.rows(TABLE)
    with asking(own, SECOND_BEHIND) as asked:
        before = asked.reasons()
        replica.rows("SELECT pg_wal_replay_pause()")
        own.rows("INSERT INTO t VALUES (1)")
        told = awaited(lambda: [one for one in asked.reasons() if "replays" in one])[0]
        replica.rows("SELECT pg_wal_replay_resume()")
        goes_on = asked.goes_on()
        lag = own.value("SELECT extract(epoch FROM replay_lag)::float8 FROM pg_stat_replication")
        after = asked.reasons()

    assert (before, goes_on, after) == ([], True, [])
    assert told.startswith("replica r1 replays 1")
    assert lag is None or lag > 0.5  # of the last record, which is not the oldest


def test_a_replica_that_may_lie_behind_is_not_waited_for(own: Database, replica: Database) -> None:
    """One that is delayed on purpose is named in the settings; without that it is waited for."""
    own.rows(TABLE)
    with asking(own, replace(SECOND_BEHIND, lag_except=("r1",))) as excepted, asking(own, SECOND_BEHIND) as asked:
        excepted.reasons()
        asked.reasons()
        replica.rows("SELECT pg_wal_replay_pause()")
        try:
            own.rows("INSERT INTO t VALUES (1)")
            told = asked.waits()
            meanwhile = excepted.reasons()
        finally:
            replica.rows("SELECT pg_wal_replay_resume()")

    assert told.startswith("replica r1")
    assert meanwhile == []


def test_who_may_not_see_replicas_is_told_so_once(own: Database, ordinary: Database, replica: Database) -> None:
    """A role without pg_read_all_stats sees that there is one and not how far it is: said once, and with the right it waits."""
    ordinary.rows(TABLE)
    replica.rows("SELECT pg_wal_replay_pause()")
    try:
        with asking(ordinary, SECOND_BEHIND) as asked:
            unseen = [asked.reasons() for _ in range(3)]
            own.rows(f"GRANT pg_read_all_stats TO {ordinary.user}; INSERT INTO t VALUES (1)")
            told = asked.waits()
    finally:
        replica.rows("SELECT pg_wal_replay_resume()")

    assert unseen == [[], [], []]
    assert told.startswith("replica r1")
    hint = "GRANT pg_read_all_stats to the role that migrates"
    assert asked.said == [f"cannot see how far replicas lie behind: {hint}", f"waits: {told}"]


def test_a_subscription_counts_as_a_replica(own: Database, cluster: embedded.Server) -> None:
    """A subscriber that cannot apply, for its table is locked, is waited for under the subscription's name."""
    other = replace(own, name=f"{own.name}_sub")
    own.rows(f"CREATE DATABASE {other.name}")
    for one in (own, other):
        one.rows(TABLE)
    own.rows("CREATE PUBLICATION p FOR TABLE t")
    own.rows(f"SELECT pg_create_logical_replication_slot('{own.name}', 'pgoutput')")
    other.rows(
        f"CREATE SUBSCRIPTION s1 CONNECTION 'host={cluster.socket} port={cluster.port} user=postgres dbname={own.name}' "
        f"PUBLICATION p WITH (create_slot = false, slot_name = {own.name}, copy_data = false)"
    )
    try:
        awaited(lambda: own.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 's1'"))
        with asking(own, SECOND_BEHIND) as asked:
            before = asked.goes_on() and asked.reasons()
            with other.connect(autocommit=False) as connection, connection.cursor() as cursor:
                cursor.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
                own.rows("INSERT INTO t VALUES (1)")
                told = asked.waits()
            goes_on = asked.goes_on()
    finally:
        other.rows("ALTER SUBSCRIPTION s1 DISABLE; ALTER SUBSCRIPTION s1 SET (slot_name = NONE); DROP SUBSCRIPTION s1")
        own.rows(
            f"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = '{own.name}'"
        )
        awaited(lambda: own.value(f"SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{own.name}'"))
        own.rows(f"SELECT pg_drop_replication_slot('{own.name}')")
        own.rows(f"DROP DATABASE {other.name} WITH (FORCE)")

    assert told.startswith("replica s1 ")
    assert (before, goes_on) == ([], True)


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("replays", "behind", "needs"),
    [
        (lambda at, written: written, 0, 0),
        (lambda at, written: written - MEGABYTE // 5, 0.2, 0),
        (lambda at, written: written // 2, 5, 10),
        (lambda at, written: written if at < 8 else MEGABYTE * 8, 2, 0),
        (lambda at, written: 0, 10, 0),
        (lambda at, written: written - 3 * MEGABYTE, 3, 3),
    ],
    ids=["at once", "keeps up", "half as fast", "stops", "stands still", "is delayed"],
)
def test_how_far_a_replica_is_behind(replays: Callable[[float, int], int], behind: float, needs: float) -> None:
    """After ten seconds of a megabyte each: what it has not replayed is so old, and so long it will take to."""
    replay = Replay(10)

    for look in range(51):
        at, written = look / 5, look * MEGABYTE // 5
        replayed = max(0, replays(at, written))
        replay.wrote(written, at)
        needed = replay.needs(1, replayed, written, written, at)

    assert replay.behind(replayed, None, at) == pytest.approx(behind, abs=0.3)
    assert needed == pytest.approx(needs, abs=0.5)


def test_positions_are_given_up_and_the_lag_is_still_told() -> None:
    """A replica that stands still for two hours is two hours behind, with a bounded number of positions."""
    replay = Replay(10)

    for look in range(36_000):
        replay.wrote(look, look / 5)
        replay.forget({1: 0, 2: min(look, 35_000)})

    assert len(replay.written) <= 4096
    assert replay.behind(0, None, 7200) == pytest.approx(7200, abs=1)
    assert replay.behind(35_000, None, 7200) == pytest.approx(200, abs=1)


def segments(database: Database, count: int) -> None:
    """Write so many segments of WAL, 16 MB each as far as positions go."""
    for _ in range(count):
        database.rows("SELECT pg_logical_emit_message(false, 'a test', ''); SELECT pg_switch_wal()")


def test_a_slot_that_keeps_too_much(own: Database) -> None:
    """What it keeps of the WAL that was written since the backfill began is waited for; what it kept before is not."""
    own.rows(TABLE)
    own.rows("SELECT pg_create_physical_replication_slot('forgotten', true)")
    segments(own, 6)

    with asking(own, replace(LIMITS, slot_wal=64 * MB)) as asked, asking(own) as wide:
        before, wide_before = asked.reasons(), wide.reasons()
        segments(own, 3)
        below = asked.reasons()
        segments(own, 2)
        [above], wide_after = asked.reasons(), wide.reasons()
        own.rows("SELECT pg_drop_replication_slot('forgotten')")
        after = asked.reasons()

    assert (before, below, after, wide_before, wide_after) == ([], [], [], [], [])
    assert above.startswith("slot forgotten (nobody reads it) keeps ")
    assert above.endswith(" MB of WAL that were written meanwhile (limit 64 MB)")


def test_a_slot_that_is_about_to_be_lost(own: Database) -> None:
    """Its WAL is not kept any more: waited for at once, and no longer than the hold; one that was lost before is nobody's."""
    own.rows(TABLE)
    own.rows("SELECT pg_create_physical_replication_slot('late', true)")
    own.rows("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    own.rows("SELECT pg_reload_conf()")

    with asking(own, replace(LIMITS, hold=300)) as asked:
        before = asked.reasons()
        segments(own, 4)
        status = awaited(lambda: own.value("SELECT nullif(wal_status, 'reserved') FROM pg_replication_slots"))
        told = asked.waits()
        goes_on = asked.goes_on()
    own.rows("CHECKPOINT")
    lost = own.value("SELECT wal_status FROM pg_replication_slots")
    with asking(own) as another:
        ignored = another.reasons()

    assert (status, before, goes_on) == ("unreserved", [], True)
    assert told.startswith("slot late (nobody reads it) is unreserved: its WAL is not kept any more, given way for 0")
    assert (lost, ignored) == ("lost", [])


def test_an_archive_that_does_not_keep_up(own: Database) -> None:
    """Its command fails: given way to for a while, and beyond so many segments until they are archived."""
    own.rows(TABLE)
    current = own.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    segments(own, 1)
    awaited(lambda: own.value("SELECT last_archived_wal >= %s FROM pg_stat_archiver", current))
    with asking(own, replace(LIMITS, archive_queue=3, hold=300)) as asked:
        before = asked.goes_on() and asked.reasons()
        own.rows("ALTER SYSTEM SET archive_command = 'false'")
        own.rows("SELECT pg_reload_conf()")
        segments(own, 1)
        failing = asked.waits()
        held = asked.goes_on()
        segments(own, 5)
        [queue] = asked.reasons()
        own.rows("ALTER SYSTEM SET archive_command = 'true'")
        own.rows("SELECT pg_reload_conf()")
        goes_on = asked.goes_on()

    assert (before, held, goes_on) == ([], True, True)
    assert failing.startswith("the archive fails at 0")
    assert "WAL segments wait to be archived (limit 3)" in queue


@contextmanager
def vacuum(database: Database, table: str = "t") -> Iterator[int]:
    """A vacuum that is at work for as long as this lasts."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; SET vacuum_cost_page_hit = 10000")
        pid = connection.info.backend_pid

        def run() -> None:
            with pytest.raises(psycopg2.errors.QueryCanceled):
                cursor.execute(f"VACUUM (TRUNCATE false, INDEX_CLEANUP off) {table}")

        thread = threading.Thread(target=run)
        thread.start()
        try:
            awaited(lambda: database.value("SELECT count(*) FROM pg_stat_progress_vacuum WHERE pid = %s", pid))
            yield pid
        finally:
            connection.cancel()
            thread.join()


def test_waits_for_a_vacuum_of_the_table(own: Database, project: Project) -> None:
    """No batch is written while it works, and when it has gone they go on."""
    begin(project, SLOW, table=WIDE, rows=ROWS.format(count=4_000))

    with upgrading(project):
        goes_on_writing(own)
        with vacuum(own):
            told = waits_for(own)
            before = written(own)
            awaited(lambda: waits_for(own) != told)
            after = written(own)

    assert told.startswith("a vacuum works on t, given way for 0")
    assert told.endswith("(limit 10 min)")
    assert before == after < 4_000
    assert own.value("SELECT sum(n) FROM t") == 4_000


def test_a_vacuum_is_given_way_to_no_longer_than_the_hold(
    own: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not end: after the hold the backfill goes on beside it, to its end, and says so once."""
    project.configure(backfill_hold="700ms")
    begin(project, SLOW, table=WIDE, rows=ROWS.format(count=2_000))

    with vacuum(own):
        project.upgrade()

    said = capsys.readouterr().err
    assert own.value("SELECT sum(n) FROM t") == 2_000
    assert said.count("waits: a vacuum works on t") == 1
    assert said.count("goes on after a hold of 0.7 s: a vacuum works on t") == 1


def test_which_vacuum_is_given_way_to(own: Database, ordinary: Database) -> None:
    """One of this table, seen by a role without any right too; none of another one, and no lock like a vacuum's."""
    ordinary.rows(f"{WIDE}; {ROWS.format(count=1000)}; CREATE TABLE other (LIKE t) WITH (fillfactor = 10)")
    ordinary.rows("INSERT INTO other TABLE t")

    with asking(ordinary) as asked:
        with vacuum(own):
            [told] = asked.reasons()
        with vacuum(own, "other"):
            other = asked.reasons()
        with own.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")
            lock = asked.reasons()

    assert told.startswith("a vacuum works on t, given way for 0")
    assert (other, lock) == ([], [])


def test_a_vacuum_against_wraparound_is_named(own: Database, ordinary: Database) -> None:
    """Autovacuum comes for the oldest rows, and is given way to as well; only who may see it is told what it is for."""
    own.rows(f"{WIDE}; {ROWS.format(count=1000)}; ALTER TABLE t SET (autovacuum_freeze_max_age = 100000, "
             "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)")  # fmt: skip
    own.rows("DO $$BEGIN FOR i IN 1..100001 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END$$")

    with asking(own) as asked, asking(ordinary) as other:
        before = asked.reasons()
        own.rows("ALTER SYSTEM SET vacuum_cost_page_hit = 10000")
        own.rows("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        own.rows("SELECT pg_reload_conf()")
        told, unseen = asked.waits(), other.waits()

    assert before == []
    assert told.startswith("a vacuum (to prevent wraparound) works on t, given way for 0")
    assert unseen.startswith("a vacuum works on t, given way for 0")


@pytest.mark.long
def test_waits_while_somebody_needs_the_table(own: Database, project: Project) -> None:
    """Somebody waits for the whole table behind a reader: no batch goes before, and batches go on when that is done."""
    begin(project, SLOW, rows=ROWS.format(count=4_000))
    got = threading.Event()

    def change() -> None:
        own.rows("ALTER TABLE t ADD COLUMN extra int")
        got.set()

    thread = threading.Thread(target=change)
    with upgrading(project), own.connect(autocommit=False) as reader, reader.cursor() as cursor:
        goes_on_writing(own)
        cursor.execute("SELECT FROM t LIMIT 1")
        thread.start()
        told = waits_for(own)
        before = written(own)
        awaited(lambda: waits_for(own) != told)
        after, early = written(own), got.is_set()
        reader.rollback()
        thread.join()

    assert "waits for AccessExclusiveLock on t, given way for 0" in told
    assert (before, early) == (after, False)
    assert own.value("SELECT sum(n) FROM t") == 4_000


@pytest.mark.parametrize(
    ("mode", "in_the_way"),
    [("ACCESS SHARE", False), ("ROW EXCLUSIVE", False), ("SHARE", True), ("EXCLUSIVE", True)],
)
def test_which_locks_are_given_way_to(own: Database, mode: str, in_the_way: bool) -> None:
    """Those under which nobody can write a row; not those of who reads and writes."""
    own.rows(TABLE)

    with asking(own) as asked:
        with own.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE t IN {mode} MODE")
            held = asked.reasons()
        goes_on = asked.goes_on()

    assert [" holds " in reason for reason in held] == [True] * in_the_way
    assert goes_on


def dead(database: Database, times: int) -> None:
    """Write each row so often, and wait until the statistics say so."""
    for _ in range(times):
        database.rows("UPDATE t SET n = n + 1")
    awaited(lambda: database.value("SELECT pg_stat_get_dead_tuples('t'::regclass)") >= 12_000 * times)


def test_dead_rows_that_autovacuum_has_not_come_to(own: Database) -> None:
    """Written once, a table is half dead, and nobody waits; twice is too much, for a while, until a vacuum was there."""
    own.rows(f"{TABLE}; {ROWS.format(count=12_000)}")

    with asking(own, replace(LIMITS, hold=300)) as asked:
        dead(own, 1)
        once = asked.reasons()
        dead(own, 1)
        told = asked.waits()
        held = asked.goes_on()
        own.rows("ALTER TABLE t SET (autovacuum_enabled = off)")
    with asking(own) as off:
        nobody_comes = off.reasons()
        own.rows("ALTER TABLE t RESET (autovacuum_enabled)")
        again = off.reasons()
        own.rows("VACUUM t")
        after = off.goes_on()

    assert (once, held, nobody_comes, after) == ([], True, [], True)
    assert told.startswith("67% of the rows of t are dead (limit 60%), given way for 0")
    assert len(again) == 1


def test_dead_rows_where_the_statistics_began_anew(own: Database) -> None:
    """After a crash, a failover or a restore nothing is counted of the rows that were there: they still live."""
    own.rows(f"{TABLE}; {ROWS.format(count=40_000)}")
    own.rows("ANALYZE t")
    awaited(lambda: own.value("SELECT pg_stat_get_live_tuples('t'::regclass)") >= 40_000)
    own.rows("SELECT pg_stat_reset_single_table_counters('t'::regclass)")
    own.rows("UPDATE t SET n = n + 1 WHERE id <= 12000")
    awaited(lambda: own.value("SELECT pg_stat_get_dead_tuples('t'::regclass)") >= 12_000)

    with asking(own) as asked:
        assert own.value("SELECT pg_stat_get_live_tuples('t'::regclass)") < 12_000
        assert asked.reasons() == []


def test_dead_rows_where_autovacuum_is_off(empty: Database) -> None:
    """On a server without it nobody would ever come: no reason."""
    empty.rows(f"{TABLE}; {ROWS.format(count=12_000)}")
    dead(empty, 2)

    with asking(empty) as asked:
        assert empty.value("SHOW autovacuum") == "off"
        assert asked.reasons() == []


def test_small_batches_do_not_ask_each_time(own: Database, cluster: embedded.Server) -> None:
    """Half a batch's time goes by between two questions, unless there is something to wait for."""
    own.rows(TABLE)
    with asking(own, replace(LIMITS, target=600_000)) as asked:
        first = asked.reasons()
        with own.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE t IN SHARE MODE")
            unasked = asked.reasons()
            with asking(own, replace(LIMITS, target=600_000)) as another:
                waits = another.reasons()
        gone = another.feedback.reasons(asked.connection, asked.leaf)

    assert (first, unasked, gone) == ([], [], [])
    assert len(waits) == 1


def test_what_cannot_be_asked_is_said_once(own: Database, ordinary: Database) -> None:
    """A right is missing: the backfill goes on, says it once, and still sees everything else."""
    ordinary.rows(f"{WIDE}; {ROWS.format(count=1000)}")
    own.rows("REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn() FROM PUBLIC")

    with asking(ordinary) as asked:
        first, second = asked.reasons(), asked.reasons()
        with vacuum(own):
            [told] = asked.reasons()

    assert (first, second) == ([], [])
    assert told.startswith("a vacuum works on t")
    assert asked.said == [
        "does not see how far the WAL reaches: permission denied for function pg_current_wal_flush_lsn",
        f"waits: {told}",
    ]

"""What it costs to tell what a database is like: the fingerprint next to ``pg_dump -s``, and of what one step has touched.

One question to the catalog, whatever the number of tables: its time is to grow with what there is, and not faster.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from bench.side_by_side import ROOT, alembic, create_database, medians, server
from mcp_planner_schema import embedded
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.fingerprint import Lines, at_once, live, of, query, read, together
from mcp_planner_schema.guard.postcheck import execute, pinned

SIZES = (500, 1000, 2000)
RUNS = 7
# Fourteen columns, a key, a foreign key to the table before, a check, two indexes, a comment.
TABLES = """
DO $$
BEGIN
    FOR n IN {first}..{last} LOOP
        EXECUTE format($table$
            CREATE TABLE t%1$s (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, before_id bigint, name text NOT NULL,
                kind varchar(20) NOT NULL DEFAULT 'a' CONSTRAINT t%1$s_kind CHECK (kind IN ('a', 'b', 'c')), a int, b int, c text,
                d numeric(10, 2) DEFAULT 0, e jsonb NOT NULL DEFAULT '{{}}', f uuid DEFAULT gen_random_uuid(), g boolean, h date,
                created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
            CREATE INDEX t%1$s_name ON t%1$s (name);
            CREATE INDEX t%1$s_open ON t%1$s (kind, created_at) WHERE NOT g;
            ALTER TABLE t%1$s ADD CONSTRAINT t%1$s_before FOREIGN KEY (before_id) REFERENCES t%2$s;
            COMMENT ON TABLE t%1$s IS 'a table'
            $table$, n, greatest(n - 1, 1));
    END LOOP;
END $$
"""
_OF_TABLE = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c WHERE c.oid = %(table)s::regclass
UNION SELECT i.indexrelid::bigint FROM pg_catalog.pg_index i WHERE i.indrelid = %(table)s::regclass
"""


def main() -> None:
    """Print milliseconds for the planner's schema and for 500 to 2,000 tables."""
    print(f"\nfingerprint of the whole catalog (medians of {RUNS} interleaved runs; load {os.getloadavg()[0]:.1f})")
    print("| schema | lines | round trips | new connection, ms | same connection, ms | the server's part, ms | one table, ms "
          "| pg_dump -s, ms | dump / new |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    with server() as where:
        url = create_database(where, "planner")
        alembic(ROOT, url, "upgrade", "head")
        _measure(where, "planner", "projects", "the planner's at head")
        for size in SIZES:
            name = f"tables_{size}"
            create_database(where, name)
            with create_engine(where.url(name), poolclass=NullPool).connect() as connection:
                for first in range(1, size, 100):
                    execute(connection, TABLES.format(first=first, last=first + 99))
                    connection.commit()
                execute(connection, "ANALYZE")
                connection.commit()
            _measure(where, name, f"t{size // 2}", f"{size:,} tables")


def _measure(where: embedded.Server, database: str, table: str, shown: str) -> None:
    engine = create_engine(where.url(database), poolclass=NullPool).execution_options(isolation_level="AUTOCOMMIT")
    within = create_engine(where.url(database), poolclass=NullPool)
    dump = [embedded.binary("pg_dump"), "-s", "-h", where.socket, "-p", str(where.port), "-U", "postgres", database]
    with engine.connect() as connection, within.connect() as step:
        touched = connection.exec_driver_sql(_OF_TABLE, {"table": table}).scalars().all()
        found, trips = _listened(connection)
        contestants: dict[str, Callable[[], None]] = {
            "new": lambda: _told(engine.connect()),
            "same": lambda: _told(connection, close=False),
            "server": lambda: _asked(step),
            "table": lambda: read(step, "migration", touched) and None,
            "dump": lambda: subprocess.run(dump, check=True, capture_output=True) and None,
        }
        ms = {name: 1000 * seconds for name, seconds in medians(RUNS, contestants).items()}
    print(
        f"| {shown} | {len(found):,} | {trips} | {ms['new']:.0f} | {ms['same']:.0f} | {ms['server']:.0f} | "
        f"{ms['table']:.1f} | {ms['dump']:.0f} | {ms['dump'] / ms['new']:.1f} |"
    )


def _told(connection: Connection, *, close: bool = True) -> None:
    of(together(at_once(connection, "migration")))
    if close:
        connection.close()


class _Notices(list[str]):
    """SQLAlchemy empties what it has logged; here it stays."""

    def __setitem__(self, *_: object) -> None:
        pass


def _listened(connection: Connection) -> tuple[Lines, int]:
    """The catalog, and how many messages the server says it took."""
    connection.exec_driver_sql("SET client_min_messages = log; SET log_statement = 'all'")
    heard = connection.connection.dbapi_connection.notices = _Notices()  # type: ignore[union-attr]
    found = together(at_once(connection, "migration"))
    trips = sum(one.startswith("LOG:  statement: ") for one in heard)
    connection.exec_driver_sql("RESET log_statement; RESET client_min_messages")
    return found, trips


def _asked(connection: Connection) -> None:
    """The question by itself, its rows thrown away."""
    values = {"own": own("migration"), "without": [], "named": [], "secret": query.SECRET}
    with pinned(connection, **live.PREAMBLE):
        connection.exec_driver_sql(query.text(18, only=False), values).all()

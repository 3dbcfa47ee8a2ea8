"""``make migrate-export FORMAT=prisma``: what the database is like, in words that Prisma's own programs accept.

Prisma's validator, its formatter and its ``db pull`` come from ``PLANNER_TEST_PRISMA``; what is committed below
``prisma_schemas`` was accepted by them, and is compared where they cannot be had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from sqlalchemy import Engine

from mcp_planner_schema import cli
from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.interop.prisma import export, query
from tests import prisma
from tests.conftest import Database, Project, _clone
from tests.prisma import Prisma

SCHEMAS = Path(__file__).parent / "prisma_schemas"
real = pytest.mark.skipif(bool(prisma.MISSING), reason=prisma.MISSING)
pulls = pytest.mark.skipif(bool(prisma.CANNOT_PULL), reason=prisma.CANNOT_PULL)


def exported(database: Database) -> str:
    """The text of schema.prisma."""
    engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with connect.opened(engine) as connection:
        return export.schema(connection, "migration", {("public", "alembic_version")})


@pytest.fixture(scope="module")
def program() -> Iterator[Prisma]:
    """Prisma, as long as this file's tests."""
    with Prisma() as running:
        yield running


@pytest.fixture
def filled(new_database: Callable[[], Database]) -> Callable[[str], Database]:
    """Makes a database from one of the committed schemas."""

    def fill(name: str) -> Database:
        made = new_database()
        made.rows((SCHEMAS / f"{name}.sql").read_text(encoding="utf-8"))
        return made

    return fill


def block(text: str, word: str) -> str:
    """One model or enum with what is said above it."""
    found = re.search(rf"((?:^//.*\n)*^{re.escape(word)} {{\n(?:.*\n)*?}}\n)", text, re.MULTILINE)
    assert found, word
    return found[1]


def spoken(text: str) -> list[str]:
    """The lines that say something, without what is a comment, and with single spaces."""
    lines = (re.sub(r"\s+", " ", line.strip()) for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("//")]


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["every_kind", "several"])
def test_the_file_is_the_committed_one(name: str, filled: Callable[[str], Database]) -> None:
    """Types, keys, relations, defaults, indexes, names and all that is left out: byte for byte, and twice the same."""
    database = filled(name)
    committed = (SCHEMAS / f"{name}.prisma").read_text(encoding="utf-8")

    first, again = exported(database), exported(database)

    assert first == committed and again == first


@real
@pytest.mark.parametrize("name", ["every_kind", "several"])
def test_the_committed_file_is_valid_and_well_formed(name: str, program: Prisma) -> None:
    """Prisma's validator accepts it, and its formatter leaves each byte where it is."""
    committed = (SCHEMAS / f"{name}.prisma").read_text(encoding="utf-8")

    checked = program.check(committed)

    assert checked.error is None and checked.formatted == committed


@real
def test_the_planners_own_schema(database: Database, program: Prisma) -> None:
    """At head: every table but Alembic's and the guard's, relations both ways, and what it has besides stands in comments."""
    tables = {name for (name,) in database.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND relname <> 'alembic_version'"
    )}  # fmt: skip

    text = exported(database)
    checked = program.check(text)

    assert checked.error is None and checked.formatted == text
    assert {one["table"] for one in checked.models["models"]} == tables
    tasks = block(text, "model tasks")
    assert re.search(r"^  other_tasks +tasks\[\] +@relation\(\"tasksTotasks\"\)$", tasks, re.MULTILINE)
    assert 'onDelete: Cascade, onUpdate: NoAction, map: "fk_tasks_project_id_projects"' in tasks
    assert "//   partial index: CREATE UNIQUE INDEX uq_tasks_project_id_title_root" in tasks
    assert "disputes[]" in block(text, "model steps")  # one is pending at a time, but there may be many
    assert "PARTITION BY RANGE (occurred_at)" in block(text, "model audit_logs")
    assert "migration" not in text.replace("make migrate-export", "").replace("by migrations", "")


# --- like Prisma's own ------------------------------------------------------------------------------------------------


@pulls
def test_it_reads_as_db_pull_does(database: Database, program: Prisma) -> None:
    """The planner's schema as ``prisma db pull`` writes it, but for partial indexes, which need a preview feature there."""
    pulled = spoken(program.pull(local(database)))

    ours = spoken(exported(database))

    start = pulled.index("model alembic_version {")
    del pulled[start : pulled.index("}", start) + 1]
    same = [line.replace("disputes disputes?", "disputes disputes[]") for line in pulled if " where: raw(" not in line]
    assert ours == same


@pulls
def test_several_schemas_read_as_db_pull_does(filled: Callable[[str], Database], program: Prisma) -> None:
    """Models, enums and keys across schemas, and the names that are there twice."""
    database = filled("several")

    pulled = spoken(program.pull(local(database), ["app", 'odd "schema', "public"]))

    assert spoken(exported(database)) == pulled


@pulls
def test_what_differs_from_db_pull_is_known(filled: Callable[[str], Database], program: Prisma) -> None:
    """Everything else of a schema with every kind is word for word what ``prisma db pull`` writes."""
    database = filled("every_kind")
    pulled = spoken(program.pull(local(database)))

    ours = spoken(exported(database))

    differing = (SCHEMAS / "every_kind.differs").read_text(encoding="utf-8").split("\n")
    assert changed(pulled, ours) == [line for line in differing if line and not line.startswith("#")]


@pulls
def test_migrate_diff_finds_nothing_to_do(
    database: Database, filled: Callable[[str], Database], program: Prisma
) -> None:
    """For ``prisma migrate diff`` the database is what the file says: of the planner, and of several schemas."""
    several = filled("several")

    scripts = [program.diff(local(one), exported(one)) for one in (database, several)]

    assert scripts == ["", ""]


@pulls
def test_what_migrate_diff_would_change_is_what_prisma_has_no_words_for(
    filled: Callable[[str], Database], program: Prisma
) -> None:
    """Of a schema with every kind it is each time something that the file lists, and nothing else."""
    database = filled("every_kind")
    text = exported(database)

    script = program.diff(local(database), text)

    assert f"{script}\n" == (SCHEMAS / "every_kind.diff.sql").read_text(encoding="utf-8")
    listed = text.partition("// What this database has, and Prisma has no words for:")[2]
    named = re.findall(r'CONSTRAINT "(.*?)"|INDEX "(.*?)"|COLUMN "(.*?)"|DROP TABLE "(.*?)"', script)
    said = {next(filter(None, names)) for names in named} - {"_friends_AB_pkey", "_friends_AB_unique"}
    assert {name for name in said if not re.search(rf"\b{name}$", listed, re.MULTILINE)} == {"d_texts"}


def local(database: Database) -> str:
    """Its URL as Prisma's adapter understands it."""
    return database.url.replace("@/", "@localhost/")


def changed(before: list[str], after: list[str]) -> list[str]:
    """What a comparison line by line shows."""
    from difflib import ndiff

    return [line for line in ndiff(before, after) if line[0] in "-+"]


# --- names that would break out of a file -----------------------------------------------------------------------------

HOSTILE = [
    'a"b', "a\\b", 'a\\"b', "}\nmodel evil {\n  id Int @id\n}", "\r\n}\r\n", "*/ evil() /*", "// x", "/// x\n/// y",
    '")\n@@map("x")', "\t", "\u2028", "\u0085", "\x01", "\x7f", "\ufeff", "\u202e", "%s %(own)s", "'; DROP TABLE x; --", "$$",
    " ", "🙂", "ünï", "1st", "__proto__", "constructor", "model", "enum", "@id", "@@ignore", "Unsupported", "[]", "?", "a" * 63,
    "é" * 31, "null",
]  # fmt: skip


@real
def test_no_name_default_or_comment_breaks_out_of_the_file(
    new_database: Callable[[], Database], program: Prisma
) -> None:
    """Quotes, line ends, brackets and comment marks in every place that a name has: Prisma reads each as it is."""
    database, tables = new_database(), []
    with database.connect() as connection, connection.cursor() as cursor:
        for number, name in enumerate(HOSTILE):
            other = f"{number} {name}"[:33]
            said = {
                "name": sql.Identifier(name),
                "other": sql.Identifier(other),
                "text": sql.Literal(name),
            }
            cursor.execute(
                sql.SQL(
                    "CREATE TYPE {other} AS ENUM ({text}, 'x');"
                    "CREATE TABLE {name} (id int PRIMARY KEY, {other} text DEFAULT {text} CHECK ({other} <> {text}),"
                    " kind {other} DEFAULT {text}, list text[] DEFAULT ARRAY[{text}], at int REFERENCES {name},"
                    " made text DEFAULT lower({text}));"
                    "CREATE INDEX ON {name} ({other}) WHERE {other} <> {text};"
                    "CREATE VIEW {view} AS SELECT {text}::text AS t FROM {name};"
                    "COMMENT ON TABLE {name} IS {text}; COMMENT ON COLUMN {name}.{other} IS {text};"
                    "COMMENT ON TYPE {other} IS {text}"
                ).format(**said, view=sql.Identifier(f"v{other}"[:33]))
            )
            tables.append((name, other))

    text = exported(database)
    checked = program.check(text)

    assert checked.error is None and checked.formatted == text
    assert {one["table"] for one in checked.models["models"]} == {name for name, _ in tables}
    assert {one["type"]: one["values"] for one in checked.models["enums"]} == {
        other: [name, "x"] for name, other in tables
    }
    for model in checked.models["models"]:
        other = dict(tables)[model["table"]]
        columns = [column for _, column in model["fields"] if column is not None]
        assert columns == ["id", other, "kind", "list", "at", "made"]


# --- any schema -------------------------------------------------------------------------------------------------------

_BROKEN = [name.encode()[:60].decode(errors="ignore") for name in HOSTILE]
NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "id", "users", "a b", "a-b", "a_b", "A", "_A", "_AToB", "B", *_BROKEN]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15),
)
TYPES = st.sampled_from(
    ["int", "smallint", "bigint", "text", "varchar(20)", "char(3)", "numeric", "numeric(10,2)", "float8", "real", "boolean",
     "uuid", "jsonb", "json", "bytea", "date", "time", "timestamp", "timestamptz(3)", "inet", "cidr", "interval", "bit(3)",
     "varbit", "xml", "money", "oid", "tsvector", "int4range", "point", "int[]", "text[]", "numeric(10,2)[]", "timestamptz[]",
     "int4range[]", "name"]
)  # fmt: skip
DEFAULTS = st.sampled_from(
    [None, None, "NULL", "'1'", "'a'", "'{}'", "now()", "'it''s \"\\'", "gen_random_uuid()", "1", "-1", "1.5", "true", "'[]'",
     "'{a,NULL}'", "ARRAY['x','y\"']", "ARRAY[1,2]", "E'a\\nb'", "'\\x00ff'", "CURRENT_DATE", "1 + 1", "'1e300'", "'NaN'"]
)  # fmt: skip
COLUMNS = st.tuples(NAMES, TYPES, st.booleans(), DEFAULTS)
TABLES = st.tuples(
    NAMES,
    st.lists(COLUMNS, min_size=1, max_size=6, unique_by=lambda column: column[0]),
    st.sampled_from(["", "PRIMARY KEY", "UNIQUE"]),
    st.integers(1, 3),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["btree", "gin", "gist", "hash", "brin", "spgist"])), max_size=3
    ),
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(1, 2),
            st.sampled_from(["CASCADE", "SET NULL", "NO ACTION"]),
        ),
        max_size=3,
    ),
    st.none() | NAMES,
)


@real
@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(TABLES, min_size=1, max_size=4), st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_whatever_a_schema_is_like_prisma_takes_it(
    any_database: Engine, program: Prisma, tables: list[Any], values: list[str]
) -> None:
    """300 schemas of any names, types, defaults, keys, indexes and relations: valid, well-formed, and no table is lost."""
    with any_database.connect() as connection:  # what is made is rolled back
        made = build(connection.connection.cursor(), tables, values)

        text = export.of(query.read(connection, "migration", []))

    checked = program.check(text)
    assert checked.error is None, f"{checked.error}\n{text}"
    assert checked.formatted == text
    many_to_many = {name for name in made if name.startswith("_")}
    assert len(made - many_to_many) <= len(re.findall(r"^model ", text, re.MULTILINE)) <= len(made)


def build(cursor: Any, tables: list[Any], values: list[str]) -> set[str]:
    """Make what PostgreSQL lets be made of it, each statement for itself; gives the names of the tables."""

    def tried(statement: Any) -> bool:
        cursor.execute("SAVEPOINT one")
        try:
            cursor.execute(statement)
        except psycopg2.Error:
            cursor.execute("ROLLBACK TO one")
            return False
        return True

    tried(sql.SQL("CREATE TYPE kind AS ENUM ({})").format(sql.SQL(", ").join(map(sql.Literal, values))))
    made: dict[str, list[str]] = {}
    for name, columns, key, width, _, _, comment in tables:
        lines = [sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind, _, _ in columns]
        keyed = sql.SQL(", ").join(sql.Identifier(column[0]) for column in columns[:width])
        constraint = [sql.SQL(key + " ({})").format(keyed)] if key else []
        table = sql.Identifier(name)
        if name in made or not (
            tried(sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(lines + constraint)))
            or tried(sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(lines)))
        ):
            continue
        made[name] = [column[0] for column in columns]
        for column, _, required, default in columns:
            altered = sql.SQL("ALTER TABLE {} ALTER {}").format(table, sql.Identifier(column))
            if required:
                tried(altered + sql.SQL(" SET NOT NULL"))
            if default is not None:
                tried(altered + sql.SQL(f" SET DEFAULT {default}"))
        if comment is not None:
            tried(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(comment)))
        tried(sql.SQL("ALTER TABLE {} ADD mood kind DEFAULT {}").format(table, sql.Literal(values[0])))
    names = list(made)
    for name, _, _, _, indexes, keys, _ in tables:
        for at, method in indexes if name in made else ():
            column = sql.Identifier(made[name][at % len(made[name])])
            tried(sql.SQL("CREATE INDEX ON {} USING {} ({})").format(sql.Identifier(name), sql.SQL(method), column))
        for at, other, width, action in keys if name in made else ():
            to = names[other % len(names)]
            own, referred = (
                sql.SQL(", ").join(map(sql.Identifier, (columns * 2)[first : first + width]))
                for columns, first in ((made[name], at % len(made[name])), (made[to], 0))
            )
            tried(
                sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {}").format(
                    sql.Identifier(name), own, sql.Identifier(to), referred, sql.SQL(action)
                )
            )
    return set(made)


@pytest.fixture(scope="module")
def any_database(empty_template: Any) -> Iterator[Engine]:
    """One empty database for all generated schemas."""
    with _clone(empty_template) as made:
        engine = connect.engine(parse(made.url).set(drivername="postgresql+psycopg2"), "the test")
        yield engine
        engine.dispose()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_file_once(
    empty: Database,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Into prisma/ or the folder that is named; one that is as it should be is not touched, another is written anew."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY)")
    monkeypatch.setattr(cli, "ROOT", project.folder)
    monkeypatch.chdir(tmp_path)

    codes = [cli.main(["migrate-export", "FORMAT=prisma"]) for _ in range(2)]
    first, told = (tmp_path / "prisma" / "schema.prisma").read_text(), capsys.readouterr().err
    empty.rows("ALTER TABLE t ADD more text")
    codes.append(cli.main(["migrate-export", "FORMAT=prisma", f"DIR={tmp_path / 'prisma'}"]))

    assert codes == [0, 0, 0]
    assert "one file written" in told and "nothing has changed" in told
    assert "more" not in first
    assert "  more String?\n" in (tmp_path / "prisma" / "schema.prisma").read_text()


def test_somebodys_own_file_is_kept(
    empty: Database,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A schema.prisma that was written by hand is not written over: exit code 2, and the file is what it was."""
    monkeypatch.setattr(cli, "ROOT", project.folder)
    path = tmp_path / "schema.prisma"
    path.write_text("generator client {\n}\n")

    code = cli.main(["migrate-export", "FORMAT=prisma", f"DIR={tmp_path}"])

    assert code == 2 and "would be lost" in capsys.readouterr().err
    assert path.read_text() == "generator client {\n}\n"


def test_a_revision_cannot_be_asked_for(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TO= is of golang-migrate's folder: exit code 2 and a sentence."""
    monkeypatch.setattr(cli, "ROOT", project.folder)

    code = cli.main(["migrate-export", "FORMAT=prisma", "TO=003"])

    assert code == 2 and "TO= names a revision" in capsys.readouterr().err


def test_what_other_tools_keep_and_the_guards_own_is_left_out(empty: Database) -> None:
    """Alembic's, Prisma's and golang-migrate's version tables, the guard's schema; one that only has the name is written."""
    empty.rows(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);"
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL);"
        "CREATE TABLE _prisma_migrations (id int PRIMARY KEY);"
        "CREATE SCHEMA migration CREATE TABLE history (id int PRIMARY KEY)"
    )

    text = exported(empty)

    assert re.findall(r"^model (\w+)", text, re.MULTILINE) == ["prisma_migrations"]
    assert "schemas" not in text


def test_the_version_table_is_the_one_that_alembic_finds(empty: Database, project: Project, tmp_path: Path) -> None:
    """By the role's search_path, and not in public: it is left out, and one of somebody's own of that name is not."""
    empty.rows(
        f"CREATE SCHEMA app; ALTER DATABASE {empty.name} SET search_path = app;"
        "CREATE TABLE public.alembic_version (id int PRIMARY KEY, theirs text)"
    )
    project.revision("001", "create_a", 'op.execute("CREATE TABLE app.a (id int PRIMARY KEY)")', 'op.drop_table("a")')
    project.upgrade()

    path = export.write(project.config(), tmp_path)

    assert path is not None and empty.value("SELECT version_num FROM app.alembic_version") == "001"
    text = path.read_text()
    assert re.findall(r"^model (\w+)", text, re.MULTILINE) == ["a", "alembic_version"] and "theirs" in text
    assert "version_num" not in text


def test_a_role_and_its_settings_do_not_change_the_file(filled: Callable[[str], Database]) -> None:
    """Its search_path, date style, time zone and byte format are not those that the texts are made with."""
    database = filled("every_kind")
    first = exported(database)
    role = f"odd_{database.name}"
    database.rows(
        f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET search_path = nowhere; ALTER ROLE {role} SET datestyle = 'German';"
        f"ALTER ROLE {role} SET timezone = 'Asia/Tokyo'; ALTER ROLE {role} SET bytea_output = 'escape';"
        f"ALTER ROLE {role} SET intervalstyle = 'iso_8601'; ALTER ROLE {role} SET extra_float_digits = -10"
    )

    try:
        again = exported(replace(database, user=role))
    finally:
        database.rows(f"DROP ROLE {role}")

    assert again == first

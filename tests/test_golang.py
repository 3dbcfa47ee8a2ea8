"""golang-migrate, without a server: folders out and in, to the byte, and what is refused by its name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_planner_schema import cli
from mcp_planner_schema.guard import sql_body, sql_file
from mcp_planner_schema.guard.findings import Refused, WrongUse
from mcp_planner_schema.interop import query
from mcp_planner_schema.interop.golang import export, folder, imported, row, versions
from tests.conftest import ROOT, Project


def write(into: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files, and no other."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name, content in files.items():
        (into / name).write_bytes(content)
    return into


# --- one file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wraps"),
    [
        ("BEGIN;\nCREATE TABLE a ();\nCOMMIT;\n", True),
        ("-- why\nbegin transaction ;CREATE TABLE a (); end", True),
        ("START TRANSACTION;\nSELECT 'COMMIT;';\nCOMMIT WORK;", True),
        ("/* BEGIN; */ BEGIN; DO $$ BEGIN COMMIT; END $$; COMMIT;\n-- COMMIT;", True),
        ("BEGIN;\nCREATE TABLE a ();\n", False),
        ("BEGIN; SELECT 1; COMMIT; SELECT 2;", False),
        ("BEGIN; SELECT 1; ROLLBACK; BEGIN; COMMIT;", False),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT;", False),
        ("BEGIN; SELECT 1; COMMIT AND CHAIN;", False),
        ("BEGIN; VACUUM a; COMMIT;", False),
    ],
)
def test_begin_and_commit_that_only_wrap_are_seen(text: str, wraps: bool) -> None:
    """Where they hold the whole file and do nothing else, the guard's own transaction does; else the file has its own."""
    read = query.read(text)

    assert (read.wrapped, read.transaction) == (wraps, wraps)


@pytest.mark.parametrize(
    ("text", "transaction"),
    [
        ("CREATE TABLE a (); CREATE TABLE b ();", True),
        ("CREATE INDEX CONCURRENTLY i ON a (id);", False),
        ("CREATE INDEX CONCURRENTLY i ON a (id); CREATE INDEX CONCURRENTLY j ON a (id)", False),
        ("COMMENT ON TABLE concurrently IS 'VACUUM';", True),
        ("VACUUM a;", False),
        ("", True),
    ],
)
def test_what_runs_in_no_transaction_is_seen(text: str, transaction: bool) -> None:
    """By what PostgreSQL refuses inside of one, told by the words of a statement and not of a literal."""
    assert query.read(text).transaction is transaction


def test_statements_are_split_where_they_end() -> None:
    """A semicolon in a literal, a body or a comment ends nothing; what stands before a statement stays with it."""
    text = "-- a; b\nSELECT ';' /* ; */;\n\nCREATE FUNCTION f() RETURNS int LANGUAGE sql AS $f$ SELECT 1; $f$ ;SELECT 2 -- c"

    assert query.split(text) == [
        "-- a; b\nSELECT ';' /* ; */",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $f$ SELECT 1; $f$",
        "SELECT 2 -- c",
    ]


def test_names_are_read_as_golang_migrate_reads_them() -> None:
    """The number, a title with whatever is in it, the direction; anything else does not count."""
    assert folder.name_of("20240131120000_a.up.b.down.sql") == folder.Name(20240131120000, "a.up.b", "down")
    assert folder.name_of("007_.up.sql") == folder.Name(7, "", "up")
    assert [folder.name_of(name) for name in ("README.md", "1.up.sql", "x_1.up.sql", "-1_a.up.sql", "1_a.sql")] == [
        None
    ] * 5
    assert folder.name_of(f"{2**64}_a.up.sql") is None


def test_the_lock_is_golang_migrates_own() -> None:
    """The number that GenerateAdvisoryLockId makes of a name, as its source computes it."""
    assert (row.lock_number("database_name"), row.lock_number("schema_name_1", "database_name")) == (
        1764327054,
        2453313553,
    )


# --- folders in ---------------------------------------------------------------------------------------------------------

GOOD = b"CREATE TABLE a ();\n"


@pytest.mark.parametrize(
    ("files", "name", "problem"),
    [
        ({"1_a.up.sql": b"\xef\xbb\xbf" + GOOD}, "1_a.up.sql", "byte order mark (UTF-8)"),
        ({"1_a.up.sql": "CREATE TABLE a ();".encode("utf-16")}, "1_a.up.sql", "byte order mark (UTF-16)"),
        ({"1_a.up.sql": GOOD, "1_a.down.sql": b"-- caf\xe9\n"}, "1_a.down.sql", "line 1 is not UTF-8 (byte 0xe9)"),
        ({"1_a.up.sql": b"SELECT 1;\r\nSELECT 2;\n"}, "1_a.up.sql", "line 1 ends otherwise"),
        ({"1_a.up.sql": b"SELECT 1;\0"}, "1_a.up.sql", "NUL"),
        ({"1_a.up.sql": GOOD, "01_b.up.sql": GOOD}, "1_a.up.sql", "a second up file of version 1, beside 01_b.up.sql"),
        ({f"{2**63}_a.up.sql": GOOD}, f"{2**63}_a.up.sql", "bigint"),
        ({"1_a.up.sql": b"\\i other.sql\n"}, "1_a.up.sql", "psql"),
        ({"1_a.up.sql": b"SELECT 'never ends"}, "1_a.up.sql", "ends nowhere"),
        ({"1_a.up.sql": b"COPY a FROM stdin;\n"}, "1_a.up.sql", "COPY"),
        ({"1_a.up.sql": b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$\r\nSELECT 1\r\n$$;\r\n"}, "1_a.up.sql", "literal"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_kept_is_refused_by_its_name(
    files: dict[str, bytes], name: str, problem: str, project: Project, tmp_path: Path
) -> None:
    """What is wrong, in which file, what to type; and not a revision is written, of the good files neither."""
    source = write(tmp_path / "migrations", {"0_first.up.sql": GOOD, **files})

    with pytest.raises(WrongUse) as caught:
        imported.write(project.config(), source)

    assert caught.value.message.startswith(f"{name}: ") and problem in caught.value.message
    assert caught.value.next_command
    assert [path for path in project.versions.iterdir() if path.suffix] == []


FOLDER = {
    "20240101000000_init.up.sql": b"-- users\nBEGIN;\n\nCREATE TABLE users (id bigint PRIMARY KEY, mail text);\n\nCOMMIT;\n",
    "20240101000000_init.down.sql": b"DROP TABLE users;\n",
    "20240105000000_AddIndex.up.sql": b"CREATE INDEX CONCURRENTLY users_mail ON users (mail);",
    "20240105000000_AddIndex.down.sql": b"DROP INDEX CONCURRENTLY users_mail;",
    "20240301000000_seed it.up.sql": b"INSERT INTO users VALUES (1, 'a:b%c\\d');\r\n-- \xe2\x82\xac\r\n",
    "20240401000000_nothing.down.sql": b"SELECT 1",
    "README.md": b"not a migration",
}


def test_a_folder_becomes_revisions_and_the_same_folder_again(project: Project, tmp_path: Path) -> None:
    """Versions with gaps, a missing way back, CONCURRENTLY, Windows line ends: headers say it, and the bytes come back."""
    source = write(tmp_path / "migrations", FOLDER)

    imported.write(project.config(), source, "A Tester <tester@example.org>")
    again = export.files(project.config())

    assert again == {name: content for name, content in FOLDER.items() if name != "README.md"}
    texts = {path.name: path.read_text() for path in sorted(project.versions.glob("*.py"))}
    assert list(texts) == ["001_create_init.py", "002_add_index.py", "003_seed_it.py", "004_alter_nothing.py"]
    fields = {
        name: [re.search(rf"^{field}: (.*)$", text, re.MULTILINE)[1] for field in ("Transaction", "Type", "Reversible")]  # type: ignore[index]
        for name, text in texts.items()
    }
    assert fields["001_create_init.py"] == ["single", "schema", "stash"]
    assert fields["002_add_index.py"][0] == "none"
    assert fields["003_seed_it.py"][1] == "data" and fields["003_seed_it.py"][2].startswith("forward-only: ")
    assert [place.version for place in versions.places(_script(project))] == [
        20240101000000, 20240105000000, 20240301000000, 20240401000000,
    ]  # fmt: skip


def _script(project: Project):  # type: ignore[no-untyped-def]
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(project.config())


def test_the_guard_has_nothing_against_what_is_imported(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers, order of parts, imports, expectations: each imported revision passes every rule for files."""
    from mcp_planner_schema.guard import judge
    from mcp_planner_schema.guard import settings as settings_module

    imported.write(project.config(), write(tmp_path / "migrations", FOLDER), "A Tester <tester@example.org>")

    judged = judge.judge_all(_script(project), settings_module.load(project.config()))

    assert [one.text() for file in judged for one in file.findings] == []


def test_a_second_import_takes_what_is_new(project: Project, tmp_path: Path) -> None:
    """The folder goes on under golang-migrate meanwhile: later versions follow, earlier ones and other files are refused."""
    source = write(tmp_path / "migrations", {"1_a.up.sql": GOOD, "3_c.up.sql": b"CREATE TABLE c ();"})
    imported.write(project.config(), source)

    write(source, {"1_a.up.sql": GOOD, "3_c.up.sql": b"CREATE TABLE c ();", "4_d.up.sql": b"CREATE TABLE d ();"})
    made = imported.write(project.config(), source)
    (source / "2_b.up.sql").write_bytes(GOOD)

    assert [path.name for path in made] == ["003_create_d.py", "003_create_d.up.sql"]
    with pytest.raises(WrongUse, match=r"2_b\.up\.sql: version 2 lies before version 4"):
        imported.write(project.config(), source)


# --- any folder ---------------------------------------------------------------------------------------------------------

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), max_size=20)
_SPACE = st.sampled_from(
    ["", " ", "\n", "\n\n", "\t", "-- a; comment 'with \"quotes\n", "/* b; /* nested */ $$ */", "-- \\d\n"]
)
_CODE = st.sampled_from([
    "CREATE TABLE a (id int, b text DEFAULT 'x;y')", "INSERT INTO a VALUES (1, E'it\\'s; \\\\')", "SELECT $1$ ; $1$ || $$;$$",
    'DROP TABLE IF EXISTS "odd;name"', "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN NEW.a := '%s :name'; RETURN NEW; END $body$",
    "UPDATE a SET b = U&'d\\0061t\\+000061' WHERE id::text = 'a:b'", "CREATE INDEX CONCURRENTLY i ON a (id)", "COMMIT",
    "DO $$ BEGIN PERFORM 1; END $$", "SELECT ARRAY[1,2][1:2], '\"\"\"', 'ä€😀'", "VACUUM a", "BEGIN", "SET search_path = a",
    "CREATE TYPE e AS ENUM ('a')", "SAVEPOINT s",
])  # fmt: skip


@st.composite
def _texts(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(st.tuples(_SPACE, _CODE, _SPACE), max_size=5))
    text = "".join(f"{before}{code}{behind};" for before, code, behind in parts) + draw(_SPACE)
    if draw(st.booleans()) and parts:
        text = f"{draw(_SPACE)}BEGIN;{text}{draw(_SPACE)}COMMIT{draw(st.sampled_from([';', '', ' ;']))}{draw(_SPACE)}"
    if draw(st.booleans()) and text.endswith(";"):
        text = text.removesuffix(";")
    windows = draw(st.booleans())
    return (text.replace("\n", "\r\n") if windows else text).encode()


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Folders that golang-migrate would take: any versions, titles and texts, either direction missing."""
    found = {}
    numbers = draw(st.lists(st.integers(0, 10**18), unique=True, min_size=1, max_size=4))
    for number in numbers:
        title = draw(_NAMES)
        directions = draw(st.sampled_from([("up",), ("down",), ("up", "down")]))
        for direction in directions:
            name = f"{draw(st.sampled_from(['', '00']))}{number}_{title}.{direction}.sql"
            if len(name.encode()) < 200 and folder.name_of(name) == folder.Name(number, title, direction):
                found[name] = draw(_texts())
    return found


def _emptied(project: Project) -> None:
    for path in (*project.versions.glob("*.py"), *project.versions.glob("*.sql")):
        path.unlink()


def _no_loss(project: Project, files: dict[str, bytes], base: Path) -> None:
    _emptied(project)
    source = write(base / "migrations", files)

    imported.write(project.config(), source, "A Tester <tester@example.org>")
    first = export.files(project.config())
    said = {name: text for place in versions.places(_script(project)) for name, text in _sent(place)}
    _emptied(project)
    imported.write(project.config(), write(base / "again", first), "A Tester <tester@example.org>")

    assert first == files
    assert export.files(project.config()) == files
    for name, raw in files.items():
        read = query.read(raw.decode().replace("\r\n", "\n"))
        assert said[name] == [[token.text for token in one] for one in read.statements], name


def _sent(place: versions.Place) -> Iterator[tuple[str, list[list[str]]]]:
    """For each file what the revision sends, token by token: the guard's reading of a body, or the text that stands in it."""
    transaction = re.search(r"^Transaction: (.*)$", place.script.module.__doc__ or "", re.MULTILINE)[1]  # type: ignore[index]
    for direction in ("up", "down"):
        if direction in (place.came or {}):
            beside = Path(place.script.path).with_suffix(f".{direction}.sql")
            if beside.exists():
                found = [one.tokens for one in sql_body.statements(sql_body.content(beside), transaction)]
            else:
                found = list(query.read(getattr(place.script.module, direction.upper())).statements)
            yield (place.came or {})[direction], [[token.text for token in one] for one in found]


_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=_CHECKS)
@given(files=folders())
def test_no_folder_loses_anything(files: dict[str, bytes], project: Project, tmp_path: Path) -> None:
    """In, out, in and out again: the same bytes under the same names, and each statement, token by token, in a revision."""
    if files:
        _no_loss(project, files, tmp_path)


@pytest.mark.long
@settings(max_examples=300, deadline=None, suppress_health_check=_CHECKS)
@given(files=folders())
def test_no_folder_of_300_loses_anything(files: dict[str, bytes], project: Project, tmp_path: Path) -> None:
    """The same for 300 folders, other ones each time."""
    if files:
        _no_loss(project, files, tmp_path)


# --- folders out --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MCP-Planner's own history, exported."""
    from alembic.config import Config

    into = tmp_path_factory.mktemp("exported") / "migrations"
    export.write(Config(str(ROOT / "alembic.ini")), into)
    return into


def test_an_exported_file_says_what_it_is_and_what_it_lacks(planner_folder: Path) -> None:
    """Header, what the guard would do, BEGIN, limits, body, check, COMMIT, in this order; a way back says for what it is."""
    up = (planner_folder / "002000_schema_add_complexity_fields.up.sql").read_text()
    down = (planner_folder / "002000_schema_add_complexity_fields.down.sql").read_text()

    for text, parts in (
        (up, ["-- Add complexity fields to projects\n", "-- Version: 002\n", "-- Transaction: single\n", "not by golang-migrate:",
              "tried again", "\nBEGIN;\n", "SET LOCAL lock_timeout = '200ms';", "ADD COLUMN complexity_threshold", "DO $check$",
              "Migration failed: revision 002: ", "$check$;\n\nCOMMIT;\n"]),
        (down, ["-- Rollback for: 002 Add complexity fields", "-- Version: 002\n", "here they are lost", "\nBEGIN;\n",
                "DROP COLUMN max_iterations", "Rollback failed: revision 002: ", "COMMIT;\n"]),
    ):  # fmt: skip
        place = 0
        for part in parts:
            assert part in text[place:], part
            place = text.index(part, place) + len(part)
        assert text[place:] == "" and "alembic_version" not in text and "\\set" not in text


def test_numbers_keep_the_order_and_are_used_once(planner_folder: Path) -> None:
    """By golang-migrate's reading no version is there twice, revisions come in their order, the last part has its number."""
    found = folder.read(planner_folder)

    revisions = [re.search(r"^-- Version: (.*)$", (one.up or one.down).text, re.MULTILINE)[1] for one in found]  # type: ignore[union-attr, index]
    assert [one.version for one in found] == sorted({one.version for one in found})
    assert revisions == sorted(revisions) and len(set(revisions)) == 24
    last = {revision: one.version for revision, one in zip(revisions, found, strict=True)}
    assert last == {f"{number:03}": number * 1000 for number in range(1, 25)}
    assert [one.version for one in found if one.title.startswith("schema_create_navigation_indexes")] == [
        *range(8001, 8012), 9000,
    ]  # fmt: skip


def test_what_cannot_run_in_a_transaction_has_a_file_of_its_own(planner_folder: Path) -> None:
    """A file is either one transaction from BEGIN to COMMIT, or one statement: as one query PostgreSQL takes both."""
    for one in folder.read(planner_folder):
        for file in filter(None, (one.up, one.down)):
            words = [tokens[0].word for tokens in sql_file.statements(file.text)]
            alone = "CONCURRENTLY" in [token.word for tokens in sql_file.statements(file.text) for token in tokens]
            assert (words[0], words[-1]) == ("BEGIN", "COMMIT") or len(words) == 1, file.name
            assert not alone or len(words) == 1, file.name


def test_an_index_that_was_built_by_itself_is_dropped_by_its_own_version(planner_folder: Path) -> None:
    """Each version of 009 takes back what it has made, so that one that was stopped half-way can be reverted from there."""
    for one in folder.read(planner_folder):
        if one.title.startswith("schema_create_navigation_indexes") and one.version != 9000:
            assert one.up and one.down
            (built,) = re.findall(r"^CREATE INDEX CONCURRENTLY \"(\S+)\"", one.up.text, re.MULTILINE)
            assert re.findall(r"^DROP INDEX (\S+);", one.down.text, re.MULTILINE) == [built]


def test_what_is_there_is_not_overwritten(planner_folder: Path, tmp_path: Path, project: Project) -> None:
    """A second export changes nothing, a new revision adds its files, and another file under a name is refused."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.execute('DROP TABLE a')")
    into = tmp_path / "migrations"
    first = export.write(project.config(), into)
    assert export.write(project.config(), into) == []
    project.revision("002", "create_b", "op.execute('CREATE TABLE b ()')", "op.execute('DROP TABLE b')")
    second = export.write(project.config(), into)
    (into / first[0].name).write_text("SELECT 1;")

    with pytest.raises(WrongUse, match=f"holds {first[0].name}"):
        export.write(project.config(), into)

    assert [path.name for path in second] == ["002000_schema_create_b.up.sql", "002000_schema_create_b.down.sql"]


def test_a_revision_without_a_way_back_has_a_file_that_says_so(project: Project) -> None:
    """golang-migrate takes a missing file for done: going back has to fail, with the reason."""
    project.revision("001", "drop_a", "op.execute('DROP TABLE IF EXISTS a')", "raise NotImplementedError()",
                     reversible="forward-only: it is gone")  # fmt: skip

    down = export.files(project.config())["001000_schema_drop_a.down.sql"].decode()

    assert "RAISE EXCEPTION" in down and "goes forward only: it is gone" in down


def test_what_is_no_sql_is_refused_by_name(project: Project, tmp_path: Path) -> None:
    """A revision that computes rows in Python cannot be a file: which one, why, and what to do instead; nothing is written."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.execute('DROP TABLE a')")
    project.revision("002", "fill_a", 'op.backfill("a", rows=lambda rows: rows, columns=["id"], writes=["b"])', "pass",
                     type="data", transaction="none", phase="migrate", reversible="forward-only: nothing")  # fmt: skip

    with pytest.raises(Refused) as caught:
        export.write(project.config(), tmp_path / "migrations")

    (finding,) = caught.value.findings
    assert (finding.code, finding.revision) == ("offline-impossible", "002")
    assert "Python function" in finding.values["problem"] and "TO=001" in caught.value.next_command
    assert not (tmp_path / "migrations").exists()


def test_a_history_with_branches_is_refused(project: Project, tmp_path: Path) -> None:
    """One row holds one version: two lines of revisions have no order there."""
    for version, parent in (("001", "None"), ("002", "001"), ("003", "001")):
        project.revision(version, f"create_t{version}", f"op.execute('CREATE TABLE t{version} ()')",
                         f"op.drop_table('t{version}')", parent=parent)  # fmt: skip

    with pytest.raises(WrongUse, match="one line of versions"):
        export.write(project.config(), tmp_path / "migrations")


def test_a_planners_folder_comes_back_as_it_was(planner_folder: Path, project: Project, tmp_path: Path) -> None:
    """Export, import, export: every file of the real history is the same to the byte."""
    files = {path.name: path.read_bytes() for path in planner_folder.iterdir()}

    imported.write(project.config(), planner_folder, "A Tester <tester@example.org>")

    assert export.files(project.config()) == files


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["migrate-export", "FORMAT=flyway", "DIR=x"], "'flyway' is no tool"),
        (["migrate-import", "FROM=golang-migrate", "DIR=/nowhere/at/all"], "is no folder"),
        (["migrate-export", "FORMAT=golang-migrate"], "needs DIR"),
        (["migrate-adopt", "FROM=liquibase"], "is no tool"),
        (["migrate-adopt", "FROM=golang-migrate", "KEEP=yes"], "KEEP is 'yes'"),
    ],
)
def test_wrong_use_is_a_sentence(
    arguments: list[str],
    says: str,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, what is wrong, and the right form."""
    monkeypatch.setattr(cli, "ROOT", project.folder)

    code = cli.main(arguments)

    told = capsys.readouterr().err
    assert code == 2 and says in told and "next: make migrate-" in told

"""A SQL file as text: what it creates, how that is dropped, what it may not hold; no database."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_planner_schema.guard import source, sql_file
from mcp_planner_schema.guard.source import Source
from mcp_planner_schema.guard.sql_file import Unusable
from tests.conftest import ROOT

BODY = " LANGUAGE sql AS $$ SELECT 1 $$; COMMENT ON ROUTINE f IS 'It''s; one';"
PLANNERS = sorted((ROOT / "alembic" / "sql").rglob("*.sql"))


def trigger(text: str) -> str:
    """A trigger's file."""
    return f"CREATE {text} FOR EACH ROW EXECUTE FUNCTION z(); COMMENT ON TRIGGER t ON x IS 't';"


@pytest.mark.parametrize(
    ("text", "drop"),
    [
        ("CREATE OR REPLACE FUNCTION public.f() RETURNS int" + BODY, "DROP FUNCTION public.f()"),
        ("create function F(A INT, b Text='x,(') returns int" + BODY, "DROP FUNCTION f(a int, b text)"),
        ("CREATE FUNCTION f(a int DEFAULT (1 + 2), b int[] = ARRAY[1, 2]) RETURNS int" + BODY,
         "DROP FUNCTION f(a int, b int[])"),
        ("CREATE FUNCTION f(a numeric(10, 2), OUT b int, VARIADIC c text[])" + BODY,
         "DROP FUNCTION f(a numeric(10, 2), out b int, variadic c text[])"),
        ('CREATE FUNCTION "A.b".f("x, y)" int) RETURNS int' + BODY, 'DROP FUNCTION "A.b".f("x, y)" int)'),
        ("-- CREATE TABLE\n/* ; /* ; */ */ CREATE FUNCTION f(a -- one, )\n int) RETURNS int" + BODY,
         "DROP FUNCTION f(a int)"),
        ("CREATE FUNCTION f(a x.y%TYPE) RETURNS TABLE (b int, c int) STABLE" + BODY, "DROP FUNCTION f(a x.y%type)"),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; "
         "COMMENT ON FUNCTION f IS 'f';", "DROP FUNCTION f()"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS E'SELECT \\'; COMMIT; \\''; COMMENT ON FUNCTION f IS 'f';",
         "DROP FUNCTION f()"),
        ("CREATE OR REPLACE PROCEDURE f(INOUT a int)" + BODY, "DROP PROCEDURE f(inout a int)"),
        (trigger("TRIGGER t AFTER UPDATE OF a, b ON X . y"), "DROP TRIGGER t ON x.y"),
        (trigger('CONSTRAINT TRIGGER "T ON" AFTER INSERT OR DELETE ON "X" DEFERRABLE'), 'DROP TRIGGER "T ON" ON "X"'),
        (trigger("OR REPLACE TRIGGER t INSTEAD OF INSERT ON x"), "DROP TRIGGER t ON x"),
    ],
)  # fmt: skip
def test_the_drop_names_what_the_file_creates(text: str, drop: str) -> None:
    """Defaults and comments go, names, modes and types stay; nothing inside a literal or a body counts."""
    assert sql_file.parse("1/x.sql", text).drop == drop


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("f(a int) RETURNS int", "f(a  INT) RETURNS  Int IMMUTABLE", True),
        ("f(a int = 1) RETURNS int", "f(a int DEFAULT 2) RETURNS int", True),
        ("f(a int = 1) RETURNS int", "f(a int) RETURNS int", False),
        ("f(a int) RETURNS int", "f(b int) RETURNS int", False),
        ("f(a int) RETURNS int", "f(a int) RETURNS bigint", False),
        ("f(a int) RETURNS SETOF int", "f(a int) RETURNS TABLE (a int)", False),
        ("f(a int) RETURNS int", "f(a int, b int) RETURNS int", False),
        ('"F"() RETURNS int', "f() RETURNS int", False),
    ],
)
def test_what_can_be_replaced_in_place_has_one_shape(one: str, other: str, equal: bool) -> None:
    """Names and types of the arguments, the result and the number of defaults are what CREATE OR REPLACE may not change."""
    shapes = [sql_file.parse("1/x.sql", f"CREATE OR REPLACE FUNCTION {text}{BODY}").shape for text in (one, other)]

    assert (shapes[0] == shapes[1]) is equal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with CREATE"),
        ("CREATE TABLE x ();", "does not begin with CREATE"),
        ("CREATE FUNCTION f", "does not end in a semicolon"),
        ("CREATE FUNCTION f;", "ends after the name"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';", "has no COMMENT ON FUNCTION f"),
        ("CREATE FUNCTION f() RETURNS int" + BODY + "\nCOMMIT;", "line 2 begins a statement with COMMIT"),
        ("CREATE FUNCTION f() RETURNS int" + BODY + " CREATE VIEW v AS SELECT 1;", "begins a statement with CREATE"),
        ("BEGIN; CREATE FUNCTION f() RETURNS int" + BODY, "does not begin with CREATE"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $a$ SELECT 1 $b$;", "has a $ that ends nowhere"),
        ("CREATE FUNCTION f() RETURNS int" + BODY + " /* on", "a comment ends nowhere"),
        ("CREATE FUNCTION f() RETURNS int" + BODY + "\n\\! true\n", "line 2 has a \\"),
        ("CREATE FUNCTION f(a int RETURNS int" + BODY, "does not end in a semicolon"),
        ("CREATE FUNCTION f RETURNS int" + BODY, "arguments in parentheses"),
        (trigger("TRIGGER t ON x"), "come BEFORE, AFTER or INSTEAD OF"),
    ],
)
def test_what_a_file_may_not_hold(text: str, said: str) -> None:
    """Anything but one object and its comment is refused with the reason, and never with another exception."""
    with pytest.raises(Unusable) as caught:
        sql_file.parse("1/x.sql", text)

    assert said in str(caught.value)


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_cut_file_is_refused(cut: int) -> None:
    """Wherever a file ends too early, the answer is a reason or a whole file; nothing else is raised."""
    whole = "CREATE OR REPLACE FUNCTION public.f(a int[] = '{1}', OUT \"b c\" text)" + BODY

    with pytest.raises(Unusable):
        sql_file.parse("1/x.sql", whole[: min(cut, len(whole) - 1)])


@pytest.mark.parametrize("path", PLANNERS, ids=lambda path: path.stem)
def test_the_planners_own_files_can_be_used(path: Path) -> None:
    """Each is one object that bears the file's name and replaces itself in place."""
    read = sql_file.read(ROOT / "alembic" / "sql", f"{path.parent.name}/{path.name}")

    assert path.stem in read.drop
    assert read.replaces


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("1/missing.sql", None, "no such file"),
        ("../x.sql", None, "no name of the form"),
        ("1/X.sql", None, "no name of the form"),
        ("1/x.sql", b"\xff", "not UTF-8 at byte 0"),
        ("1/x.sql", b"\xef\xbb\xbfx", "byte order mark"),
        ("1/x.sql", b"a\0", "NUL"),
        ("1/x.sql", b"a\rb", "CR without LF"),
        ("1/x.sql", b" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, raw: bytes | None, said: str) -> None:
    """A file that is not there or is no plain UTF-8 is told by what is wrong with it."""
    (tmp_path / "1").mkdir()
    if raw is not None:
        (tmp_path / name).write_bytes(raw)

    with pytest.raises(Unusable) as caught:
        sql_file.content(tmp_path, name)

    assert said in str(caught.value)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """Neither the file nor its folder may be a symbolic link."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "x.sql").write_text("")
    (tmp_path / "2").symlink_to(tmp_path / "1")
    (tmp_path / "1" / "y.sql").symlink_to(tmp_path / "1" / "x.sql")

    for name in ("2/x.sql", "1/y.sql"):
        with pytest.raises(Unusable, match="symbolic link"):
            sql_file.content(tmp_path, name)


def test_the_checksum_covers_the_files_to_the_letter(tmp_path: Path) -> None:
    """Another text, name or order is another revision; none at all, or a missing one, leaves the sum as it was."""
    (tmp_path / "001_x.py").write_text("x = 1\n")
    read = source.read(tmp_path / "001_x.py")
    assert isinstance(read, Source)
    alone = source.checksum(read)

    sums = [
        source.checksum(read, files)
        for files in ({"1/x.sql": "a"}, {"1/x.sql": "a "}, {"1/y.sql": "a"}, {"1/x.sql": "a", "1/y.sql": "b"})
    ]

    assert len({alone, *sums}) == 5
    assert source.checksum(read, {}) == source.checksum(read, {"1/x.sql": None}) == alone


def test_what_the_history_keeps_is_the_revision_still(tmp_path: Path) -> None:
    """The SQL files are comments below it: the same code, from which their texts can be had back."""
    (tmp_path / "001_x.py").write_text("x = 1")
    read = source.read(tmp_path / "001_x.py")
    assert isinstance(read, Source)

    (tmp_path / "001_x.py").write_text(source.kept(read, {"1/x.sql": "a\n\n  b\n", "1/y.sql": None}))
    again = source.read(tmp_path / "001_x.py")

    assert isinstance(again, Source)
    assert source.checksum(again) == source.checksum(read)
    assert "".join(f"{line[2:]}\n" for line in again.text.splitlines() if line.startswith("#|")) == "a\n\n  b\n"

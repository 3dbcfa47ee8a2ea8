"""Where a statement ends: as PostgreSQL's scanner says it, and a server is asked whether each piece is exactly one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import pq

from mcp_planner_schema.guard import lexer
from mcp_planner_schema.guard.lexer import PsqlCommand, Unusable
from tests.conftest import ROOT, Database

# --- what may stand in a statement, each with a semicolon or a quote where none counts ----------------------------------

TEXTS = [
    "'it''s; ok'", "'back\\'", "E'a\\';b'", "e'\\\\'", "E'a'\n  'b\\';c'", "E'a' -- ; '\n -- \"\n\t'b\\';c'", "U&'d\\0061;t'",
    "N'n;'", "$$a;b'$$", "$a$ $b$; $$ $a $a$", "$ä1$;'$ä1$", "$_$ ; $_$", "'a'\n';b'", "''", "E''", "$$$$", "'\u00a0;'",
]  # fmt: skip
NAMES = [
    '"a;b"', '"a""b;"', '"/*"', 'U&"\\0061;"', "a$b$c", "naïve$1", "ünï", "b\u00a0c", "\u0663x", "_",
    '"$$"', "e", "b", "\u0131\u017f", "x$$",
]  # fmt: skip
COMMENTS = ["/* ; ' /* $$ ; */ \" */", "-- ; ' $$ /*\n", "/**/", "/*;*/", "--\n", "/* -- */", "/*/**/*/", "-- \\i x\n"]
EXPRESSIONS = [
    "1 +-- ;'\n 2", "4 */* ; ' */ 2", "3 -/* ; */ 2", "1 <-- ;\n 2", "- -1", "a::text", "(ARRAY[1, 2])[1:2]", "1e3", ".5", "0x1F",
    "1_000", "$1::int + $2::int", "CASE WHEN true THEN 1 ELSE 2 END", "(SELECT 1)", "B'01'", "x'1f'", "5 % 2", "'{a;b}'::text[]",
    "t.end", "interval '1' day", "a @> b", "a #>> '{x,;}'",
]  # fmt: skip


def statement(draw: random.Random) -> str:
    """One statement without its semicolon, right by the grammar, whatever tables and columns there are."""

    def some(of: list[str]) -> str:
        return draw.choice(of)

    text, name, other, gap = (some(of) for of in (TEXTS, NAMES, NAMES, [*COMMENTS, " "]))
    one, two = (f"({some(EXPRESSIONS)})" for _ in range(2))
    string = some([each for each in TEXTS if each[0] != "N"])
    dollars = some([each for each in TEXTS if each[0] == "$"])
    atomic = f"BEGIN{gap} ATOMIC SELECT CASE WHEN {one} IS NULL THEN 1 END; SELECT 1 AS end; SELECT 2 case; END"
    return some(
        [
            f"SELECT {one}, {text} AS {name}, {two}{gap} FROM {other}",
            f"SELECT {one}{gap}, t.end, t.case FROM {name} AS t WHERE {two} = {one}",
            f"COMMENT ON TABLE {name} IS {gap} {string}",
            f"CREATE TABLE {name} (begin int DEFAULT ({one}), {gap} CHECK ({two} IS NOT NULL), atomic text)",
            f"CREATE VIEW {name} AS SELECT begin atomic, {one} FROM {other} {gap}",
            f"CREATE VIEW {name} AS SELECT begin {gap} atomic FROM {other}",
            f"CREATE RULE r AS ON INSERT TO {name} DO ALSO (INSERT INTO {other} VALUES ({text}); {gap} DELETE FROM {other};)",
            f"CREATE FUNCTION {name}(begin int, atomic int) RETURNS int LANGUAGE sql {atomic}",
            f"CREATE OR REPLACE PROCEDURE {name}() LANGUAGE sql {atomic}",
            f"create function {name}() returns int {gap} begin atomic {gap} end",
            f"CREATE FUNCTION {name}() RETURNS int LANGUAGE sql RETURN {one}",
            f"CREATE FUNCTION {name}() RETURNS int LANGUAGE plpgsql AS {string}",
            f"DO {dollars}",
            f"INSERT INTO {name} VALUES ({text}, {one}){gap}",
            f"ALTER TABLE {name} ADD COLUMN {other} text DEFAULT {text}",
            f"CREATE OPERATOR <=->{gap} (LEFTARG = int, RIGHTARG = int, FUNCTION = f)",
            "CREATE SCHEMA s CREATE TABLE a (b int) CREATE VIEW v AS SELECT 1",
            f"PREPARE p AS SELECT $1, {one}",
        ]
    )


def corpus(seed: int, count: int) -> str:
    """Statements one after the other, with comments and empty ones between them."""
    draw = random.Random(seed)
    between = [";", ";\n", "; ", ";;", ";\n\n-- ; '\n", "; /* ; */ ", " -- ;\n;"]
    return "".join(statement(draw) + draw.choice(between) for _ in range(count))


# --- the pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" -- a;\n/* b; */ ;; ", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("a 'b;''c' ; d", ["a 'b;''c'", "d"]),
        ("a 'b\\'; d", ["a 'b\\'", "d"]),
        ("a E'b\\';c'; d", ["a E'b\\';c'", "d"]),
        ("a E'b'\n'\\';c'; d", ["a E'b'\n'\\';c'", "d"]),
        ("a E'b' '\\'; d", ["a E'b' '\\'", "d"]),
        ("a $x$ ; $$ ; $x$; d", ["a $x$ ; $$ ; $x$", "d"]),
        ("a$x$; d$x$; e", ["a$x$", "d$x$", "e"]),
        ("$1$x$;$x$; e", ["$1$x$;$x$", "e"]),
        ('a "b;""c"; d', ['a "b;""c"', "d"]),
        ("a /* ; /* ; */ ; */ b; d", ["a /* ; /* ; */ ; */ b", "d"]),
        ("a +-- ;\nb; d", ["a +-- ;\nb", "d"]),
        ("CREATE RULE r AS ON INSERT TO t DO (a; b); d", ["CREATE RULE r AS ON INSERT TO t DO (a; b)", "d"]),
        ("CREATE FUNCTION f() BEGIN ATOMIC a; CASE x END; END; d", ["CREATE FUNCTION f() BEGIN ATOMIC a; CASE x END; END", "d"]),
        ("CREATE FUNCTION f() BEGIN ATOMIC a AS end; b end; END; d",
         ["CREATE FUNCTION f() BEGIN ATOMIC a AS end; b end; END", "d"]),
        ("CREATE FUNCTION f() BEGIN ATOMIC END; d", ["CREATE FUNCTION f() BEGIN ATOMIC END", "d"]),
        ("CREATE VIEW v AS SELECT begin atomic; d", ["CREATE VIEW v AS SELECT begin atomic", "d"]),
        ("a\u00a0b; c", ["a\u00a0b", "c"]),
        ("a ) ; b", ["a )", "b"]),
        ("a :'x' :name :\"y\"; b", ["a :'x' :name :\"y\"", "b"]),
    ],
)  # fmt: skip
def test_where_a_statement_ends(text: str, found: list[str]) -> None:
    """A semicolon counts outside of quotes, comments, parentheses and the body of a routine, and nothing is lost."""
    pieces = list(lexer.pieces(text))

    full = [one for one in pieces if one.tokens]
    assert "".join(one.text for one in pieces) == text
    assert [text[one.tokens[0].at : one.tokens[-1].end] for one in full] == found


def test_what_never_ends_is_named() -> None:
    """The parenthesis or the body that takes in the rest of the file is known, with its place."""
    [*_, brackets] = lexer.pieces("SELECT 1;\nSELECT (1;\nSELECT 2;\n")
    [*_, body] = lexer.pieces("CREATE FUNCTION f() RETURNS int\nBEGIN ATOMIC SELECT 1; SELECT 2")

    assert brackets.unclosed is not None and brackets.unclosed.text == "(" and brackets.unclosed.at == 17
    assert body.unclosed is not None and body.unclosed.word == "ATOMIC"


@pytest.mark.parametrize(
    ("text", "line"),
    [("\n'a", 2), ('\n\n"a', 3), ("$a$ b $A$", 1), ("a\n/* b /* c */", 2), ("E'a\\'", 1), ('a ""', 1), ("\n\\ x", 2)],
)
def test_what_has_no_other_end_is_refused_with_its_line(text: str, line: int) -> None:
    """An open quote or comment is no statement, wherever in the text it begins."""
    with pytest.raises(Unusable) as caught:
        list(lexer.pieces(text))

    assert caught.value.line == line


@pytest.mark.parametrize("command", ["\\i", "\\copy", "\\c", "\\IR", "\\!", "\\.", "\\gset"])
def test_a_command_of_psqls_is_known_by_its_name(command: str) -> None:
    """What stands before it has been read by then."""
    found = lexer.pieces(f"SELECT 1;\n{command} x\n")
    first = next(found)

    with pytest.raises(PsqlCommand) as caught:
        next(found)

    assert first.text == "SELECT 1;"
    assert (caught.value.command, caught.value.line) == (command, 2)


def test_keywords_are_ascii() -> None:
    """No letter of another alphabet stands for one: PostgreSQL folds only these."""
    [one] = lexer.statements("\u017fet Begin ATOM\u0131C;")

    assert [token.word for token in one] == ["\u017fet", "BEGIN", "ATOM\u0131C"]
    assert [lexer.catalog_name(token) for token in one] == ["\u017fet", "begin", "atom\u0131c"]


# Pieces of SQL, whole and broken, so that each joint is tried with each neighbour.
_PARTS = [
    *TEXTS, *NAMES, *COMMENTS, ";", ";\n", "(", ")", " ", "\n", "'", "$", "$$", "$a$", "\\", "/*", "*/", "--", "E'",
    "BEGIN ATOMIC",    "END", "CREATE FUNCTION f()", "CASE", "\r", "\x0b", "\u2028", "1",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PARTS) | st.text(max_size=3), max_size=25).map("".join))
@settings(max_examples=150, deadline=None)
def test_split_then_joined_is_the_text(text: str) -> None:
    """Nothing is lost or moved, in whatever text can be read; and each piece alone is the same statement again."""
    found = []
    try:
        for piece in lexer.pieces(text):
            found.append(piece)
    except Unusable:
        assert text.startswith("".join(one.text for one in found))
        return

    assert "".join(one.text for one in found) == text
    for piece in found:
        alone = list(lexer.pieces(piece.text))
        assert [one.text for one in alone] == [piece.text]
        assert [token.text for token in alone[0].tokens] == [token.text for token in piece.tokens]
        assert piece.ended == (piece is not found[-1] or alone[0].ended)


# --- the server's word -------------------------------------------------------------------------------------------------


class Asked:
    """A connection on which a text is prepared by the extended protocol, which takes one statement and no more."""

    def __init__(self, database: Database) -> None:
        target = f"host={database.host} port={database.port} dbname={database.name} user={database.user}"
        self._connection = pq.PGconn.connect(target.encode())
        assert self._connection.status == pq.ConnStatus.OK

    def problem(self, text: str) -> str:
        """Why this is not exactly one statement; empty where it is one, be it of tables that are not there."""
        result = self._connection.prepare(b"", text.encode())
        if result.status == pq.ExecStatus.COMMAND_OK:
            return ""
        said = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        wrong = (
            said.startswith(("cannot insert multiple", "syntax error", "unterminated", "zero-length")) or "junk" in said
        )
        return said if wrong else ""

    def close(self) -> None:
        """End the session."""
        self._connection.finish()


@pytest.fixture
def asked(empty: Database) -> Iterator[Asked]:
    """Asks the tests' server."""
    connection = Asked(empty)
    yield connection
    connection.close()


def wrong(asked: Asked, text: str) -> list[tuple[str, str]]:
    """The statements of a text that the server does not take for exactly one, with what it says."""
    found = [piece for piece in lexer.pieces(text) if piece.tokens]
    return [(said, piece.text) for piece in found if (said := asked.problem(piece.text))]


def test_the_server_takes_each_piece_for_one_statement(asked: Asked) -> None:
    """A corpus of what the grammar allows, cut here, is cut as the server would: none is two, none is half."""
    text = corpus(1, 1500)

    assert asked.problem("SELECT 1; SELECT 2")
    assert asked.problem("SELECT (1")
    assert wrong(asked, text) == []
    assert len([one for one in lexer.pieces(text) if one.tokens]) == 1500


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 22))
def test_the_server_takes_each_piece_of_a_large_corpus_for_one_statement(asked: Asked, seed: int) -> None:
    """Twenty times ten thousand statements."""
    text = corpus(seed, 10_000)

    assert wrong(asked, text) == []
    assert len([one for one in lexer.pieces(text) if one.tokens]) == 10_000


# But for those that are written wrong on purpose, the one that is for psql, and alembic/schema.sql, which is for readers.
FILES = sorted(
    path
    for path in ROOT.rglob("*.sql")
    if not {".venv", ".postgres", "node_modules"} & set(path.parts)
    and path.relative_to(ROOT).parts[0] != "scripts"
    and path.name != "schema.sql"
    and "bad_" not in str(path.relative_to(ROOT))
)


def test_the_server_takes_each_statement_of_the_repositorys_files_for_one(asked: Asked) -> None:
    """Every SQL file that is here and for the server."""
    found: dict[Path, list[tuple[str, str]]] = {}
    for path in FILES:
        found[path] = wrong(asked, path.read_text(encoding="utf-8"))

    assert len(found) > 20
    assert {path: one for path, one in found.items() if one} == {}

"""Fingerprints without a database: texts that mean the same, digests, stored files, and differences as people read them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import Line, difference, of, same, stored
from mcp_planner_schema.guard.fingerprint.canonical import canonical
from mcp_planner_schema.guard.fingerprint.stored import Delta
from mcp_planner_schema.guard.fingerprint.tokens import parse, tokens, written
from mcp_planner_schema.inspect import schema_sql
from tests.conftest import HEAD, ROOT

SAME = [
    # What a dump and its restore, or two majors, write in two ways.
    ("constraint", "CHECK (((k)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))",
     "CHECK (((k)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text])))"),
    ("constraint", "CHECK (((k)::text = ANY ((ARRAY['a,(''['::character varying(9), x])::text[])))",
     "CHECK (((k)::text = ANY (ARRAY[('a,(''['::character varying(9))::text, (x)::text])))"),
    ("policy", "for select using (((a >= 1) AND (a <= 5)) AND (b ~~ 'x AND (y'::text))",
     "for select using ((a >= 1) AND (a <= 5) AND (b ~~ 'x AND (y'::text))"),
    ("index", "CREATE INDEX i ON t USING btree (a) WHERE (a OR (b OR (c AND d)))",
     "CREATE INDEX i ON t USING btree (a) WHERE ((a OR b) OR (c AND d))"),
    ("view", "as SELECT users.kind,\n    count(*) AS n\n   FROM app.users\n  GROUP BY users.kind;",
     "as SELECT kind,\n    count(*) AS n\n   FROM app.users\n  GROUP BY kind;"),
    ("view", "as SELECT u.k FROM ONLY app.users u WHERE (u.k IS DISTINCT FROM 'u.k'::text);",
     "as SELECT k FROM ONLY app.users u WHERE (k IS DISTINCT FROM 'u.k'::text);"),
    ("view", 'as SELECT "A b".k FROM app."A b" TABLESAMPLE system (10);', 'as SELECT k FROM app."A b" TABLESAMPLE system (10);'),
    ("view", "as SELECT s.k FROM ( SELECT a.k FROM app.a) s;", "as SELECT k FROM ( SELECT a.k FROM app.a) s;"),
    ("view", "as SELECT g.n FROM generate_series(1, 3) WITH ORDINALITY g(n, o);",
     "as SELECT n FROM generate_series(1, 3) WITH ORDINALITY g(n, o);"),
    ("view", "as WITH c AS ( SELECT u.a FROM app.u) SELECT c.a FROM c LIMIT 3;",
     "as WITH c AS ( SELECT u.a FROM app.u) SELECT a FROM c LIMIT 3;"),
]  # fmt: skip
OTHER = [
    ("constraint", "CHECK (((a OR b) AND c))", "CHECK ((a OR b AND c))"),
    ("constraint", "CHECK ((a AND (NOT (b AND c))))", "CHECK ((a AND (NOT b AND c)))"),
    ("constraint", "CHECK ((k = 'a'::character varying))", "CHECK ((k = 'a'::text))"),
    ("constraint", "CHECK ((k = ('a AND (b AND c)'::character varying)::text))", "CHECK ((k = 'a AND b AND c'::text))"),
    ("view", "as SELECT a.x FROM (app.a JOIN app.b ON ((a.x = b.x)));", "as SELECT x FROM (app.a JOIN app.b ON ((a.x = b.x)));"),
    ("view", "as SELECT a.x FROM app.a UNION SELECT b.x FROM app.b;", "as SELECT x FROM app.a UNION SELECT b.x FROM app.b;"),
    ("function", "CREATE FUNCTION f()\nAS $$((a AND b) AND c)$$", "CREATE FUNCTION f()\nAS $$(a AND b AND c)$$"),
    ("comment", "((a AND b) AND c)", "(a AND b AND c)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "one", "other"), SAME)
def test_texts_that_mean_the_same_are_one(kind: str, one: str, other: str) -> None:
    """What only PostgreSQL's version, or a restore, has written otherwise has the same canonical form."""
    assert canonical(kind, one) == canonical(kind, other)


@pytest.mark.parametrize(("kind", "one", "other"), OTHER)
def test_texts_that_mean_something_else_stay_apart(kind: str, one: str, other: str) -> None:
    """Another meaning, a text in quotes and the body of a routine are left as they are."""
    assert canonical(kind, one) != canonical(kind, other)


def test_the_frame_of_a_window_is_no_and() -> None:
    """BETWEEN … AND of a frame joins no conditions: the brackets beside it stay."""
    frame = "as SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN (a AND b) PRECEDING AND (c AND d) FOLLOWING) FROM t, u;"

    assert canonical("view", frame) == frame


PIECES = [
    "(",
    ")",
    "[",
    "]",
    "'",
    '"',
    "E'",
    "\\",
    " AND ",
    " OR ",
    "::text",
    "::",
    "a",
    "ARRAY",
    " ",
    ",",
    ".",
    "FROM ",
    "é$",
]


@given(some.lists(some.sampled_from(PIECES), max_size=60).map("".join))
def test_cutting_loses_nothing(text: str) -> None:
    """Whatever the text, its tokens and its brackets give it back; no form of it fails, and a second time changes nothing."""
    assert "".join(tokens(text)) == text
    assert written(parse(text)) == text
    for kind in ("view", "constraint", "function"):
        once = canonical(kind, text)
        assert canonical(kind, once) == once or kind == "view"


@pytest.mark.parametrize(
    "text", ["(", "((", "'", '"', "E'", "(ARRAY[", "::text", "(a AND ", "SELECT a.b FROM (", "$a$"]
)
@pytest.mark.long
def test_the_time_grows_with_the_length(text: str) -> None:
    """A hostile text of eight times the length takes about eight times as long: nothing is read again and again."""

    def seconds(times: int) -> float:
        begun = time.process_time()
        canonical("view", f"as SELECT ((x AND y)::text {text * times}")
        return time.process_time() - begun

    # The least of three: one of them may be the garbage collector's time.
    short, long = (min(seconds(times) for _ in range(3)) for times in (2_000, 16_000))

    assert long < 8 * short * 3 + 0.05


LINES = frozenset(
    {
        Line("table", "public.steps", "ordinary"),
        Line("column", "public.steps.due", "date"),
        Line("order", "public.steps", "due"),
        Line("comment", "table public.steps", "what is to be done"),
        Line("acl", "table public.steps", "public:SELECT"),
    }
)


def test_each_part_has_its_digest() -> None:
    """Order, comments and grants change their own digest and not that of the structure; the text says which algorithm."""
    before = of(LINES)

    for kind, field in (("order", "order"), ("comment", "comments"), ("acl", "grants"), ("column", "structure")):
        changed = of(line._replace(definition="x") if line.kind == kind else line for line in LINES)
        differing = {name for name in vars(before) if getattr(before, name) != getattr(changed, name)}
        assert differing == {field}
    assert str(before).startswith("fp1:")
    assert [len(part) for part in vars(before).values()] == [32, 16, 16, 16]


def test_two_lines_are_not_taken_for_one() -> None:
    """Where one text ends and the next begins counts."""
    assert of({Line("a", "b", "c")}) != of({Line("a", "bc", "")})


def test_what_is_stored_is_what_is_expected(tmp_path: Path) -> None:
    """Three revisions written, read back and summed up: a changed line is there once, one that went is gone."""
    first, second = Line("table", "a", "ordinary"), Line("column", "a.b", "text")
    third = second._replace(definition='text "\n\x01 ü')
    deltas = {
        "001": Delta(frozenset({first, second}), frozenset()),
        "002": Delta(frozenset({third}), frozenset({second})),
        "003": Delta(frozenset(), frozenset({first})),
    }
    made = {revision: (of(delta.come), delta) for revision, delta in deltas.items()}

    paths = stored.write(tmp_path, list(deltas), made)

    assert {path.name for path in paths} == {"fingerprints", "001.json", "002.json", "003.json"}
    assert stored.write(tmp_path, list(deltas), made) == []
    assert list(stored.fingerprints(tmp_path)) == list(deltas)
    assert stored.delta(tmp_path, "002") == deltas["002"]
    assert stored.delta(tmp_path, "004") is None
    assert stored.expected(tmp_path, ["001", "002"]) == {first, third}
    assert stored.expected(tmp_path, deltas) == {third}
    text = (tmp_path / "catalog" / "002.json").read_text()
    assert json.loads(text)["gone"] == [["column", "a.b", "text"]]
    assert len(text.splitlines()) == 8


def test_one_revision_is_written_among_the_others(tmp_path: Path) -> None:
    """The line of a new revision comes to its place; one whose revision is no longer there goes."""
    nothing = Delta(frozenset(), frozenset())
    stored.write(tmp_path, ["001", "003"], {"001": (of([]), nothing), "003": (of([]), nothing)})

    stored.write(tmp_path, ["001", "002"], {"002": (of(LINES), nothing)})

    assert stored.fingerprints(tmp_path) == {"001": of([]), "002": of(LINES)}


BAD = [
    ("<<<<<<< HEAD\n{line}=======\n{line}>>>>>>> other\n", ":1 is the mark of a merge conflict"),
    ("{line}{line}", ":2 is a second line for revision 001"),
    ("001 fp2:00 order:0 comments:0 grants:0\n", ":1 cannot be read"),
    ("\n", ":1 cannot be read"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_broken_file_of_fingerprints_says_what_to_type(tmp_path: Path, text: str, said: str) -> None:
    """A merge conflict, a line twice, another algorithm, an empty line: the place, and the command that writes it anew."""
    stored.place(tmp_path).write_text(text.format(line=f"001 {of(LINES)}\n"))

    with pytest.raises(WrongUse, match="fingerprints") as raised:
        stored.fingerprints(tmp_path)

    assert said in raised.value.message
    assert raised.value.next_command.startswith("make migrate-fingerprint")


def test_writing_all_needs_no_readable_file(tmp_path: Path) -> None:
    """The command that every complaint names works on the file that is complained of."""
    stored.place(tmp_path).write_text("<<<<<<< HEAD\n")

    stored.write(tmp_path, ["001"], {"001": (of(LINES), Delta(LINES, frozenset()))})

    assert stored.fingerprints(tmp_path) == {"001": of(LINES)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read: JSONDecodeError"),
        ('{"come": []}', "cannot be read: KeyError: 'gone'"),
        ('{"come": [["a", "b"]], "gone": []}', "cannot be read: TypeError"),
        ('{"come": [["a", "b", 3]], "gone": []}', "cannot be read: TypeError: 3 is no text"),
        ('{"come": [], "gone": [["a", "b", "c"]]}', "takes away what no revision before it has made: a b"),
        ("=======\n", "has marks of a merge conflict"),
    ],
)
def test_a_broken_catalog_says_what_to_type(tmp_path: Path, text: str, said: str) -> None:
    """A file that is no JSON, lacks a part or does not fit to those before it is named, with the command."""
    path = stored.catalog_place(tmp_path, "001")
    path.parent.mkdir()
    path.write_text(text)

    with pytest.raises(WrongUse) as raised:
        stored.expected(tmp_path, ["001"])

    assert said in raised.value.message
    assert raised.value.message.startswith(str(path))
    assert raised.value.next_command.startswith("make migrate-fingerprint VERSION=")


def test_a_missing_catalog_says_which_revision(tmp_path: Path) -> None:
    """Nothing is guessed about a revision that has no file."""
    with pytest.raises(WrongUse, match=r"001\.json is missing: nothing says what revision 001 makes"):
        stored.expected(tmp_path, ["001"])


def test_partitions_that_the_calendar_makes_are_no_difference() -> None:
    """A partition of a known table that only the database has is left out with all its parts; another table is not."""
    expected = LINES | {Line("table", "public.log", "partitioned by RANGE (at)")}
    january = {
        Line(
            "table",
            'public."Log 1"',
            "ordinary partition of public.log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        ),
        Line("column", 'public."Log 1".at', "date inherited"),
        Line("order", 'public."Log 1"', "at"),
        Line("index", "public.i", 'CREATE INDEX i ON public."Log 1" USING btree (at)'),
        Line("comment", 'table column public."Log 1".at', "when"),
        Line("trigger", 'public."Log 1".t', "CREATE TRIGGER t"),
    }
    inner = {Line("table", "public.inner", 'ordinary partition of public."Log 1" DEFAULT')}
    strange = {Line("table", "public.strange", "ordinary partition of public.unknown DEFAULT")}

    assert difference(expected, expected | january | inner) == []
    assert same(expected, expected | january | inner)
    assert difference(expected | january, expected) == ['table public."Log 1" is missing']
    assert difference(expected, expected | strange) == ["table public.strange is unexpected"]


def test_differences_are_told_object_by_object() -> None:
    """Each object by itself, a body as a diff, a long text cut, in an order that does not depend on the sets'."""
    body = "CREATE FUNCTION f()\nAS $$\nBEGIN\n    {}\nEND$$\n"
    expected = LINES | {
        Line("function", "public.f()", body.format("one")),
        Line("index", "public.i", "CREATE INDEX i ON public.steps USING btree (due)"),
        Line("constraint", "public.steps.c", "CHECK (true)"),
        Line("view", "public.v", "as SELECT 1;"),
        Line("column", "public.v.a", "integer"),
    }
    found = {
        Line("table", "public.steps", "ordinary row level security"),
        Line("column", "public.steps.due", "timestamp without time zone"),
        Line("column", "public.steps.title", "x" * 400),
        Line("order", "public.steps", "due, title"),
        Line("acl", "table public.steps", "public:DELETE"),
        Line("function", "public.f()", body.format("two")),
        Line("index", "public.i", "CREATE INDEX i ON public.steps USING btree (due) invalid"),
    }

    told = difference(expected, found)

    assert told == [
        "function public.f() differs:",
        "    --- expected", "    +++ found", "    @@ -2,4 +2,4 @@", "     AS $$", "     BEGIN", "    -    one", "    +    two",
        "     END$$",
        "table public.steps differs: expected ordinary; found ordinary row level security",
        "table public.steps: column due differs: expected date; found timestamp without time zone",
        f"table public.steps: column title is unexpected ({'x' * 299}…)",
        "table public.steps: constraint c is missing (CHECK (true))",
        "table public.steps: index public.i is not valid: no query uses it",
        "table public.steps: comment is missing (what is to be done)",
        "table public.steps: grants: missing public:SELECT; unexpected public:DELETE",
        "view public.v is missing",
    ]  # fmt: skip


def test_the_written_schema_is_the_stored_one(planner: object) -> None:
    """alembic/schema.sql is what `make schema-sql` would write now."""
    assert schema_sql.place(ROOT / "alembic").read_text() == schema_sql.text(planner)  # type: ignore[arg-type]


def test_every_revision_has_its_fingerprint() -> None:
    """Each revision comes with its line and its file, in the order of the history."""
    revisions = sorted(path.name[:3] for path in (ROOT / "alembic" / "versions").glob("*.py"))

    found = stored.fingerprints(ROOT / "alembic")

    assert list(found) == revisions
    assert found[HEAD] == of(stored.expected(ROOT / "alembic", revisions))

"""Functions and triggers from files: both directions against a real server, online and as SQL for psql."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_planner_schema.guard.findings import Broken, Refused
from tests.catalog import catalog, difference
from tests.conftest import Database, Project, some
from tests.test_offline import run, written

APPLY, REVERT = "sql.apply(sql_files)", "sql.revert(sql_files)"


def function(signature: str = "f()", result: str = "int", body: str = "SELECT 1", *, more: str = "") -> str:
    """A function's file."""
    tag = "$function$"
    return (
        f"CREATE OR REPLACE FUNCTION public.{signature} RETURNS {result} LANGUAGE sql STABLE\n"
        f"SET search_path = pg_catalog, pg_temp\nAS {tag}\n{body}\n{tag};\n\n"
        f"COMMENT ON ROUTINE public.{signature.split('(')[0]} IS 'It is {body[:20].replace(chr(39), '')}';\n{more}"
    )


def trigger(create: str, table: str = "public.t") -> str:
    """A trigger's file."""
    name = re.findall(r"TRIGGER (\w+)", create)[0]
    return (
        f"{create} ON {table}\nFOR EACH ROW EXECUTE FUNCTION public.note();\n\n"
        f"COMMENT ON TRIGGER {name} ON {table} IS 'Noted';\n"
    )


NOTE = (
    "CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$\n"
    "BEGIN\n    RETURN NEW;\nEND\n$$;\nCOMMENT ON FUNCTION public.note() IS 'Does nothing';\n"
)


def step(
    project: Project, revision: str, files: dict[str, str], up: str = APPLY, down: str = REVERT, **more: Any
) -> Path:
    """A revision that names these files, and those of them with a text."""
    for name, text in files.items():
        path = project.folder / "alembic" / "sql" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text, encoding="utf-8")
    more.setdefault("expectations", 'expect.query("SELECT 1", equals=1)')
    return project.revision(
        revision, f"create_{revision}", up, down, type="function", reversible="lossless",
        more=f"from mcp_planner_schema.operations import sql\n\nsql_files = {list(files)!r}\n", **more,
    )  # fmt: skip


def there_and_back(database: Database, project: Project, revisions: int) -> list[set[tuple[str, str, str]]]:
    """One step at a time up, down and up again; each state is the same each time. Gives the states."""
    states = [catalog(database)]
    for number in range(1, revisions + 1):
        project.upgrade(f"{number:03}")
        states.append(catalog(database))
    for number in reversed(range(revisions)):
        project.downgrade(f"{number:03}" if number else "base")
        assert difference(catalog(database), states[number]) == []
    project.upgrade()
    assert difference(catalog(database), states[-1]) == []
    return states


def by_file_too(database: Database, project: Project, folder: Path, states: list[Any]) -> None:
    """The SQL that psql runs, up and down, leaves what the online runs leave."""
    run(database, folder, written(project, "upgrade", "head"))
    assert difference(catalog(database), states[-1]) == []
    run(database, folder, written(project, "downgrade", "head:base"))
    assert difference(catalog(database), states[0]) == []


CHANGES = {
    "result": [function(result="int"), function(result="bigint"), function(result="SETOF int")],
    "arguments": [function("f(a int)"), function("f(a int, b text DEFAULT 'x, (')"), function('f("A b" int[])')],
    "renamed argument": [function("f(a int)"), function("f(b int)")],
    "defaults": [function("f(a int DEFAULT 1)"), function("f(a int DEFAULT 2)"), function("f(a int)")],
    "out arguments": [function("f(a int, OUT b int)"), function("f(a int, OUT b int, OUT c int)", "record", "SELECT 1, 2"),
                      function("f(a int)", "TABLE (x int, y text)", "SELECT 1, 'y'")],
    "variadic": [function("f(VARIADIC a numeric[])"), function("f(a numeric(10, 2), VARIADIC b text[] = '{}')")],
    "kind": [function("f()"), "CREATE OR REPLACE PROCEDURE public.f(INOUT a int)\nLANGUAGE sql AS $$ SELECT a $$;\n"
             "COMMENT ON PROCEDURE public.f IS 'p';\n"],
    "quoted": [function('"F x"(a int)'), function('"F x"(a bigint)')],
    "another name": [function("f(a int)"), function("g(a int)")],
    "body only": [function(), function(body="SELECT 2"), function(body="SELECT 3")],
}  # fmt: skip


@pytest.mark.parametrize("case", some(CHANGES))
def test_a_changed_function_goes_up_and_down_without_a_trace(
    empty: Database, project: Project, new_database: Callable[[], Database], tmp_path: Path, case: str
) -> None:
    """Whatever changes in a signature, each revision has its own function alone, online and by file, both ways."""
    files = CHANGES[case]
    for number, text in enumerate(files, 1):
        step(project, f"{number:03}", {f"{number:03}/f.sql": text})

    states = there_and_back(empty, project, len(files))

    assert [sum(kind == "function" for kind, _, _ in state) for state in states] == [0] + [1] * len(files)
    by_file_too(new_database(), project, tmp_path, states)


def test_triggers_change_and_move(
    empty: Database, project: Project, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """A trigger becomes another kind, a constraint trigger, a changed one, and one of another table; and all the way back."""
    files = [
        trigger("CREATE OR REPLACE TRIGGER x BEFORE INSERT"),
        trigger("CREATE OR REPLACE TRIGGER x AFTER INSERT OR UPDATE OF id"),
        trigger("CREATE CONSTRAINT TRIGGER x AFTER UPDATE"),
        trigger("CREATE CONSTRAINT TRIGGER x AFTER INSERT", "public.t DEFERRABLE INITIALLY DEFERRED").replace(
            "ON public.t DEFERRABLE INITIALLY DEFERRED IS", "ON public.t IS"
        ),
        trigger("CREATE OR REPLACE TRIGGER x BEFORE DELETE", 'public."T on"'),
    ]
    project.revision("001", "create_t", 'op.execute("CREATE TABLE t (id int); CREATE TABLE \\"T on\\" ()")',
                     'op.execute("DROP TABLE t, \\"T on\\"")', expectations='expect.table("t")')  # fmt: skip
    step(project, "002", {"002/note.sql": NOTE})
    for number, text in enumerate(files, 3):
        step(project, f"{number:03}", {f"{number:03}/x.sql": text})

    states = there_and_back(empty, project, 7)

    assert [sum(kind == "trigger" for kind, _, _ in state) for state in states] == [0, 0, 0, 1, 1, 1, 1, 1]
    by_file_too(new_database(), project, tmp_path, states)


def test_overloads_are_files_of_their_own(empty: Database, project: Project) -> None:
    """Two functions of one name are told apart by their files' names; changing one leaves the other alone."""
    one, other = (
        function("f(a int)"),
        function("f(a text)").replace("ROUTINE public.f IS", "FUNCTION public.f(text) IS"),
    )
    one = one.replace("ROUTINE public.f IS", "FUNCTION public.f(int) IS")
    changed = one.replace("f(a int)", "f(a int, b int)").replace("f(int) IS", "f(int, int) IS")
    step(project, "001", {"001/f_by_number.sql": one, "001/f_by_text.sql": other})
    step(project, "002", {"002/f_by_number.sql": changed})

    there_and_back(empty, project, 2)

    found = empty.rows("SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'f' ORDER BY 1")
    assert found == [("f(integer,integer)",), ("f(text)",)]


def test_a_removed_object_comes_back_and_stays_away(
    empty: Database, project: Project, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """remove drops, its downgrade creates; made anew later, going back removes it again and not to what was before."""
    step(project, "001", {"001/f.sql": function(), "001/g.sql": function("g()")})
    step(project, "002", {"001/f.sql": "", "001/g.sql": ""}, "sql.remove(sql_files)", APPLY)
    step(project, "003", {"003/f.sql": function("f(a int)")})

    states = there_and_back(empty, project, 3)

    assert [sum(kind == "function" for kind, _, _ in state) for state in states] == [0, 2, 0, 1]
    by_file_too(new_database(), project, tmp_path, states)


def test_the_file_before_is_the_nearest_ancestors(empty: Database, project: Project) -> None:
    """Through branches and ids that are no numbers, going back brings what this line of revisions had, not another's."""

    def made(revision: str, parents: str, version: int) -> None:
        folder = project.folder / "alembic" / "sql" / revision
        folder.mkdir(parents=True)
        (folder / "f.sql").write_text(function(body=f"SELECT {version}"))
        project.write(f"{revision}_x.py",
            "from mcp_planner_schema.operations import sql\n"
            f"revision = {revision!r}\ndown_revision = {parents}\nsql_files = ['{revision}/f.sql']\n"
            f"def upgrade():\n    {APPLY}\ndef downgrade():\n    {REVERT}\n")  # fmt: skip

    project.configure(headers="optional")
    made("ae1027a6acf", "None", 1)
    made("27c6a30d7c24", "'ae1027a6acf'", 2)
    project.write("bbb_x.py", "revision = 'bbb'\ndown_revision = 'ae1027a6acf'\n"
                  "def upgrade():\n    pass\ndef downgrade():\n    pass\n")  # fmt: skip
    project.write("ccc_x.py", "revision = 'ccc'\ndown_revision = ('bbb', '27c6a30d7c24')\n"
                  "def upgrade():\n    pass\ndef downgrade():\n    pass\n")  # fmt: skip
    made("ddd", "'ccc'", 4)
    seen = []

    project.upgrade("head")
    for target in ("ccc", "27c6a30d7c24", "ae1027a6acf"):
        seen.append(empty.value("SELECT public.f()"))
        project.downgrade(target)
    seen.append(empty.value("SELECT public.f()"))

    assert seen == [4, 2, 2, 1]


def test_text_arrives_as_it_is(
    empty: Database, project: Project, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    """Percent signs, colons, quotes, dollars, semicolons, tabs and backslashes are the file's, online and by psql."""
    value = "50% %s %(x)s\t:name ::int ; $1 \\n \"q\" 'é' {brace} -- /* COMMIT;"
    body = f"SELECT $v${value}$v$::text"
    text = function(result="text", body=body, more=f"COMMENT ON FUNCTION public.f() IS $c${value}$c$;\n-- the end")
    step(project, "001", {"001/f.sql": text.replace("\n", "\r\n")})
    asked = "SELECT public.f(), obj_description('public.f'::regproc), prosrc FROM pg_proc WHERE proname = 'f'"
    by_file = new_database()

    project.upgrade()
    run(by_file, tmp_path, written(project, "upgrade", "head"))

    assert empty.rows(asked) == by_file.rows(asked) == [(value, value, f"\n{body}\n")]


ACL = """
SELECT pg_get_userbyid(proowner), ARRAY(SELECT coalesce(pg_get_userbyid(nullif(grantee, 0)), 'PUBLIC') || ' ' || is_grantable
  FROM aclexplode(proacl) ORDER BY 1) FROM pg_proc WHERE proname = 'f'
"""


@pytest.mark.parametrize("offline", [False, True])
def test_owner_and_privileges_outlive_a_change_of_signature(
    empty: Database, project: Project, tmp_path: Path, offline: bool
) -> None:
    """What was granted, revoked and given away holds for the new function too, up and down; nothing is granted besides."""
    step(project, "001", {"001/f.sql": function("f(a int)")})
    step(project, "002", {"002/f.sql": function("f(a bigint)")})
    names = [f"{empty.name}_{letter}" for letter in ("Owner", "r", "d")]
    owner, reader, default = (f'"{name}"' for name in names)
    project.upgrade("001")
    try:
        for name in (owner, reader, default):
            empty.rows(f"CREATE ROLE {name}")
        empty.rows(f"ALTER FUNCTION f(int) OWNER TO {owner}")
        empty.rows(
            f"REVOKE ALL ON FUNCTION f(int) FROM PUBLIC; GRANT EXECUTE ON FUNCTION f(int) TO {reader} WITH GRANT OPTION"
        )
        empty.rows(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {default}")
        seen = [empty.rows(ACL)]

        for up in (True, False):
            if offline:
                run(empty, tmp_path, written(project, *(("upgrade", "001:002") if up else ("downgrade", "002:001"))))
            else:
                project.upgrade() if up else project.downgrade("001")
            seen.append(empty.rows(ACL))
    finally:
        for name in (owner, reader, default):
            empty.rows(f"DROP OWNED BY {name}; DROP ROLE {name}")

    assert seen == [[(names[0], [f"{names[0]} false", f"{names[1]} true"])]] * 3


def test_default_privileges_stay_default(empty: Database, project: Project) -> None:
    """A function that nobody granted anything on has no list of privileges afterwards either."""
    step(project, "001", {"001/f.sql": function("f(a int)")})
    step(project, "002", {"002/f.sql": function("f(a bigint)")})

    project.upgrade()

    assert empty.value("SELECT proacl FROM pg_proc WHERE proname = 'f'") is None


@pytest.mark.parametrize("headers", ["required", "optional"])
def test_a_released_file_that_was_edited_is_refused(empty: Database, project: Project, headers: str) -> None:
    """The next run names the file; its old text is kept, and with it back (as CRLF even) the run goes on."""
    project.configure(headers=headers)
    step(project, "001", {"001/f.sql": function(), "001/g.sql": function("g()")})
    project.upgrade()
    step(project, "002", {"002/h.sql": function("h()")})
    file = project.folder / "alembic" / "sql" / "001" / "g.sql"
    file.write_text(file.read_text().replace("SELECT 1", "SELECT  1"))

    with pytest.raises(Refused) as caught:
        project.upgrade()

    (finding,) = caught.value.findings
    assert finding.code == "applied-edited"
    assert "sql/001/g.sql of revision 001 was changed after it was applied" in finding.text()
    assert "f.sql" not in finding.text()
    kept = empty.value("SELECT source FROM migration.history WHERE id = %s", int(finding.values["history"]))
    block = kept.split("# sql/001/g.sql:\n")[1]
    file.write_text("".join(f"{line[2:]}\r\n" for line in block.splitlines() if line.startswith("#|")), newline="")
    project.upgrade()
    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_a_released_file_that_is_gone_is_refused(empty: Database, project: Project) -> None:
    """A file taken away after its revision was applied is an edit as well, and no crash."""
    step(project, "001", {"001/f.sql": function()})
    project.upgrade()
    step(project, "002", {"002/h.sql": function("h()")})
    (project.folder / "alembic" / "sql" / "001" / "f.sql").unlink()

    with pytest.raises(Refused) as caught:
        project.upgrade()

    assert "sql/001/f.sql of revision 001" in caught.value.text()


@pytest.mark.parametrize("arguments", [("upgrade", "head"), ("upgrade", "head", "--sql")])
def test_an_unusable_file_of_a_history_without_headers_is_refused_when_it_runs(
    empty: Database, project: Project, arguments: tuple[str, ...]
) -> None:
    """Where nothing was judged before, the run ends with the finding and exit code 3, no traceback, and nothing done."""
    project.configure(headers="optional")
    project.write("aaa_x.py",
        "from alembic import op\nfrom mcp_planner_schema.operations import sql\nrevision = 'aaa'\ndown_revision = None\n"
        "sql_files = ['aaa/f.sql']\ndef upgrade():\n    op.execute('CREATE TABLE t ()')\n    sql.apply(sql_files)\n"
        "def downgrade():\n    pass\n")  # fmt: skip

    ran = project.alembic(*arguments)

    assert ran.returncode == 3, ran.stderr
    assert (
        "sql/aaa/f.sql:1: sql-file-unusable\n  what  sql/aaa/f.sql cannot be used: there is no such file" in ran.stderr
    )
    assert f"next: correct what it names, then alembic {' '.join(arguments)}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert empty.value("SELECT to_regclass('t') IS NULL")


@pytest.mark.parametrize("name", ["aaa/g.sql", "zzz/f.sql", "f.sql"])
def test_a_file_that_no_revision_names_is_refused_when_it_runs(empty: Database, project: Project, name: str) -> None:
    """What is in nobody's list is in nobody's checksum, and is not run even if it lies there."""
    project.configure(headers="optional")
    for folder in ("aaa", "zzz"):
        (project.folder / "alembic" / "sql" / folder).mkdir(parents=True)
        for file in ("f.sql", "g.sql"):
            (project.folder / "alembic" / "sql" / folder / file).write_text(function())
    project.write("aaa_x.py",
        "from mcp_planner_schema.operations import sql\nrevision = 'aaa'\ndown_revision = None\nsql_files = ['aaa/f.sql']\n"
        f"def upgrade():\n    sql.apply([{name!r}])\ndef downgrade():\n    pass\n")  # fmt: skip

    with pytest.raises(Refused, match="does not name it in sql_files"):
        project.upgrade()

    assert empty.rows("SELECT 1 FROM pg_proc WHERE proname = 'f'") == []


def test_an_error_in_a_file_is_told_as_the_servers(empty: Database, project: Project) -> None:
    """SQL that the server refuses breaks the step with the server's words; the step is undone whole."""
    step(project, "001", {"001/f.sql": function(), "001/g.sql": function("g()", body="SELECT nowhere")})

    with pytest.raises(Broken, match='column "nowhere" does not exist'):
        project.upgrade()

    assert empty.rows("SELECT 1 FROM pg_proc WHERE proname IN ('f', 'g')") == []


def test_a_function_that_others_need_is_not_dropped_over_their_heads(empty: Database, project: Project) -> None:
    """A new signature drops the old function without CASCADE: a view that calls it stops the step."""
    step(project, "001", {"001/f.sql": function("f(a int)")})
    step(project, "002", {"002/f.sql": function("f(a bigint)")})
    project.upgrade("001")
    empty.rows("CREATE VIEW v AS SELECT public.f(1)")

    with pytest.raises(Broken, match="other objects depend on it"):
        project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.rows("SELECT * FROM v") == [(1,)]

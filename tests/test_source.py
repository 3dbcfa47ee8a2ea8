"""Revision files as bytes: whatever lies in the folder is a clear finding; the checksum sees what the code says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest

from mcp_planner_schema.guard import source
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.source import Source
from tests.conftest import ROOT

NASTY = ROOT / "tests" / "revisions" / "nasty.py"
NASTY_CHECKSUM = "v1:43bfc64abefc325e273e69307227f57c98b11e16f0a57a5cee26812dbfa24da9"
PLAIN = (ROOT / "tests" / "revisions" / "good_plain.py").read_text()


def written(folder: Path, content: bytes | str) -> Path:
    """A revision file of this content."""
    path = folder / "005_add_x.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path) -> Finding:
    """The one finding about a file: instead of it, or beside what could be read nevertheless."""
    read = source.read(path)
    finding = read if isinstance(read, Finding) else read.flaws[0]
    assert "{" not in finding.text()
    assert finding.revision == "005"
    return finding


def sum_of(text: str, folder: Path) -> str:
    """The checksum of a text."""
    read = source.read(written(folder, text))
    assert isinstance(read, Source), read.text()
    return source.checksum(read)


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"x = 1\ny = '\xff'\n", 2, "byte 0xff at offset 11"),
        (b"\xff\xfe" + "x = 1".encode("utf-16-le"), 1, "byte order mark"),
        (b"\xfe\xff" + "x = 1".encode("utf-16-be"), 1, "byte order mark"),
        (b"\xff\xfe\0\0" + "x = 1".encode("utf-32-le"), 1, "byte order mark"),
        (b"\xef\xbb\xbfx = 1\n", 1, "byte order mark"),
        (b"x = 1\n\ny = '\0'\n", 3, "NUL"),
        (b"# coding: latin-1\nx = 1\n", 1, "iso-8859-1"),
        (b"#!/bin/env python\n# -*- coding: utf-7 -*-\nx = 1\n", 2, "utf-7"),
        (b"# coding: klingon\n", 1, "klingon"),
    ],
)
def test_what_is_no_plain_utf8_is_a_finding(tmp_path: Path, content: bytes, line: int, problem: str) -> None:
    """Bad bytes, marks, NUL and another declared encoding are told with the line they stand in."""
    finding = refused(written(tmp_path, content))

    assert finding.code == "source-encoding"
    assert finding.where.endswith(f"005_add_x.py:{line}")
    assert problem in finding.values["problem"]


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"x = 1\r\n", 1), (b"x = 1\ny = 2\r\nz = 3\r\n", 2), (b"x = 1\ry = 2\r", 1), (b"x = 1\ny = 'a\rb'\n", 2)],
)
def test_line_endings_are_a_finding_at_the_first_of_them(tmp_path: Path, content: bytes, line: int) -> None:
    """CRLF and a lone CR are told with the first line that has one."""
    path = written(tmp_path, content.replace(b"'a\rb'", b"'''a\rb'''"))

    finding = refused(path)

    assert (finding.code, finding.where.rpartition(":")[2]) == ("source-line-endings", str(line))


@pytest.mark.parametrize(
    "content",
    [
        b"x = 'caf\xe9'\n",
        b"\xef\xbb\xbfx = 1\n",
        "x = 'é'\n".encode("utf-16"),
        "x = 'é'\n".encode("utf-32"),
        b"x = 1\0\n",
        b"#!/bin/sh\n# coding: latin-1\nx = 1\n",
        b"x = 1\r\ny = 2\r\n",
        b"x = 1\ry = 2\r",
    ],
)
def test_the_command_to_write_mends_the_file(tmp_path: Path, content: bytes) -> None:
    """The command that a finding about bytes names, typed as it is, leaves a file without findings."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    path = written(folder, content)
    finding = refused(path)

    command = finding.rule.instead.format_map(finding.values).partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True, cwd=Path.cwd(), capture_output=True)

    mended = source.read(path)
    assert isinstance(mended, Source)
    assert mended.flaws == ()


def test_ten_megabytes_are_a_finding_and_cost_nothing(tmp_path: Path) -> None:
    """A file of 10 MB is refused before it is read whole: less than half a second and 4 MB of memory."""
    path = written(tmp_path, b"x = 1\n" * 1_700_000)
    begun = time.monotonic()
    tracemalloc.start()

    finding = refused(path)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (finding.code, finding.values["size"]) == ("source-too-large", str(path.stat().st_size))
    assert time.monotonic() - begun < 0.5
    assert peak < 4_000_000


def _link(path: Path) -> None:
    (path.parent / "elsewhere.py").write_text(PLAIN)
    path.symlink_to(path.parent / "elsewhere.py")


def _dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all.py")


def _link_to_folder(path: Path) -> None:
    path.symlink_to(path.parent, target_is_directory=True)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [_link, _dangling, _link_to_folder, _loop, Path.mkdir, os.mkfifo, _socket])
def test_what_is_no_ordinary_file_is_a_finding(make: object) -> None:
    """Links of every kind, folders, pipes and sockets are refused at once; nothing is opened that could block."""
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path has a limit
        path = Path(folder) / "005_add_x.py"
        assert callable(make)
        make(path)

        assert refused(path).code == "source-link"


def test_the_command_to_write_replaces_a_link(tmp_path: Path) -> None:
    """A link is replaced by what it points to."""
    path = tmp_path / "005_add_x.py"
    _link(path)
    finding = refused(path)

    command = finding.rule.instead.format_map(finding.values).partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]})

    assert isinstance(source.read(path), Source)


def test_what_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    """A file that is gone, or whose permissions forbid it, is told in one sentence."""
    gone = refused(tmp_path / "005_add_x.py")
    forbidden = None
    if os.geteuid() != 0:  # root may read everything
        path = written(tmp_path, "x = 1\n")
        path.chmod(0)
        forbidden = refused(path).values["problem"]

    assert (gone.code, gone.values["problem"]) == ("source-unreadable", "No such file or directory")
    assert forbidden in (None, "Permission denied")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\ndef f(:\n", 2),
        ("x = '''\n\n", 1),
        ("if True:\nx = 1\n", 2),
        ("return = 1\n", 1),
        ("x = " + "(" * 500 + ")" * 500, 1),
        ("x = " + "-" * 200_000 + "1", 1),
        ("x = " + "a." * 200_000 + "b", 1),
        ("x = " + "[" * 5_000 + "]" * 5_000, 1),
        ("x = 0x" + "f" * 10 + "\ny = " + "9" * 5_000, 2),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else str(value),
)
def test_what_python_cannot_read_is_a_finding(tmp_path: Path, text: str, line: int) -> None:
    """Syntax errors and absurd nesting are told with their line, never as a traceback."""
    finding = refused(written(tmp_path, text))

    assert finding.code == "source-syntax"
    assert finding.where.endswith(f":{line}")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "\n\n\n", "x = 1", "\f\nx = 1\n", "x = '\\d'\n", "x = 0x" + "f" * 9_000]
)
def test_odd_but_readable_files_are_read(tmp_path: Path, text: str) -> None:
    """Nothing, comments only, no line end at the end, a form feed, an invalid escape, a giant number: all are Python."""
    read = source.read(written(tmp_path, text))

    assert isinstance(read, Source)
    assert source.checksum(read).startswith("v1:")
    assert read.last_line >= 1


SAME = [
    ("a comment", '"""Create', '# hello\n"""Create'),
    ("a comment inside", "    op.drop", "    # gone\n    op.drop"),
    ("the header", "A thing for the tests", "Another thing"),
    ("a docstring", "upgrade() -> None:\n", 'upgrade() -> None:\n    """It creates."""\n'),
    ("quotes", 'revision = "001"', "revision = '001'"),
    ("empty lines", "depends_on = None\n", "depends_on = None\n\n\n\n"),
    ("indentation", "    op.drop", "        op.drop"),
    ("a wrapped call", 'op.drop_table("thing")', 'op.drop_table(\n        "thing",\n    )'),
    ("brackets", 'revision = "001"', 'revision = ("001")'),
    ("a continued line", 'revision = "001"', 'revision = \\\n    "001"'),
    ("joined strings", '"CREATE TABLE thing (id int PRIMARY KEY)"', '"CREATE TABLE thing " "(id int PRIMARY KEY)"'),
    ("a prefix", '"CREATE', 'u"CREATE'),
    ("a semicolon", "branch_labels = None\ndepends_on = None", "branch_labels = None; depends_on = None"),
    ("a trailing comma", '    expect.table("thing"),\n', '    expect.table("thing")\n'),
]
DIFFERENT = [
    ("a table", 'drop_table("thing")', 'drop_table("things")'),
    ("SQL", "id int PRIMARY", "id bigint PRIMARY"),
    ("a space in SQL", "thing (id", "thing  (id"),
    ("case in SQL", '"CREATE', '"create'),
    ("a parent", "down_revision = None", 'down_revision = "000"'),
    ("one statement less", '    op.drop_table("thing")', "    pass"),
    ("a type", "depends_on = None", "depends_on = False"),
    ("a call that became two statements", '    op.drop_table("thing")', '    op.drop_table\n    ("thing")'),
    ("an annotation", "upgrade() -> None", "upgrade()"),
    ("a number's type", "branch_labels = None", "branch_labels = 1"),
]


@pytest.mark.parametrize(("_", "old", "new"), SAME, ids=[one[0] for one in SAME])
def test_checksum_ignores_what_says_nothing(tmp_path: Path, _: str, old: str, new: str) -> None:
    """Comments, layout, docstrings and what a formatter does leave the checksum as it is."""
    assert PLAIN.count(old) == 1

    assert sum_of(PLAIN.replace(old, new), tmp_path) == sum_of(PLAIN, tmp_path)


@pytest.mark.parametrize(("_", "old", "new"), DIFFERENT, ids=[one[0] for one in DIFFERENT])
def test_checksum_changes_with_the_code(tmp_path: Path, _: str, old: str, new: str) -> None:
    """Whatever would run differently has another checksum."""
    assert PLAIN.count(old) == 1

    assert sum_of(PLAIN.replace(old, new), tmp_path) != sum_of(PLAIN, tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("if a:\n    b()\n    c()\n", "if a:\n    b()\nc()\n"),
        ("a\n(b)\n", "a(b)\n"),
        ("f(*a, **b)", "f(a, b)"),
        ("x = 'a' 'b', 'c'", "x = 'a', 'b' 'c'"),
        ("x = f'{a}'", "x = f'a'"),
        ("x = f'{a!r}'", "x = f'{a!s}'"),
        ("x = f'{a:>3}'", "x = f'{a:>4}'"),
        ("x = f'{{a}}'", "x = f'{a}'"),
        ("x = b'a'", "x = 'a'"),
        ("x = 1.0", "x = 1"),
        ("x = True", "x = 1"),
        ("x = -1", "x = ~1"),
        ("x = a < b", "x = a > b"),
        ("def f(a, /): 0", "def f(a): 0"),
        ("def f(*, a): 0", "def f(a): 0"),
        ("def f(a=None): 0", "def f(a): 0"),
        ("async def f(): 0", "def f(): 0"),
        ("from . import a", "from .. import a"),
        ("import a as b", "import a, b"),
        ("x = 'é'", "x = 'e\u0301'"),
        ("global a", "nonlocal_ = a"),
    ],
)
def test_checksum_tells_structures_apart(tmp_path: Path, one: str, other: str) -> None:
    """Equal words in another structure are another revision: indentation, line ends, brackets, prefixes count."""
    assert sum_of(one, tmp_path) != sum_of(other, tmp_path)


def test_checksum_of_a_very_deep_tree(tmp_path: Path) -> None:
    """A sum of two thousand terms, deeper than Python's own recursion, has a checksum."""
    text = "x = " + " + ".join(["a"] * 2_000)

    assert sum_of(text, tmp_path) != sum_of(text + " + a", tmp_path)


def test_checksum_of_a_nasty_file_is_what_it_was() -> None:
    """Nested f-strings, continued lines, form feeds, tabs, match, walrus, odd identifiers: equal on every Python, for ever."""
    read = source.read(NASTY)

    assert isinstance(read, Source)
    assert source.checksum(read) == NASTY_CHECKSUM


def _pythons() -> list[str]:
    """One interpreter for each of the other supported Pythons that this machine has."""
    found = []
    for minor in {11, 12, 13} - {sys.version_info.minor}:
        versions = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python"))
        for candidate in filter(None, [*map(str, versions), shutil.which(f"python3.{minor}")]):
            asked = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info.minor)"], capture_output=True, check=False
            )
            if asked.stdout.strip() == str(minor).encode():
                found.append(candidate)
                break
    return found


def test_checksum_is_equal_on_every_python() -> None:
    """3.11, 3.12 and 3.13, which cut f-strings into different tokens, agree on the nasty file and on every revision."""
    pythons = _pythons()
    if not pythons:
        pytest.skip("no other supported Python on this machine")
    paths = [NASTY, *sorted((ROOT / "alembic" / "versions").glob("*.py"))]
    # The others have no Alembic; source.py needs none of it.
    code = (
        "import pathlib, sys, types\n"
        "for name in ('alembic', 'alembic.util', 'mcp_planner_schema.guard'): sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['alembic.util'].CommandError = Exception\n"
        "sys.modules['mcp_planner_schema.guard'].__path__ = [sys.argv[1]]\n"
        "from mcp_planner_schema.guard.source import checksum, read\n"
        "for path in sys.argv[2:]: print(checksum(read(pathlib.Path(path))))"
    )
    expected = [source.checksum(read) for path in paths if isinstance(read := source.read(path), Source)]

    for python in pythons:
        result = subprocess.run(
            [python, "-c", code, str(ROOT / "mcp_planner_schema" / "guard"), *map(str, paths)],
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.stdout.split(), result.stderr) == (expected, ""), python

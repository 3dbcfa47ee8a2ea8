"""A revision file as text: read with suspicion, never imported, and reduced to a checksum."""

from __future__ import annotations

import ast
import codecs
import hashlib
import io
import os
import re
import shlex
import stat
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import Finding

LIMIT = 1_000_000
"""Bytes a revision may have. The largest hand-written ones known are a tenth of it."""

# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# How files stand below a revision's text: each after its name, with a line more where its last one does not end.
_PLACED = re.compile(r"# ((?:sql|scripts|versions)/[^\n:]+):")
_UNENDED = "#\\ no newline at the end"
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One revision file. ``shown`` is the path as messages print it.

    ``flaws`` are findings Python can live with: line endings, a mark at the beginning. ``text`` is without them.
    """

    path: Path
    shown: str
    text: str
    tree: ast.Module
    flaws: tuple[Finding, ...] = ()

    @property
    def last_line(self) -> int:
        """The number of the last line that holds anything, at least 1."""
        return self.text.rstrip("\n").count("\n") + 1

    @property
    def below_docstring(self) -> int:
        """The number of the line where the docstring ends; 1 where there is none."""
        return self.tree.body[0].end_lineno or 1 if ast.get_docstring(self.tree) is not None else 1


def shown(path: Path) -> str:
    """The path relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def finding(path: Path, line: int, code: str, /, **values: object) -> Finding:
    """A finding at one line of a file; the file's number stands for the revision."""
    number = path.name.removesuffix(".py").split("_")[0]
    return Finding(code, f"{shown(path)}:{line}", number, {key: str(value) for key, value in values.items()})


def read(path: Path) -> Source | Finding:
    """Read one file. Gives a :class:`Finding` for whatever cannot be a revision; raises nothing for bad content."""
    file = shlex.quote(shown(path))
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            cure = f'cp "$(readlink -f {file})" copy && mv copy {file}'
            return finding(path, 1, "source-link", instead=cure if stat.S_ISLNK(mode) else f"rm -r {file}")
        # Between the look and the open the file may change: O_NOFOLLOW refuses a link, O_NONBLOCK does not wait for a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            size = os.fstat(descriptor).st_size
            raw = opened.read(LIMIT + 1)
    except OSError as error:
        return finding(path, 1, "source-unreadable", problem=error.strerror or str(error), file=file)
    if len(raw) > LIMIT:
        return finding(path, 1, "source-too-large", size=size, limit=LIMIT)
    text = _decoded(path, raw, file)
    if isinstance(text, Finding):
        return text
    flaws = []
    if text.startswith("\ufeff"):
        text = text[1:]
        flaws.append(_encoding(path, 1, "it begins with a byte order mark",
                               f"perl -pi -e 's/^\\xEF\\xBB\\xBF// if $. == 1' {file}"))  # fmt: skip
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        flaws.append(finding(path, line, "source-line-endings", line=line, file=file))
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads it
    return parsed(path, text, tuple(flaws))


def parsed(path: Path, text: str, flaws: tuple[Finding, ...] = ()) -> Source | Finding:
    """A text with LF as the revision that stands, or could stand, at ``path``. Reads no file and runs nothing."""
    file = shlex.quote(shown(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a string is the linter's business
            tree = ast.parse(text, filename=shown(path))
    except SyntaxError as error:
        return finding(path, error.lineno or 1, "source-syntax", problem=error.msg, file=file)
    except (RecursionError, MemoryError, ValueError) as error:
        return finding(path, 1, "source-syntax", problem=f"it is nested too deeply ({type(error).__name__})", file=file)
    return Source(path, shown(path), text, tree, flaws)


def _decoded(path: Path, raw: bytes, file: str) -> str | Finding:
    """The file's text as UTF-8, a mark at its beginning included, or what is wrong with its bytes."""

    def convert(encoding: str) -> str:
        return f"iconv -f {encoding} -t UTF-8 {file} > fixed && mv fixed {file}"

    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _encoding(path, 1, "it begins with a byte order mark", convert(encoding))
    if b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        return _encoding(path, line, "it contains a NUL byte",
                         f"perl -pi -e 's/\\0//g' {file}")  # fmt: skip
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _encoding(path, line, f"byte 0x{raw[error.start]:02x} at offset {error.start}", convert("LATIN1"))
    try:
        declared, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    except SyntaxError as error:
        declared = str(error)
    if declared not in ("utf-8", "utf-8-sig"):
        line = 1 if b"coding" in raw.split(b"\n", 1)[0] else 2
        problem = f"it declares another encoding ({declared})"
        return _encoding(path, line, problem, f"sed -i {line}d {file}")
    return text


def _encoding(path: Path, line: int, problem: str, instead: str) -> Finding:
    return finding(path, line, "source-encoding", problem=problem, instead=instead)


def checksum(source: Source, files: Mapping[str, str | None] | None = None) -> str:
    """``v1:<sha256>`` over what the code says: comments, docstrings, layout and quotes make no difference, values do.

    ``files`` are the texts of the SQL files and scripts that it names, which count to the letter; None is one that is not
    there.

    A normal form of the syntax tree, equal on every Python: ``ast.dump`` differs between versions, and a hash of the bytes
    between formatters. The header is a docstring, so that a corrected description does not count as an edit of what was run.
    """
    digest = hashlib.sha256()
    for part in _normal(source.tree):
        digest.update(part.encode() + b"\0")
    for name, text in (files or {}).items():
        if text is not None:
            digest.update(f"file {name}\0{text}\0".encode())
    return f"v1:{digest.hexdigest()}"


def kept(source: Source, files: Mapping[str, str | None]) -> str:
    """What the history keeps of a revision: its text, and below it, as comments of it, the files that it names."""
    below = "".join(commented(name, text) for name, text in files.items() if text is not None)
    return source.text + ("" if not below or source.text.endswith("\n") else "\n") + below


def placed(name: str) -> str:
    """Where a revision's file lies below the folder of the history: a SQL file is called without its ``sql/``.

    A body in SQL lies beside the revision, and is called ``versions/026_add_x.up.sql`` wherever that is.
    """
    return name if name.count("/") > 1 or name.endswith((".up.sql", ".down.sql")) else f"sql/{name}"


def commented(name: str, text: str) -> str:
    """One file as a block of Python comments, from which ``sed -n 's/^#|//p'`` gives it back."""
    lines = "".join(f"#|{line}\n" for line in text.removesuffix("\n").split("\n"))
    return f"# {placed(name)}:\n{lines}" + ("" if text.endswith("\n") else f"{_UNENDED}\n")


def taken_apart(kept: str) -> tuple[str, dict[str, str]]:
    """What :func:`kept` has put together: the revision's text, and the texts of its files by where they lie."""
    lines = kept.removesuffix("\n").split("\n")
    files: dict[str, str] = {}
    end = len(lines)
    while end:
        ended = lines[end - 1] != _UNENDED
        last = end if ended else end - 1
        first = last
        while first and lines[first - 1].startswith("#|"):
            first -= 1
        name = _PLACED.fullmatch(lines[first - 1]) if 0 < first < last else None
        if name is None:
            break
        files[name[1]] = "\n".join(line[2:] for line in lines[first:last]) + ("\n" if ended else "")
        end = first - 1
    if not files:
        return kept, {}
    return "\n".join(lines[:end]) + "\n", dict(reversed(files.items()))


def _normal(tree: ast.AST) -> Iterator[str]:
    todo: list[object] = [tree]  # a stack, not recursion: a sum of a thousand terms is a tree a thousand deep
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            todo += ["]", *reversed(item), "["]
        elif isinstance(item, ast.Constant):
            yield f"{type(item.value).__name__} {_value(item.value)}"
        elif isinstance(item, ast.AST):
            fields = {name: value for name, value in ast.iter_fields(item) if name != "ctx"}
            if isinstance(item, _WITH_DOCSTRING) and ast.get_docstring(item, clean=False) is not None:
                fields["body"] = item.body[1:]
            if isinstance(item, ast.JoinedStr):
                # Python 3.12 leaves empty texts between the parts of an f-string.
                fields["values"] = [part for part in item.values if getattr(part, "value", None) != ""]
            todo.append(")")
            for name, value in reversed(fields.items()):
                # Newer Pythons have more fields, empty where the source is older.
                if value is not None and value != []:
                    todo += [value, name]
            todo.append(type(item).__name__ + "(")
        else:
            yield str(item)


def _value(value: object) -> str:
    # repr() depends on what this Python's Unicode calls printable, and refuses integers of more than 4,300 digits.
    return f"{value:x}" if isinstance(value, int) else ascii(value)

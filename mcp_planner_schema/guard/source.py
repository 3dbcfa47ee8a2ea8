"""A revision file as text: read with suspicion, never imported, and reduced to a checksum."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import stat
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import Finding

LIMIT = 1_000_000
"""Bytes a revision may have. The largest hand-written ones known are a tenth of it."""

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Source:
    """One revision file. ``shown`` is the path as messages print it."""

    path: Path
    shown: str
    text: str
    tree: ast.Module


def shown(path: Path) -> str:
    """The path relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def read(path: Path) -> Source | Finding:
    """Read one file. Gives a :class:`Finding` for whatever cannot be a revision; raises nothing for bad content."""
    name = shown(path)

    def finding(code: str, line: int = 1, /, **values: object) -> Finding:
        return Finding(
            code, f"{name}:{line}", path.name.split("_")[0], {"file": name, **{k: str(v) for k, v in values.items()}}
        )

    try:
        # O_NONBLOCK: a FIFO would otherwise hang the open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            return finding("source-link")
        return finding("source-syntax", problem=error.strerror or "it cannot be opened")
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return finding("source-link")
        if status.st_size > LIMIT:
            return finding("source-too-large", size=status.st_size, limit=LIMIT)
        raw = file.read(LIMIT + 1)
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return finding(
            "source-encoding", problem="it begins with a byte order mark", guess="UTF-8" if raw[0] == 0xEF else "UTF-16"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return finding(
            "source-encoding", line, problem=f"byte 0x{raw[error.start]:02x} at offset {error.start}", guess="LATIN1"
        )
    if "\0" in text:
        return finding(
            "source-encoding",
            text.count("\n", 0, text.index("\0")) + 1,
            problem="it contains a NUL byte",
            guess="UTF-16",
        )
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        return finding("source-line-endings", line, line=line)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a string is the linter's business
            tree = ast.parse(text, filename=name)
    except SyntaxError as error:
        return finding("source-syntax", error.lineno or 1, problem=error.msg)
    except (RecursionError, MemoryError, ValueError) as error:
        return finding("source-syntax", problem=f"it is nested too deeply or malformed ({type(error).__name__})")
    return Source(path, name, text, tree)


def checksum(source: Source) -> str:
    """``v1:<sha256>`` over the tokens of the code, without docstring of the module, comments and layout.

    ``ast.dump`` would differ between Python versions, and a hash of the bytes between formatters; the header is left out
    so that a corrected description or a waiver does not count as an edit of what was run.
    """
    docstring = ast.get_docstring(source.tree, clean=False) is not None
    skip_to = (source.tree.body[0].end_lineno or 0) if docstring else 0
    digest = hashlib.sha256()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type in _LAYOUT or token.start[0] <= skip_to:
            continue
        digest.update(token.string.encode() + b"\0")
    return f"v1:{digest.hexdigest()}"

"""Prisma itself: its validator, formatter, ``db pull`` and ``migrate diff``, in a process of Node that all tests share.

``PLANNER_TEST_PRISMA`` names a folder whose ``node_modules`` has them (docs/7-testing.md says how it is made).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(os.environ.get("PLANNER_TEST_PRISMA", ""))
_PACKAGES = FOLDER / "node_modules" / "@prisma"
MISSING = (
    "there is no node" if shutil.which("node") is None
    else "" if (_PACKAGES / "prisma-schema-wasm").is_dir()
    else "PLANNER_TEST_PRISMA names no folder with node_modules/@prisma/prisma-schema-wasm"
)  # fmt: skip
"""Why it cannot be had, or nothing."""
CANNOT_PULL = MISSING or (
    "" if all((_PACKAGES / name).is_dir() for name in ("schema-engine-wasm", "adapter-pg"))
    else "PLANNER_TEST_PRISMA has no @prisma/schema-engine-wasm or @prisma/adapter-pg"
)  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """What Prisma says of a text: why it is not valid, how it would be formatted, and what it has understood."""

    error: str | None
    formatted: str
    models: Any


class Prisma:
    """The process; a context manager."""

    def __enter__(self) -> Prisma:
        script = Path(__file__).with_suffix(".mjs")
        self._node = subprocess.Popen(
            ["node", str(script), str(FOLDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._node.communicate(timeout=60)

    def check(self, text: str) -> Checked:
        """Validate and format."""
        return Checked(**self._ask({"what": "check", "text": text}))

    def pull(self, url: str, schemas: list[str] | None = None) -> str:
        """What ``prisma db pull`` writes for a database."""
        return str(self._ask({"what": "pull", "url": url, "schemas": schemas})["text"])

    def migrate(self, url: str, folder: Path, command: str, name: str = "") -> str | None:
        """``prisma migrate``: ``deploy``, or what has become of a migration, ``applied`` or ``rolled back``; gives its error."""
        asked = {"what": "migrate", "url": url, "folder": str(folder), "command": command, "name": name}
        error: str | None = self._ask(asked)["error"]
        return error

    def diff(self, url: str, text: str, external: str = "public.alembic_version") -> str:
        """What ``prisma migrate diff`` would change in a database to be as the text says; nothing where it is so."""
        answer = self._ask({"what": "diff", "url": url, "text": text, "external": [external]})
        return str(answer["script"]).strip() if answer["code"] else ""

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._node.stdin and self._node.stdout
        self._node.stdin.write(json.dumps(asked) + "\n")
        self._node.stdin.flush()
        line = self._node.stdout.readline()
        assert line, f"Prisma has ended: {self._node.poll()}"
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer

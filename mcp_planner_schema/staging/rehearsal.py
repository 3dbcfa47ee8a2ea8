"""One rehearsal: where it takes place, and the files in which its stages leave what they have found for the next ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, settings
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.staging import place, record, stopping

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import URL, Connection

    from mcp_planner_schema.guard.settings import Settings


@dataclass(frozen=True)
class Rehearsal:
    """One rehearsal: where it takes place, and the folder in which its stages leave what they have found."""

    config: Config
    given: Settings
    target: URL
    root: Path

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return Path(self.given.rehearsal_dir)

    def _place(self, name: str) -> Path:
        return self.folder / "running" / f"{name}.json"

    def keep(self, name: str, told: dict[str, Any]) -> None:
        """Leave something for the stages that follow."""
        record.whole(self._place(name), json.dumps(told))

    def kept(self, name: str) -> dict[str, Any]:
        """What a former stage has left. Raises :class:`WrongUse` where it was not run."""
        try:
            told: dict[str, Any] = json.loads(self._place(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WrongUse(f"The stage that leaves '{name}' was not run.", place.AGAIN) from None
        return told

    def left(self, name: str) -> dict[str, Any]:
        """The same; nothing where that stage was not run."""
        return self.kept(name) if self._place(name).exists() else {}

    def forget(self) -> None:
        """Remove what an earlier rehearsal has left there."""
        for path in self._place("x").parent.glob("*.json"):
            path.unlink(missing_ok=True)

    def file(self, variable: str, default: str) -> Path:
        """A file of the project's, or the one that a variable names."""
        named = os.environ.get(variable, "").strip()
        return Path(named).expanduser() if named else self.root / default

    @contextmanager
    def connected(self, *, autocommit: bool = False) -> Iterator[Connection]:
        """A connection to the copy, as the application makes one."""
        engine = connect.engine(self.target, "mcp-planner staging")
        try:
            with stopping.opened(engine, autocommit=autocommit) as connection:
                yield connection
        finally:
            engine.dispose()


def of(config: Config, root: Path) -> Rehearsal:
    """The one that the settings mean. Raises :class:`Refused` for what is not staging, and nobody's development."""
    given = settings.load(config)
    target = connect.url(given)
    place.refuse_elsewhere(given, target)
    return Rehearsal(config, given, target, root)

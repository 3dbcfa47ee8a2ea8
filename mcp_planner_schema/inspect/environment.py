"""Where the project's ``env.py`` keeps the version: whoever asks goes by the same table as the run does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp_planner_schema.guard.findings import Broken, GuardError

if TYPE_CHECKING:
    from alembic.config import Config

# An env.py that calls the guard itself and hands over no option of that name keeps the version where Alembic does.
_OURS = re.compile(r"^from mcp_planner_schema\.guard import run\b", re.MULTILINE)
_MAY_NAME_IT = re.compile(r"version_table|\*\*")


class VersionTable(NamedTuple):
    """The version table by its parts; without a schema it is found by the session's search_path."""

    name: str = "alembic_version"
    schema: str | None = None

    @property
    def shown(self) -> str:
        """As the guard's rows name it."""
        return ".".join(filter(None, (self.schema, self.name)))


def version_table(config: Config) -> VersionTable:
    """The table that ``env.py`` names. It is run for that, with nothing to do; no database is asked.

    Raises :class:`Broken` where it fails.
    """
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    path = Path(script.env_py_location)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _OURS.search(text) and not _MAY_NAME_IT.search(text):
        return VersionTable()
    told: dict[str, Any] = {}
    config.attributes["only_options"] = told
    try:
        with EnvironmentContext(config, script, fn=lambda heads, context: []):
            script.run_env()
    except GuardError:
        raise
    except Exception as error:
        raise Broken(
            f"{path} cannot be run: {type(error).__name__}: {error}", f"correct {path}, then repeat the command"
        ) from error
    finally:
        del config.attributes["only_options"]
    return VersionTable(told.get("version_table") or "alembic_version", told.get("version_table_schema"))

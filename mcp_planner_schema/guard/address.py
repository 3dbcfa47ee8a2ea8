"""Reading a database URL, the same way wherever the guard asks what it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

_WITH_PASSWORD = re.compile(
    r"(?P<driver>[\w+]+)://(?P<user>[^:/@?]*):(?P<password>[^?]*)@(?P<rest>[^@/?]*(/[^@?]*)?(\?.*)?)", re.DOTALL
)


def parse(text: str) -> URL:
    """The URL, with a password as people paste it: @ : % or / unescaped, it ends at the last @ before the host.

    Raises ValueError, whose text never holds the password.
    """
    from urllib.parse import unquote

    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        raw = _WITH_PASSWORD.fullmatch(text)
        made = make_url(f"{raw['driver']}://{raw['rest']}" if raw else text)
    except (ArgumentError, ValueError):
        raise ValueError("no database URL") from None
    return made.set(username=unquote(raw["user"]), password=unquote(raw["password"])) if raw else made

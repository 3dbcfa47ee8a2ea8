"""Reading a database URL, the same way wherever the guard asks what it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

# What asyncpg takes in a URL and libpq does not know: how it talks to the server, not to which one.
_OF_ASYNCPG = (
    "prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size", "max_cached_statement_lifetime",
    "max_cacheable_statement_size", "command_timeout", "timeout", "direct_tls", "async_fallback", "async_creator_fn",
)  # fmt: skip
_SSL = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_WITH_PASSWORD = re.compile(
    r"(?P<driver>[\w+]+)://(?P<user>[^:/@?]*):(?P<password>[^?]*)@(?P<rest>[^@/?]*(/[^@?]*)?(\?.*)?)", re.DOTALL
)


def parse(text: str) -> URL:
    """The URL, with a password as people paste it: @ : % or / unescaped, it ends at the last @ before the host.

    Raises ValueError, whose text never holds the password.
    """
    return for_libpq(_parsed(text))


def is_for_libpq(text: str) -> bool:
    """Whether libpq knows every option of the URL as it stands, so that psql can be given it."""
    made = _parsed(text)
    return for_libpq(made) == made


def _parsed(text: str) -> URL:
    from urllib.parse import unquote

    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        raw = _WITH_PASSWORD.fullmatch(text)
        made = make_url(f"{raw['driver']}://{raw['rest']}" if raw else text)
    except (ArgumentError, ValueError):
        raise ValueError("no database URL") from None
    return made.set(username=unquote(raw["user"]), password=unquote(raw["password"])) if raw else made


def for_libpq(url: URL) -> URL:
    """The same place with the options that libpq knows: an application's URL may be asyncpg's, which calls sslmode ``ssl``."""
    if not url.drivername.endswith("+asyncpg"):
        return url
    ssl = url.query.get("ssl")
    kept = url.difference_update_query([*_OF_ASYNCPG, "ssl"])
    return kept.update_query_dict({"sslmode": _SSL.get(ssl.lower(), ssl)}) if isinstance(ssl, str) else kept

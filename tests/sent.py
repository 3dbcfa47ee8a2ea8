"""What a session sends, one entry for each message: the server itself tells of it, to the session that sent it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

TELLING = "-c log_statement=all -c client_min_messages=log"
"""libpq's ``options`` of a superuser's session that is to be listened to."""

_BEGINS = "LOG:  statement: "


class Heard(list[str]):
    """The notices of a psycopg2 connection. SQLAlchemy empties what it has logged; here it stays."""

    def __setitem__(self, *_: Any) -> None:
        pass

    def messages(self) -> list[str]:
        """What was sent."""
        return [one.removeprefix(_BEGINS).strip() for one in self if one.startswith(_BEGINS)]


def by(engine: Engine) -> Heard:
    """What every connection of the engine sends, after what it is prepared with."""
    heard = Heard()
    event.listen(engine, "connect", lambda dbapi, record: setattr(dbapi, "notices", heard))
    return heard

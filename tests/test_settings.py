"""Settings: read once, refused when unknown or dangerous, each refusal with the next command and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.config import Config

from mcp_planner_schema.guard import settings
from mcp_planner_schema.guard.declared import SETTINGS
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Budgets, Settings, duration
from tests.conftest import ROOT


def load(folder: Path, *lines: str, url: str | None = None, **environ: str) -> Settings:
    """Settings of an alembic.ini with these lines in [guard]."""
    ini = folder / "alembic.ini"
    named = f"sqlalchemy.url = {url}\n" if url is not None else ""
    ini.write_text(f"[alembic]\nscript_location = %(here)s\n{named}[guard]\n" + "\n".join(lines) + "\n")
    return settings.load(Config(str(ini)), environ)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("200ms", 200), ("30s", 30_000), ("10min", 600_000), ("1h", 3_600_000), (" 5 s ", 5_000), ("1ms", 1)],
)
def test_durations_have_units(text: str, milliseconds: int) -> None:
    """A duration is a number with its unit and comes out in milliseconds."""
    assert duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "5 seconds", "-1s", "1.5s", "1d", "s", "1s2", "0x1s", "\uff11s", "∞"])
def test_other_durations_are_refused(text: str) -> None:
    """A number without unit could mean milliseconds or seconds: nothing is guessed."""
    with pytest.raises(ValueError, match="a number with its unit"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("0", "unit"), ("0s", "for ever"), ("0ms", "for ever"), ("25days", "unit"), ("600h", "24 days")],
)
def test_zero_and_too_long_are_refused_with_the_reason(text: str, reason: str) -> None:
    """Zero means no limit to PostgreSQL, and a limit past its counter is none."""
    with pytest.raises(ValueError, match=reason):
        duration(text)


def test_defaults(tmp_path: Path) -> None:
    """An empty [guard] has the documented values, and leaves a foreign history's headers optional."""
    read = load(tmp_path)

    assert read.budgets == Budgets(200, 200, 30_000, 60_000, 86_400_000)
    assert (read.headers, read.headers_from, read.lock_attempts, read.schema) == ("optional", "", 41, "migration")
    assert (read.url, read.environment, read.deploy_lock_timeout) == (None, "development", 600_000)


def test_defaults_are_those_that_alembic_ini_shows() -> None:
    """What this repository's alembic.ini spells out is every setting there is, so that a reader finds them all."""
    text = (ROOT / "alembic.ini").read_text().partition("[guard]")[2]

    assert {line.split(" =")[0] for line in text.splitlines() if " =" in line and line[0] not in "# "} >= (
        set(SETTINGS) - {"headers_from", "database_url"}
    )
    assert "headers_from" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lock_timout = 1s", "unknown setting 'lock_timout'"),
        ("lock_timeout = 0s", "for ever"),
        ("lock_timeout = 0", "a number with its unit"),
        ("lock_timeout =", "lock_timeout = nothing"),
        ("statement_timeout = 0ms", "for ever"),
        ("idle_in_transaction_session_timeout = 0s", "for ever"),
        ("deploy_lock_timeout = 0min", "for ever"),
        ("lock_attempts = 0", "a number from 1 to 9999"),
        ("lock_attempts = many", "a number from 1 to 9999"),
        ("headers = none", "'required' or 'optional'"),
        ("schema = public", "begins with 'migration'"),
        ("schema = migration; DROP", "begins with 'migration'"),
        ("schema = Migration", "begins with 'migration'"),
        ("type_words =", "a list of words"),
        ("type_words = Create, add!", "a list of words"),
        ("schema = 100%", "A percent sign is written %%"),
        ("backfill_slot_wal = much", "it is a size"),
        ("backfill_archive_queue = 0", "a number of WAL segments"),
        ("backfill_dead_tuples = 60", "a share of the rows"),
        ("backfill_share = 0", "a share of the time"),
        ("backfill_share = 10", "a share of the time"),
        ("archive = never", "staging and production never go back without one"),
        ("metrics_file = planner.prom", "an absolute path that ends in .prom"),
        ("metrics_file = /srv/metrics.txt", "an absolute path that ends in .prom"),
        ("metrics_push = http://user:geheim@gateway:9091", "without user and password"),
        ("metrics_listen = 9187", "it is host:port"),
        ("log_format = xml", "it is 'text' or 'json'"),
        ("sensitive_log = sensitive.log", "an absolute path"),
    ],
)
def test_unknown_and_dangerous_settings_are_refused(tmp_path: Path, line: str, said: str) -> None:
    """Each is exit code 2, names the file, the setting and the reason, and ends with what to do next."""
    with pytest.raises(WrongUse) as caught:
        load(tmp_path, line)

    assert caught.value.code == 2
    assert said in caught.value.message
    assert "alembic.ini" in caught.value.message
    assert "alembic.ini" in caught.value.next_command
    assert caught.value.text().endswith(f"next: {caught.value.next_command}")


def test_percent_signs_in_sqlalchemy_url_are_told_how_to_be_written(tmp_path: Path) -> None:
    """An unescaped % in alembic.ini is one sentence, without the password in it."""
    with pytest.raises(WrongUse, match="A percent sign is written %%") as caught:
        load(tmp_path, url="postgresql://u:ge%heim@h/d")

    assert "heim" not in caught.value.text()


@pytest.mark.parametrize(
    ("environ", "ini", "url"),
    [
        ({"DATABASE_URL": "postgresql://a/one"}, "postgresql://b/two", "postgresql://a/one"),
        ({"DATABASE_URL": "  "}, "postgresql://b/two", "postgresql://b/two"),
        ({}, "postgresql://b/two", "postgresql://b/two"),
        ({}, "driver://user:pass@localhost/dbname", None),
        ({}, None, None),
        ({"DATABASE_URL": "postgresql://u:p%40s%s%%@a/d"}, None, "postgresql://u:p%40s%s%%@a/d"),
        ({}, "postgresql://u:p%%40s@a/d", "postgresql://u:p%40s@a/d"),
    ],
)
def test_the_database_is_named_by_the_environment_then_the_file(
    tmp_path: Path, environ: dict[str, str], ini: str | None, url: str | None
) -> None:
    """DATABASE_URL before sqlalchemy.url, the placeholder of ``alembic init`` is none, and % stays what it is."""
    assert load(tmp_path, url=ini, **environ).url == url


@pytest.mark.parametrize(
    ("url", "environ", "environment"),
    [
        ("postgresql://localhost/d", {}, "development"),
        ("postgresql://u:p@LOCALHOST:5433/d", {}, "development"),
        ("postgresql://127.0.0.1/d", {}, "development"),
        ("postgresql://[::1]:5432/d", {}, "development"),
        ("postgresql:///d", {}, "development"),
        ("postgresql:///d?host=/var/run/postgresql", {}, "development"),
        ("postgresql:///d?host=%2Ftmp", {}, "development"),
        ("postgresql://u@/d?host=/tmp&port=5433", {}, "development"),
        ("postgresql://db.example.com/d", {}, "production"),
        ("postgresql://u:p@localhost@db.example.com/d", {}, "production"),
        ("postgresql://localhost.example.com/d", {}, "production"),
        ("postgresql://127.evil.com/d", {}, "production"),
        ("postgresql:///d?host=db.example.com", {}, "production"),
        ("postgresql://localhost/d?hostaddr=203.0.113.1", {}, "production"),
        ("postgresql:///d?host=/tmp,db.example.com", {}, "production"),
        ("postgresql:///d?service=prod", {}, "production"),
        ("postgresql:///d", {"PGHOST": "db.example.com"}, "production"),
        ("postgresql:///d", {"PGHOSTADDR": "203.0.113.1"}, "production"),
        ("postgresql:///d", {"PGHOST": "/tmp"}, "development"),
        ("postgresql:///d", {"PGSERVICE": "prod"}, "production"),
        ("postgresql://localhost/d", {"PGHOST": "db.example.com"}, "development"),
        ("no url at all", {}, "production"),
        ("postgresql://db.example.com/d", {"PLANNER_ENV": "staging"}, "staging"),
        ("postgresql://localhost/d", {"PLANNER_ENV": "production"}, "production"),
    ],
)
def test_an_unnamed_environment_with_a_remote_host_is_production(
    tmp_path: Path, url: str, environ: dict[str, str], environment: str
) -> None:
    """Wherever libpq would connect to another machine, the careful guess is production; PLANNER_ENV says otherwise."""
    assert load(tmp_path, DATABASE_URL=url, **environ).environment == environment


def test_an_unknown_environment_is_refused(tmp_path: Path) -> None:
    """A misspelt PLANNER_ENV is exit code 2 with the names there are."""
    with pytest.raises(WrongUse, match="PLANNER_ENV is 'prod'; known are development, staging, production") as caught:
        load(tmp_path, PLANNER_ENV="prod")

    assert caught.value.code == 2
    assert "export PLANNER_ENV=" in caught.value.next_command


@pytest.mark.parametrize(
    "text", ["[guard]\nlock_timeout = 1s\nlock_timeout = 2s\n", "[guard]\n[guard]\n", "lock_timeout\n"]
)
def test_a_file_that_is_no_ini_is_refused(tmp_path: Path, text: str) -> None:
    """A setting given twice, or a line that is none, is one sentence and exit code 2."""
    (tmp_path / "alembic.ini").write_text(text)

    with pytest.raises(WrongUse, match=r"alembic\.ini cannot be read"):
        settings.load(Config(str(tmp_path / "alembic.ini")), {})


def test_headers_from_makes_the_rest_optional(tmp_path: Path) -> None:
    """Headers that are required from one revision on are not required before it."""
    read = load(tmp_path, "headers = required", "headers_from = 005")

    assert (read.headers, read.headers_from) == ("optional", "005")


def test_a_machine_names_its_own_places_for_archives(tmp_path: Path) -> None:
    """The variable before alembic.ini, alembic.ini before the default: a folder beside it. An empty variable is none."""
    lines = ("archive_dir = /srv/a", "archive_check_url = postgresql://u:p%%40s@h/d", "pg_bin = /opt/pg/bin")

    said, plain = load(tmp_path, *lines, PLANNER_ARCHIVE_DIR="/srv/b", PLANNER_PG_BIN=" "), load(tmp_path)

    assert (said.archive_dir, said.archive_check_url, said.pg_bin) == (
        "/srv/b",
        "postgresql://u:p%40s@h/d",
        "/opt/pg/bin",
    )
    assert (plain.archive, plain.archive_dir) == ("auto", f"{tmp_path}/backups")
    assert (plain.archive_check_url, plain.pg_bin) == ("", "")

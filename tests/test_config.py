"""From where a setting comes: flag, environment, .env, alembic.ini, default; and what `make config` tells of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config

from mcp_planner_schema import cli
from mcp_planner_schema.guard import connect, environments, given, settings
from mcp_planner_schema.guard.declared import SETTINGS
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.inspect import configuration
from tests.conftest import ROOT, Database, Project

SAMPLES = {
    "database_url": "postgresql://u@/x?host=/nowhere", "environment": "production", "headers": "required",
    "headers_from": "005", "type_words": "make", "allowed_imports": "pandas", "deadline": "1s", "lock_timeout": "2s",
    "statement_timeout": "3s", "idle_in_transaction_session_timeout": "4s", "online_timeout": "5h", "hold_limit": "6s",
    "lock_attempts": "7", "deploy_lock_timeout": "8s", "inline_rows": "9", "schema": "migration_x", "embedded": "/e",
    "backfill_target": "10ms", "backfill_share": "0.3", "backfill_lag": "11s", "backfill_hold": "12s",
    "backfill_lag_except": "late", "backfill_slot_wal": "13MB", "backfill_archive_queue": "14",
    "backfill_dead_tuples": "0.5", "stash_retention": "15d",
    "stash_move_above": "16kB", "stash_timeout": "17s", "archive": "always", "archive_dir": "/a",
    "archive_check_url": "postgresql://u@/check", "pg_bin": "/p", "preflight_transaction": "18s", "preflight_timeout": "19s",
    "disk_limit": "20MB", "backup_check": "/bin/true", "backup_age": "21h", "backup_timeout": "22s",
    "metrics_file": "/m.prom", "metrics_push": "http://gateway:9091", "metrics_listen": ":9187", "log_format": "json",
    "sensitive_log": "/s.log", "rehearsal_dir": "/r", "rehearsal_age": "23d",
    "on_version_apply": "a:b", "known_urls": "postgresql://u@/one postgresql://u@/two",
}  # fmt: skip


def place(
    folder: Path, *, ini: dict[str, str] | None = None, env: str | None = None, flags: dict[str, str] | None = None
) -> Config:
    """An alembic.ini with these values, a .env with this text, and these flags on the command line."""
    main = {name: text for name, text in (ini or {}).items() if name == "database_url"}
    lines = [f"{name} = {text.replace('%', '%%')}" for name, text in (ini or {}).items() if name not in main]
    url = "".join(f"sqlalchemy.url = {text.replace('%', '%%')}\n" for text in main.values())
    (folder / "alembic.ini").write_text(
        f"[alembic]\nscript_location = %(here)s\n{url}[guard]\n" + "\n".join(lines) + "\n"
    )
    if env is not None:
        (folder / ".env").write_text(env)
        (folder / ".env").chmod(0o600)
    typed = [f"{name}={text}" for name, text in (flags or {}).items()]
    return Config(str(folder / "alembic.ini"), cmd_opts=Namespace(x=typed))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m mcp_planner_schema`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_planner_schema", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- precedence -------------------------------------------------------------------------------------------------------


def test_the_first_that_has_a_value_counts(tmp_path: Path) -> None:
    """Flag, environment, .env, alembic.ini, default: with each one taken away the next one counts."""
    values = {"flag": "5s", "environment": "4s", ".env": "3s", "alembic.ini": "2s", "default": "200ms"}
    found = {}

    for last, source in enumerate(given.PRECEDENCE):
        there = given.PRECEDENCE[last:]
        folder = tmp_path / str(last)
        folder.mkdir()
        config = place(
            folder,
            flags={"deadline": "5s"} if "flag" in there else {},
            env="PLANNER_DEADLINE=3s\n" if ".env" in there else None,
            ini={"deadline": "2s"} if "alembic.ini" in there else {},
        )
        environ = {"PLANNER_DEADLINE": "4s"} if "environment" in there else {}
        one = given.read(config, environ).values["deadline"]
        found[source] = (one.source, one.text, settings.load(config, environ).budgets.deadline)

    assert found == {name: (name, text, settings.duration(text)) for name, text in values.items()}


@pytest.mark.parametrize("source", given.PRECEDENCE[:-1])
def test_every_setting_can_be_given_by_each(tmp_path: Path, source: str) -> None:
    """There is no setting that one of the four ways cannot give; each is read as the same value."""
    by_name = {one.variable: SAMPLES[name] for name, one in SETTINGS.items()}
    config = place(
        tmp_path,
        flags=SAMPLES if source == "flag" else {},
        env="".join(f"{name}='{text}'\n" for name, text in by_name.items()) if source == ".env" else None,
        ini=SAMPLES if source == "alembic.ini" else {},
    )
    environ = by_name if source == "environment" else {}

    found = given.read(config, environ).values
    loaded = settings.load(config, environ)

    assert {name: (one.text, one.source) for name, one in found.items()} == {
        name: (text, source) for name, text in SAMPLES.items()
    }
    assert (loaded.environment, loaded.lock_attempts, loaded.backfill.slot_wal) == ("production", 7, 13 * 1024**2)
    assert loaded.known_urls == SAMPLES["known_urls"]


def test_make_gives_a_setting_by_its_variable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``make … PLANNER_DEADLINE=1s`` is a flag too, goes before the environment, and is repeated in what is to be typed next."""
    ended = run("config", "JSON=1", "PLANNER_DEADLINE=1s", PLANNER_DEADLINE="2s")
    shown = {one["name"]: (one["value"], one["source"]) for one in json.loads(ended.stdout)["settings"]}

    code = cli.main(["migrate-recover", "VERSION=1", "PLANNER_SCHEMA=public"])

    assert shown["deadline"] == ("1s", "flag")
    assert code == 2
    assert "-x schema is 'public'; its name begins with 'migration'" in capsys.readouterr().err


def test_a_flag_reaches_the_run(empty: Database, project: Project) -> None:
    """``alembic -x statement_timeout=…`` is what the step's statements run under, whatever stands elsewhere."""
    project.configure(statement_timeout="20s")
    project.revision(
        "001", "create_seen", 'op.execute("CREATE TABLE seen AS SELECT current_setting(\'statement_timeout\') AS t")',
        'op.drop_table("seen")', expectations='expect.table("seen")',
    )  # fmt: skip

    done = project.alembic("-x", "statement_timeout=4321ms", "upgrade", "head", PLANNER_STATEMENT_TIMEOUT="9s")

    assert done.returncode == 0, done.stderr
    assert empty.value("SELECT t FROM seen") == "4321ms"


@pytest.mark.parametrize(
    ("where", "said", "command"),
    [
        ({"flags": {"lock_timeout": "0s"}}, "-x lock_timeout is '0s'; 0 means", "alembic -x lock_timeout=200ms"),
        ({"env": "PLANNER_LOCK_TIMEOUT=0s\n"}, "PLANNER_LOCK_TIMEOUT (.env) is '0s'; 0 means", "PLANNER_LOCK_TIMEOUT in .env"),
        ({"ini": {"lock_timeout": "0s"}}, "[guard]: lock_timeout = 0s: 0 means", "write lock_timeout = 200ms below [guard]"),
        ({"env": "PLANNER_DEADLINE=6min\n"}, "more than 5min is dangerous: who waits behind a step", "PLANNER_DEADLINE"),
        ({"env": "PLANNER_HOLD_LIMIT=61min\n"}, "more than 1h is dangerous: the tables are locked", "PLANNER_HOLD_LIMIT"),
        ({"env": "PLANNER_ARCHIVE=off\n"}, "staging and production never go back without one", "PLANNER_ARCHIVE"),
        ({"ini": {"environment": "development"}}, "alembic.ini goes to every machine", "environment"),
        ({"flags": {"deadline": ""}}, "-x deadline is empty", "-x deadline="),
    ],
)  # fmt: skip
def test_a_dangerous_value_is_refused_where_it_was_given(
    tmp_path: Path, where: dict[str, Any], said: str, command: str
) -> None:
    """The refusal names the place it came from, the reason, and where to correct it; exit code 2."""
    with pytest.raises(WrongUse) as caught:
        settings.load(place(tmp_path, **where), {})

    assert said in caught.value.message
    assert command in caught.value.next_command


# --- .env -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("DATABASE_URL=postgresql://u:a%40b%@h/d", "postgresql://u:a%40b%@h/d"),
        ("DATABASE_URL='postgresql://u:${HOME}$(id)`id`@h/d'", "postgresql://u:${HOME}$(id)`id`@h/d"),
        ("DATABASE_URL=postgresql://u:${HOME}$(id)@h/d", "postgresql://u:${HOME}$(id)@h/d"),
        ('export DATABASE_URL="postgresql://u:p#q@h/d"  # the primary', "postgresql://u:p#q@h/d"),
        ("DATABASE_URL=postgresql://u:p#q@h/d", "postgresql://u:p#q@h/d"),
        ("\ufeffDATABASE_URL=postgresql://h/d\r\nOTHER=1\r\n", "postgresql://h/d"),
        ("# nothing\n\nDATABASE_URL=\n", None),
    ],
)
def test_a_line_of_the_file_is_text(tmp_path: Path, line: str, url: str | None) -> None:
    """Percent signs, # and quotes stay what they are; no variable is replaced and no command run. Empty is not set."""
    assert settings.load(place(tmp_path, env=line), {}).url == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\n\nDATABASE_URL postgresql://u:geheim@h/d\n", "line 3 is no NAME=value"),
        ("export DATABASE_URL\n", "line 1 is no NAME=value"),
        ("A='geheim\n", "line 1 is no NAME=value"),
        ("PLANNER_ENV=staging\nDATABASE_URL=postgresql://u:geheim@h/d\nPLANNER_ENV=x\n", "line 3 gives PLANNER_ENV a second"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_without_its_text(tmp_path: Path, text: str, said: str) -> None:
    """A line that is no assignment, or a name given twice, is exit 2 with its number; the line may hold a password."""
    with pytest.raises(WrongUse) as caught:
        settings.load(place(tmp_path, env=text), {})

    assert said in caught.value.message
    assert "geheim" not in caught.value.text()


def test_a_file_that_others_may_read_is_warned_about_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mode 0600 is silent; group or others: one line with the command, however often it is read."""
    config = place(tmp_path, env="PLANNER_ENV=staging\n")
    settings.load(config, {})
    silent = capsys.readouterr().err
    (tmp_path / ".env").chmod(0o640)

    settings.load(config, {})
    settings.load(config, {})

    assert silent == ""
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/.env may be read by others, and may hold a password; next: chmod 600 {tmp_path}/.env\n"
    )


def test_another_file_or_none_can_be_named(tmp_path: Path) -> None:
    """PLANNER_DOTENV names the file, or says none; one that is not there is refused, and bytes that are no text too."""
    config = place(tmp_path, env="PLANNER_ENV=staging\n")
    other = tmp_path / "elsewhere"
    other.write_text("PLANNER_ENV=production\n")
    other.chmod(0o600)
    broken = tmp_path / "broken"
    broken.write_bytes(b"A=\xff\n")

    found = [settings.load(config, {"PLANNER_DOTENV": name}).environment for name in ("", "none", str(other))]

    assert found == ["staging", "development", "production"]
    for path, problem in ((tmp_path / "missing", "No such file"), (broken, "it is no UTF-8")):
        with pytest.raises(WrongUse, match=problem):
            settings.load(config, {"PLANNER_DOTENV": str(path)})


def test_libpq_gets_its_variables_from_the_file(
    empty: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service file that only .env names is found by alembic, psycopg2 and what the guard counts the host as."""
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("PLANNER_DOTENV")
    services = tmp_path / "services.conf"
    services.write_text(f"[planner]\nhost={empty.host}\nport={empty.port}\ndbname={empty.name}\nuser={empty.user}\n")
    (project.folder / ".env").write_text(
        f"PLANNER_ENV=staging\nDATABASE_URL='postgresql:///?service=planner'\nPGSERVICEFILE={services}\n"
    )
    (project.folder / ".env").chmod(0o600)
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")',
                     expectations='expect.table("a")')  # fmt: skip

    done = project.alembic("upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert empty.value("SELECT to_regclass('a') IS NOT NULL")


def test_what_the_environment_says_stays_and_a_former_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that was exported is not overridden; what one folder's .env gave libpq is gone with the next folder."""
    monkeypatch.delenv("PLANNER_DOTENV", raising=False)
    monkeypatch.setenv("PGUSER", "mine")
    monkeypatch.delenv("PGAPPNAME", raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()

    settings.load(place(one, env="PGUSER=theirs\nPGAPPNAME=first\nAPP_SECRET=x\n"))
    during = (os.environ["PGUSER"], os.environ.get("PGAPPNAME"), os.environ.get("APP_SECRET"))
    settings.load(place(two))

    assert during == ("mine", "first", None)
    assert (os.environ["PGUSER"], os.environ.get("PGAPPNAME")) == ("mine", None)


# --- secrets, and make config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag",
    [
        "database_url=postgresql://u:geheim@h/d", "database_url=postgresql://h/d?password=geheim",
        "archive_check_url=postgresql://u:geheim@h/d", "known_urls=postgresql://h/d postgresql://u:geheim@h/d",
    ],
)  # fmt: skip
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, flag: str) -> None:
    """``ps`` shows it to everyone on the machine; the refusal does not repeat it."""
    name, _, text = flag.partition("=")

    with pytest.raises(WrongUse, match="has a password in it") as caught:
        settings.load(place(tmp_path, flags={name: text}), {})

    assert "geheim" not in caught.value.text()
    assert SETTINGS[name].variable in caught.value.next_command


def test_config_shows_every_setting_and_its_source(tmp_path: Path) -> None:
    """Each setting once, with value, source and the name it has there; what differs from a setting by a letter is noted."""
    config = place(tmp_path, env="PLANNER_DEADLINE=3s\nPGPASSFILE=/x/pgpass\n", ini={"lock_timeout": "2s"})

    found = configuration.read(config, {"PLANNER_ENV": "staging", "PLANNER_DEADLIN": "1s", "PGHOST": "/tmp"})

    shown = {one.name: (one.value, one.source, one.place) for one in found.settings}
    assert list(shown) == list(SETTINGS)
    assert shown["environment"] == ("staging", "environment", "PLANNER_ENV")
    assert shown["deadline"] == ("3s", ".env", "PLANNER_DEADLINE")
    assert shown["lock_timeout"] == ("2s", "alembic.ini", "[guard] lock_timeout")
    assert shown["schema"] == ("migration", "default", "")
    assert {(one.name, one.source) for one in found.libpq} == {("PGPASSFILE", ".env"), ("PGHOST", "environment")}
    assert found.notes == ("PLANNER_DEADLIN is no setting; is PLANNER_DEADLINE meant?",)
    for one in (*found.settings, *found.libpq):
        assert re.search(
            rf"^{one.name} +{re.escape(one.value or '-')} +{re.escape(one.source)}", found.text(), re.MULTILINE
        )
    assert f"flag, environment, .env, alembic.ini, default; {tmp_path}/.env" in found.text()


def test_config_says_why_a_database_counts_as_production(tmp_path: Path) -> None:
    """Where nobody has said it, the reason stands there."""
    found = configuration.read(place(tmp_path), {"DATABASE_URL": "postgresql://u@db.example.com/d"}).settings

    assert [(one.value, one.source, one.place) for one in found if one.name == "environment"] == [
        ("production", "default", "db.example.com is not this machine")
    ]


def test_config_masks_every_secret(tmp_path: Path) -> None:
    """Passwords in URLs, queries, libpq's variables and commands come out as ***, as text and as JSON."""
    environ = {
        "DATABASE_URL": "postgresql://u:g@heim:1/%@h/d", "PLANNER_ARCHIVE_CHECK_URL": "postgresql://h/d?password=g@heim1",
        "PLANNER_KNOWN_URLS": "postgresql://u:g%40heim2@h/d no-url-with-g@heim3 postgresql://h/d?sslpassword=g@heim4",
        "PGPASSWORD": "g@heim5", "PGSSLPASSWORD": "g@heim6", "PLANNER_BACKUP_CHECK": "check --dsn 'host=h password=g@heim7'",
    }  # fmt: skip

    found = configuration.read(place(tmp_path), environ)

    told = found.text() + json.dumps(found.as_json())
    assert "heim" not in told
    assert told.count("***") >= 2 * len(environ)
    assert "postgresql://u:***@h/d" in told


def test_make_config_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """``make config`` prints one line a setting and asks no database; a dangerous value is exit 2."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:geheim@203.0.113.1/none")

    ended, refused = run("config"), run("config", "PLANNER_DEADLINE=0s")

    assert ended.returncode == 0, ended.stderr
    assert "geheim" not in ended.stdout
    assert re.search(
        r"^environment +production +default \(203\.0\.113\.1 is not this machine\)$", ended.stdout, re.MULTILINE
    )
    assert re.search(r"^deadline +200ms +alembic\.ini \(\[guard\] deadline\)$", ended.stdout, re.MULTILINE)
    assert refused.returncode == 2


@pytest.mark.parametrize("text", ["postgresql://h/d?sslpassword=geheim", "sslpassword='ge heim'", "password=geheim"])
def test_a_password_of_a_key_is_masked(text: str) -> None:
    """The password that opens a client's key is one too."""
    assert "heim" not in connect.masked(text, None)


# --- what the pages say -----------------------------------------------------------------------------------------------


def test_the_page_says_what_the_code_says() -> None:
    """docs/environments.md shows the table of the environments and the order of the sources as the code has them."""
    page = (ROOT / "docs" / "environments.md").read_text()

    assert environments.table() in page
    order = re.findall(r"^\d\. \*\*(.+?)\*\*", page.partition("## Settings: where a value comes from")[2], re.MULTILINE)
    assert order == list(given.PRECEDENCE)


def test_the_table_of_settings_has_every_default() -> None:
    """docs/1 lists the settings with the defaults that they have."""
    page = (
        (ROOT / "docs" / "1-framework-and-setup.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    )
    rows = {
        name: default.strip().strip("`") for name, default in re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)
    }
    elsewhere = re.compile("preflight_|disk_limit|backup_|metrics_|log_format|sensitive_log|rehearsal_")

    differing = {
        name: rows.get(name)
        for name, one in SETTINGS.items()
        if not elsewhere.match(name) and rows.get(name) != one.default and name not in ("type_words", "archive_dir")
    }

    assert differing == {}


def test_the_example_file_is_one(tmp_path: Path) -> None:
    """.env.example is read without a complaint, also with its lines put in force; each PLANNER_ name in it is a setting."""
    text = (ROOT / ".env.example").read_text()
    ours = re.sub(r"(?m)^#(?=[A-Z_]+=)", "", text).replace(
        "DATABASE_URL='postgresql:///?", "#DATABASE_URL='postgresql:///?"
    )

    found = configuration.read(place(tmp_path, env=ours), {})
    as_it_is = given.read(place(tmp_path, env=text), {})

    assert found.notes == ()
    assert {one.source for one in found.settings if one.name in ("environment", "database_url", "pg_bin")} == {".env"}
    assert as_it_is.file.values == {}
    assert ".env\n" in (ROOT / ".gitignore").read_text()

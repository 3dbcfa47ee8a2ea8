"""Connections: one sentence for each way to fail, no password anywhere, poolers refused."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from alembic.config import Config
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import connect, settings
from mcp_planner_schema.guard.findings import Broken, WrongUse
from tests.catalog import kept
from tests.conftest import Database, Project, _private_folder
from tests.until import until

SECRET = "s3cr:t@p%/40"
QUOTED = "s3cr%3At%40p%25%2F40"


def read(url: str) -> settings.Settings:
    """Settings with this DATABASE_URL."""
    return settings.load(Config(), {"DATABASE_URL": url})


@pytest.fixture
def revision(project: Project) -> Project:
    """A project with one revision."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")',
                     expectations='expect.table("a")')  # fmt: skip
    return project


@pytest.fixture(scope="module")
def guarded() -> Iterator[Database]:
    """A server of its own that asks for a password and has few connections."""
    folder = _private_folder()
    server = embedded.start(
        folder, settings={"max_connections": "8", "fsync": "off"}, database="app", say=lambda _: None
    )
    database = Database(str(server.socket), server.port, "app")
    database.rows(f"CREATE ROLE jane LOGIN PASSWORD '{SECRET}'")
    (server.data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    database.rows("SELECT pg_reload_conf()")
    try:
        yield database
    finally:
        embedded.stop(folder, mode="immediate")
        shutil.rmtree(folder)


def test_a_wrong_password_is_one_sentence(guarded: Database, revision: Project) -> None:
    """The refusal names server and user, not the password, and ends with what to do."""
    url = f"postgresql://jane:wr0ng%40pw@/app?host={guarded.host}&port={guarded.port}"
    until(lambda: not works(url))

    done = revision.alembic("upgrade", "head", DATABASE_URL=url)

    assert done.returncode == 1
    assert "does not accept the password of user jane" in done.stderr
    assert "wr0ng" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "\nnext: " in done.stderr


@pytest.mark.parametrize("place", ["PGPASSWORD", "PGPASSFILE", "DATABASE_URL"])
def test_a_password_of_the_file_env_opens_and_is_never_told(
    guarded: Database, revision: Project, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whichever way .env gives it, the right one opens; a wrong one is one sentence without a part of it."""
    for name in ("DATABASE_URL", "PLANNER_DOTENV"):
        monkeypatch.delenv(name, raising=False)
    until(lambda: not works(f"postgresql://jane:wr0ng@/app?host={guarded.host}&port={guarded.port}"))
    url = f"postgresql://jane{{}}@/app?host={guarded.host}&port={guarded.port}"
    told = {}

    for password in (SECRET, "wr0ng%pw"):
        passfile = revision.folder / "pgpass"
        passfile.write_text(f"*:*:*:jane:{password.replace(':', chr(92) + ':')}\n")
        passfile.chmod(0o600)
        lines = {
            "PGPASSWORD": f"DATABASE_URL='{url.format('')}'\nPGPASSWORD='{password}'\n",
            "PGPASSFILE": f"DATABASE_URL='{url.format('')}'\nPGPASSFILE={passfile}\n",
            "DATABASE_URL": f"DATABASE_URL='{url.format(':' + password)}'\n",
        }
        (revision.folder / ".env").write_text(lines[place])
        (revision.folder / ".env").chmod(0o600)
        told[password] = revision.alembic("current")

    assert told[SECRET].returncode == 0, told[SECRET].stderr
    assert told["wr0ng%pw"].returncode == 1
    assert "does not accept the password of user jane" in told["wr0ng%pw"].stderr
    for done in told.values():
        assert "wr0ng" not in done.stderr + done.stdout
        assert "s3cr" not in done.stderr + done.stdout


def test_a_service_that_no_file_has_is_one_sentence(revision: Project, tmp_path: Path) -> None:
    """The service is named, and where the file is to be named."""
    (tmp_path / "services").write_text("[other]\nhost=h\npassword=geheim\n")

    done = revision.alembic(
        "current", DATABASE_URL="postgresql:///?service=planner", PGSERVICEFILE=str(tmp_path / "services")
    )

    assert done.returncode == 1
    assert "No service file has the service planner." in done.stderr
    assert "PGSERVICEFILE" in done.stderr
    assert "geheim" not in done.stderr


def works(url: str) -> bool:
    """Whether a login with this URL succeeds."""
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return False
    return True


@pytest.mark.parametrize("written", [SECRET, QUOTED], ids=["raw", "encoded"])
def test_the_password_is_written_nowhere(guarded: Database, revision: Project, written: str) -> None:
    """With @ : % / in the password, raw or encoded, the run works, and no column, name or line has it."""
    guarded.rows("DROP SCHEMA IF EXISTS migration CASCADE")
    guarded.rows("DROP SCHEMA public CASCADE")
    guarded.rows("CREATE SCHEMA public AUTHORIZATION jane")
    guarded.rows("GRANT CREATE ON DATABASE app TO jane")
    url = f"postgres://jane:{written}@/app?host={guarded.host}&port={guarded.port}"
    bad = "import os\n    op.execute('INSERT INTO seen SELECT application_name FROM pg_stat_activity')\n"
    revision.revision("002", "create_b", f"op.execute('CREATE TABLE seen (name text)')\n{bad.strip()}".replace("\n    ", "\n")
                      + "\nraise RuntimeError(os.environ['DATABASE_URL'])", 'op.execute("SELECT 1")')  # fmt: skip
    text = (
        (revision.versions / "002_create_b.py")
        .read_text()
        .replace("Reversible", "Waive: settings-read | test | 2099-01-01\nReversible")
    )
    (revision.versions / "002_create_b.py").write_text(text)

    done = revision.alembic("-x", f"url={url}", "upgrade", "head", DATABASE_URL=url)

    kept = str(guarded.rows("SELECT * FROM migration.run")) + str(
        guarded.rows("SELECT error, description FROM migration.history")
    )
    assert "RuntimeError" in done.stderr
    for text in (done.stderr, done.stdout, kept):
        assert SECRET not in text
        assert QUOTED not in text
        assert "s3cr" not in text
    assert "***" in kept


def test_no_free_connection_is_one_sentence(guarded: Database, revision: Project) -> None:
    """A full server is named as full; nothing is a traceback."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                stack.enter_context(guarded.connect())
        done = revision.alembic(
            "upgrade", "head", DATABASE_URL=f"postgresql://postgres@/app?host={guarded.host}&port={guarded.port}"
        )

    assert done.returncode == 1
    assert "has no free connection" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_roles_own_limit_is_not_called_the_servers(guarded: Database, revision: Project) -> None:
    """A role that may have no more connections is named, with what changes that: the server may be empty."""
    role = f"few_{uuid.uuid4().hex[:12]}"
    guarded.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 1")
    url = f"postgresql://{role}:few@/{guarded.name}?host={guarded.host}&port={guarded.port}"
    with contextlib.closing(psycopg2.connect(url)):
        done = revision.alembic("upgrade", "head", DATABASE_URL=url)

    assert done.returncode == 1
    assert f"The role {role}, or all of them in {guarded.name}, may have no more connections" in done.stderr
    assert "CONNECTION LIMIT" in done.stderr


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://u:pw1234@127.0.0.1:{port}/db", "Nothing listens at 127.0.0.1:"),
        ("postgresql://u:pw1234@no-such-host.invalid/db", "The host no-such-host.invalid is not known here."),
        ("postgresql://postgres@/nowhere?host={host}&port={server}", "There is no database nowhere at "),
        ("postgresql://nobody_here@/postgres?host={host}&port={server}", "There is no role nobody_here at "),
        ("postgresql://postgres@/postgres?host={host}&port={server}&user=bob", "There is no role bob at "),
        ("postgresql://u:pw1234@/db?host=/no/such/folder", "Nothing listens at /no/such/folder"),
    ],
)
def test_each_failure_is_one_sentence(empty: Database, revision: Project, url: str, sentence: str) -> None:
    """Unreachable host, unknown host, missing database and role: one sentence, then the next command, exit 1."""
    url = url.format(port=free_port(), host=empty.host, server=empty.port)

    done = revision.alembic("upgrade", "head", DATABASE_URL=url)

    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 3
    assert "\n\nnext: " in done.stderr
    assert "pw1234" not in done.stderr


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("postgresql://jane@db.example.org:6000/app", "createdb -h db.example.org -p 6000 -U jane app, then"),
        ("postgresql:///x?host=/a b&port=1&user=bob&dbname=app", "createdb -h '/a b' -p 1 -U bob app, then"),
        ("postgresql:///app", "createdb -p 5432 app, then"),
    ],
)
def test_a_database_is_made_as_whom_the_url_names(url: str, command: str) -> None:
    """The command that makes it asks the same server as the same role."""
    said = connect.failure(psycopg2.OperationalError('database "app" does not exist'), make_url(url))

    assert said.message.startswith("There is no database app at ")
    assert said.next_command.startswith(command)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_one_driver_whatever_the_url_says(scheme: str) -> None:
    """Every PostgreSQL scheme becomes psycopg2, with the password as it was meant."""
    made = [
        connect.url(read(f"{scheme}://jane:{form}@db.example.org:6000/app?sslmode=require"))
        for form in (SECRET, QUOTED)
    ]

    for one in made:
        assert one.drivername == "postgresql+psycopg2"
        assert (one.username, one.password, one.host, one.port, one.database) == (
            "jane", SECRET, "db.example.org", 6000, "app",
        )  # fmt: skip
        assert one.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("?ssl=verify-full&prepared_statement_cache_size=0&timeout=5", {"sslmode": "verify-full"}),
        ("?ssl=true", {"sslmode": "require"}),
        ("?command_timeout=60", {}),
        ("?application_name=x", {"application_name": "x"}),
    ],
)
def test_an_asynchronous_url_names_the_same_place(query: str, kept: dict[str, str]) -> None:
    """What asyncpg takes in a URL and libpq does not know is left out, or said as libpq says it: TLS above all."""
    made = connect.url(read(f"postgresql+asyncpg://jane@db.example.org/app{query}"))

    assert made.query == kept
    assert (made.drivername, made.host) == ("postgresql+psycopg2", "db.example.org")


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "mysql://u:pw1234@h/d", "nonsense", "postgresql://u:pw1234@h:port/d"]
)
def test_what_is_no_postgresql_url_is_refused_without_showing_it(url: str) -> None:
    """Another database or no URL at all is wrong use; the text does not repeat it."""
    with pytest.raises(WrongUse) as caught:
        connect.url(read(url))

    assert "pw1234" not in caught.value.text()


@pytest.mark.parametrize(
    "text",
    [f"alembic -x url=postgresql://u:{SECRET}@h/d x", f"password={SECRET}", f"said {QUOTED}", f"said {SECRET}"],
)
def test_masked(text: str) -> None:
    """However the password is written into a text, it is not there afterwards."""
    masked = connect.masked(text, make_url("postgresql://u@h/d").set(password=SECRET))

    assert "***" in masked
    assert "s3cr" not in masked


def test_a_connection_lost_in_a_step_is_one_message(empty: Database, revision: Project) -> None:
    """The step's backend is terminated from inside: exit 1, rolled back, failure in the history, no traceback."""
    revision.revision("002", "create_b", 'op.execute("CREATE TABLE b (id int)")\n'
                      'op.execute("SELECT pg_terminate_backend(pg_backend_pid())")', 'op.drop_table("b")')  # fmt: skip

    done = revision.alembic("upgrade", "head")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "The step was rolled back whole" in done.stderr
    assert done.stderr.strip().endswith("next: alembic upgrade head")
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "failed"),
    ]


def test_all_connections_lost_is_one_message(empty: Database, revision: Project) -> None:
    """Every session of the guard is cut, as by a restart: exit 1, no traceback, and the same command works afterwards."""
    cut = ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
           "ORDER BY pid = pg_backend_pid()")  # fmt: skip
    path = revision.revision("002", "create_b", f'op.execute("{cut}")', 'op.execute("SELECT 1")')

    done = revision.alembic("upgrade", "head")
    path.write_text(path.read_text().replace("pg_terminate_backend(pid)", "pid"))
    again = revision.alembic("upgrade", "head")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "The connection is gone" in done.stderr
    assert again.returncode == 0, again.stderr
    assert empty.rows("SELECT state FROM migration.run ORDER BY id") == [("failed",), ("done",)]


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/usr/local/bin")


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed here (apt install pgbouncer)")
@pytest.mark.parametrize("ignores", ["", "options"], ids=["refuses options", "ignores options"])
def test_a_transaction_pooler_is_refused(empty: Database, revision: Project, tmp_path: Path, ignores: str) -> None:
    """Through pgbouncer in transaction mode: finding pooled-connection, exit 3, nothing changed; also where it drops options."""
    folder, port = _private_folder(), free_port()
    folder.chmod(0o777)
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{empty.name} = host={empty.host} port={empty.port} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\npool_mode = transaction\n"
        f"auth_file = {folder}/users.txt\nignore_startup_parameters = extra_float_digits"
        + (f",{ignores}" if ignores else "") + "\n"
    )  # fmt: skip
    owner = Path(empty.host).stat().st_uid  # the socket's folder is open to the account that runs the server
    assert PGBOUNCER
    pooler = subprocess.Popen([PGBOUNCER, "-q", str(folder / "pgbouncer.ini")], user=owner, stderr=subprocess.DEVNULL)
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/{empty.name}"
        until(lambda: works(url))
        done = revision.alembic("upgrade", "head", DATABASE_URL=url)
    finally:
        pooler.terminate()
        pooler.wait(10)
        shutil.rmtree(folder)

    assert done.returncode == 3, done.stderr
    assert "pooled-connection" in done.stderr
    assert empty.value("SELECT to_regclass('alembic_version')") is None


def test_an_error_between_steps_is_one_sentence(empty: Database, revision: Project) -> None:
    """A version table that the role may not read, or that is locked, is told in one sentence."""
    empty.rows("CREATE TABLE alembic_version (wrong int)")

    with pytest.raises(Broken, match="PostgreSQL says: column"):
        revision.upgrade()


def test_a_databases_isolation_level_is_not_inherited(empty: Database, revision: Project) -> None:
    """Where the database's default is serializable, a step still runs at read committed and a downgrade keeps its rows."""
    empty.rows(f"ALTER DATABASE {empty.name} SET default_transaction_isolation TO 'serializable'")
    revision.revision(
        "002", "create_b", "op.execute(\"CREATE TABLE b AS SELECT current_setting('transaction_isolation') AS level\")",
        'op.execute("DROP TABLE b")',
    )  # fmt: skip

    revision.upgrade()
    revision.downgrade("001")

    assert empty.rows(f"SELECT level FROM {kept(empty)['b']}") == [("read committed",)]


def test_the_server_notices_a_client_whose_host_is_gone(empty: Database) -> None:
    """Keepalives are asked for on the server's side too, harmless on a unix socket; the guard's own have no search_path."""
    made = connect.engine(make_url(empty.url.replace("postgresql:", "postgresql+psycopg2:")), "test")
    asked = "SELECT name, reset_val FROM pg_settings WHERE name LIKE 'tcp_keepalives%%' ORDER BY name"

    with connect.opened(made) as connection, connect.opened(connect.own(made)) as own:
        rows = connection.exec_driver_sql(asked).all()
        paths = [one.exec_driver_sql("SHOW search_path").scalar_one() for one in (connection, own)]

    assert [tuple(row) for row in rows] == [
        ("tcp_keepalives_count", "3"), ("tcp_keepalives_idle", "30"), ("tcp_keepalives_interval", "10"),
    ]  # fmt: skip
    assert paths == ['"$user", public', "pg_catalog"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg2:///app?host={host}:{port}&host=127.0.0.1:1", "read-write"),
        ("postgresql+psycopg2:///app?host={host}&port={port}", "any"),
        ("postgresql+psycopg2:///app?host={host}:{port}&host=127.0.0.1:1&target_session_attrs=any", "any"),
    ],
)
def test_several_hosts_mean_the_primary(empty: Database, url: str, expected: str) -> None:
    """Where the URL names several hosts, libpq looks for the one that can be written to; unless the URL says otherwise."""
    named = url.format(host=empty.host, port=empty.port).replace("/app", f"/{empty.name}") + "&user=postgres"

    with connect.opened(connect.engine(make_url(named), "test")) as connection:
        parameters = connection.connection.dbapi_connection.info.dsn_parameters  # type: ignore[union-attr]

    assert parameters["target_session_attrs"] == expected


def test_a_session_in_the_place_of_a_lost_one_is_in_autocommit_too(empty: Database) -> None:
    """What it writes stands at once, and it is in no transaction that others would wait for."""
    empty.rows("CREATE TABLE t (id int)")
    engine = connect.own(connect.engine(make_url(empty.url).set(drivername="postgresql+psycopg2"), "mine"), "mine")
    state = "SELECT state FROM pg_stat_activity WHERE application_name = 'mine'"
    with connect.opened(engine, autocommit=True) as connection:
        connection.exec_driver_sql("INSERT INTO public.t VALUES (1)")
        empty.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mine'")
        with pytest.raises(DBAPIError):
            connection.exec_driver_sql("INSERT INTO public.t VALUES (2)")
        connection.rollback()

        connection.exec_driver_sql("INSERT INTO public.t VALUES (3)")

        assert empty.rows("SELECT id FROM t ORDER BY id") == [(1,), (3,)]
        assert empty.rows(state) == [("idle",)]


@pytest.mark.parametrize(
    ("query", "short"),
    [("", True), ("?application_name=app", True), ("?ssl=disable", False), ("?prepared_statement_cache_size=0", False)],
)
def test_a_command_for_psql_has_no_option_of_asyncpgs(
    query: str, short: bool, guarded: Database, tmp_path: Path
) -> None:
    """psql takes the URL that stands in the command, typed by a shell; where it is an application's, without its options."""
    url = f"postgresql+asyncpg://nobody@/app{query or '?'}{'&' if query else ''}host={guarded.host}&port={guarded.port}"

    typed = connect.psql(read(url), "SELECT 1", {"DATABASE_URL": url})
    environ = {"DATABASE_URL": url, "PATH": str(embedded.binary("psql").parent), "PGPASSFILE": str(tmp_path / "none")}
    ran = subprocess.run(typed, shell=True, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    assert ("${DATABASE_URL#*:}" in typed) is short
    assert "invalid URI" not in ran.stderr and "no password supplied" in ran.stderr

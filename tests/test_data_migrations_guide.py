"""docs/5-data-migrations.md does what it says: its examples are taken out of the page and run on rows, with somebody at work."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import judge, settings
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import ROOT, some
from tests.test_generate import AtWork, Way, way

__all__ = ["way"]  # a fixture
PAGE = (ROOT / "docs" / "5-data-migrations.md").read_text(encoding="utf-8")
COUNT = 12_000


@dataclass(frozen=True)
class Example:
    """A section of the page: its tables, the revision, and the scripts that this one calls."""

    name: str
    text: str

    @property
    def tables(self) -> str:
        """What is there before."""
        return re.findall(r"^```sql\n(CREATE .*?)^```", self.text, re.MULTILINE | re.DOTALL)[0]

    @property
    def files(self) -> dict[str, str]:
        """The files that the page shows, by their names."""
        found = re.finditer(r"^`([\w/]+\.(?:py|sql))`:\n\n```\w+\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)
        return {one[1]: one[2] for one in found}

    @property
    def forward_only(self) -> bool:
        """Whether it cannot be undone."""
        return "\nReversible: forward-only" in self.text


EXAMPLES = {
    name: Example(name, text)
    for name, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    if "\nVersion: 002\n" in text
}


@dataclass(frozen=True)
class Case:
    """``rows`` fill the tables of an example, ``works`` is what somebody does meanwhile with the way and a row's number.

    ``kept`` asks what is the same before, afterwards, and after going back; ``wrong`` lists the rows that are not as they are to
    be. ``left`` asks for something before the upgrade, of which there is to be some: else it would have nothing to do.
    """

    rows: str
    works: Callable[[Way, int], object]
    kept: str
    wrong: str
    left: str


def any_order(way: Way, row: int) -> None:
    """An order for whoever it is, merged or not, and a look at it."""
    [(key,)] = way.ask("INSERT INTO orders (user_id, total) VALUES (%s, 1) RETURNING id", row)
    assert way.ask("SELECT count(*) FROM orders JOIN users ON users.id = orders.user_id WHERE orders.id = %s", key) == [
        (1,)
    ]


def comment(way: Way, row: int) -> None:
    """A comment that goes again."""
    [(key,)] = way.ask("INSERT INTO comments (task_id, text) VALUES (%s, 'new') RETURNING id", 1 + row % 100)
    way.ask("DELETE FROM comments WHERE id = %s", key)


def pair(first: str, second: str) -> Callable[[Way, int], object]:
    """A new row, and a change of an old one whose number is divided by 7."""

    def works(way: Way, row: int) -> None:
        way.ask(first, f"New {row}")
        way.ask(second, f"Changed {row}", row // 7 * 7)

    return works


NUMBERS = f"generate_series(1, {COUNT}) AS n"
CASES = {
    "Fill a column": Case(
        f"INSERT INTO users (email) SELECT 'Person' || n || '@Example.org' FROM {NUMBERS}",
        pair("INSERT INTO users (email) VALUES (%s)", "UPDATE users SET email = %s WHERE id = %s"),
        f"SELECT id, email FROM users WHERE id <= {COUNT} AND id % 7 <> 0 ORDER BY id",
        "SELECT * FROM users WHERE email_key IS DISTINCT FROM lower(email)",
        "SELECT count(*) FROM users WHERE email_key IS NULL",
    ),
    "Move a column to another table": Case(
        f"INSERT INTO users (phone) SELECT nullif('+49 ' || n, '+49 5') FROM {NUMBERS};"
        "INSERT INTO profiles SELECT id, phone FROM users WHERE id % 5 = 0",
        pair("INSERT INTO users (phone) VALUES (%s)", "UPDATE users SET phone = %s WHERE id = %s"),
        f"SELECT id, phone FROM users WHERE id <= {COUNT} AND id % 7 <> 0 ORDER BY id",
        "SELECT * FROM users u LEFT JOIN profiles p ON p.user_id = u.id "
        "WHERE p.user_id IS NULL OR p.phone IS DISTINCT FROM u.phone",
        "SELECT count(*) FROM users WHERE id NOT IN (SELECT user_id FROM profiles)",
    ),
    "Split a table": Case(
        f"INSERT INTO orders (street, city) SELECT 'Street ' || n, 'City ' || n % 50 FROM {NUMBERS}",
        pair("INSERT INTO orders (street, city) VALUES (%s, 'New')", "UPDATE orders SET street = %s WHERE id = %s"),
        f"SELECT id, street, city FROM orders WHERE id <= {COUNT} AND id % 7 <> 0 ORDER BY id",
        "SELECT * FROM orders o FULL JOIN addresses a ON a.id = o.address_id "
        "WHERE (a.order_id, a.street, a.city) IS DISTINCT FROM (o.id, o.street, o.city)",
        "SELECT count(*) FROM orders WHERE address_id IS NULL",
    ),
    "Merge duplicates": Case(
        f"INSERT INTO users (email) SELECT CASE n % 3 WHEN 0 THEN 'P' ELSE 'p' END || n % 9000 || '@example.org' FROM {NUMBERS};"
        f"INSERT INTO orders (user_id, total) SELECT 1 + n * 7 % {COUNT}, n FROM {NUMBERS}",
        any_order,
        "SELECT o.id, lower(u.email), total FROM orders o JOIN users u ON u.id = o.user_id "
        f"WHERE o.id <= {COUNT} ORDER BY o.id",
        "SELECT * FROM users u WHERE EXISTS (SELECT FROM users v WHERE lower(v.email) = lower(u.email) AND v.id < u.id)",
        "SELECT count(*) - count(DISTINCT lower(email)) FROM users",
    ),
    "Re-key references": Case(
        "INSERT INTO customers (code) SELECT 'C' || n FROM generate_series(1, 500) AS n;"
        f"INSERT INTO orders (customer_code) SELECT 'C' || 1 + n % 510 FROM {NUMBERS}",
        lambda way, row: (
            way.ask("INSERT INTO orders (customer_code) VALUES (%s)", f"C{1 + row % 500}"),
            way.ask("UPDATE orders SET customer_code = %s WHERE id = %s", f"C{row % 400}", row // 7 * 7),
        ),
        f"SELECT id, customer_code FROM orders WHERE id <= {COUNT} AND id % 7 <> 0 ORDER BY id",
        "SELECT * FROM orders o LEFT JOIN customers c ON c.code = o.customer_code WHERE o.customer_id IS DISTINCT FROM c.id",
        "SELECT count(*) FROM orders WHERE customer_id IS NULL",
    ),
    "Clean up orphans": Case(
        "INSERT INTO tasks SELECT generate_series(1, 100);"
        f"INSERT INTO comments (task_id, text) SELECT 1 + n % 150, 'text ' || n FROM {NUMBERS}",
        comment,
        "SELECT * FROM (SELECT id, task_id, text FROM comments UNION ALL SELECT * FROM orphaned_comments) AS every "
        f"WHERE id <= {COUNT} ORDER BY id",
        "SELECT * FROM comments WHERE task_id > 100 UNION ALL SELECT * FROM orphaned_comments WHERE task_id <= 100",
        "SELECT count(*) FROM comments WHERE task_id > 100",
    ),
    "Seed reference data": Case(
        f"INSERT INTO users SELECT 'p' || n FROM {NUMBERS}; INSERT INTO plans VALUES ('old', 'Old', 3), ('free', 'Gratis', 0);"
        "UPDATE users SET plan = 'old' WHERE email LIKE '%1'; UPDATE users SET plan = 'free' WHERE email LIKE '%2'",
        lambda way, row: way.ask("UPDATE users SET plan = 'old' WHERE email = %s", f"p{row // 10 * 10 + 1}"),
        "SELECT * FROM users WHERE email LIKE 'p%' ORDER BY email",
        "SELECT * FROM plans FULL JOIN (VALUES "
        "('old', 'Old', 3), ('free', 'Free', 0), ('team', 'Team', 14), ('firm', 'Firm', 14)) AS wanted (code, title, trial_days) "
        "USING (code) WHERE (plans.title, plans.trial_days) IS DISTINCT FROM (wanted.title, wanted.trial_days)",
        "SELECT 4 - count(*) FROM plans",
    ),
}  # fmt: skip


def test_the_script_of_the_page_runs(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    """What the section on scripts shows: the file with its declaration, called as it says."""
    [section] = re.findall(r"^## Scripts\n.*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    [call] = re.findall(r"^    (op\.run_script\(.*\))$", section, re.MULTILINE)
    way.begin("CREATE TABLE users (email text PRIMARY KEY, closed text)")
    way.database.rows(f"INSERT INTO users SELECT 'p' || n FROM {NUMBERS}; INSERT INTO users VALUES ('Eve@Example.org')")
    way.project.revision("002", "fill_closed", call, 'op.execute("UPDATE users SET closed = NULL")', type="data")
    put(way, Example("Scripts", section))

    way.project.upgrade()

    assert way.database.rows("SELECT * FROM users WHERE closed IS NOT NULL") == [("Eve@Example.org", "asked for it")]
    assert "\n002  1 closed\n" in capsys.readouterr().err


def test_every_example_of_the_page_is_run() -> None:
    """Whatever shows a whole revision is run below, and the page has the seven examples that it promises."""
    assert set(EXAMPLES) == set(CASES)
    assert len(CASES) == 7


def put(way: Way, example: Example) -> None:
    """Write the page's files into the project; nothing is found against them."""
    for name, text in example.files.items():
        path = way.project.folder / name if "/" in name else way.project.versions / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = way.project.config()
    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config))
    assert [one.text() for file in judged for one in file.findings] == []


def begin(way: Way, name: str) -> tuple[Example, Case]:
    """The tables of an example with rows that are older than its triggers, and the revision not run yet."""
    example, case = EXAMPLES[name], CASES[name]
    way.begin(example.tables)
    way.database.rows(f"SET session_replication_role = replica; {case.rows}; ANALYZE")
    put(way, example)
    return example, case


def everything(way: Way) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, with the transaction that has written each."""
    tables = way.database.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    )
    return {
        name: way.database.rows(f"SELECT xmin::text, ctid::text, t.* FROM {name} t ORDER BY ctid") for (name,) in tables
    }


@pytest.mark.parametrize("name", some(CASES))
def test_an_example_does_what_it_says(way: Way, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With somebody at work all rows are right, and nothing of theirs is lost; run again it writes nothing; and it goes back."""
    monkeypatch.setenv("PLANNER_ENV", "staging")
    monkeypatch.setenv("PLANNER_ARCHIVE_DIR", str(way.project.folder / "backups"))
    example, case = begin(way, name)
    before = way.database.rows(case.kept)
    left = way.database.value(case.left)
    rows = random.Random(name)
    person = AtWork(lambda: case.works(way, rows.randint(7, COUNT)))
    person.go_on()
    begun = person.rounds

    way.project.upgrade()
    meanwhile = person.rounds - begun
    person.go_on()
    person.stop()

    assert left >= 2
    assert way.database.rows(case.wrong) == []
    assert way.database.rows(case.kept) == before
    assert meanwhile >= 1
    print(f"{name}: {person.rounds} rounds, {meanwhile} meanwhile, the longest {person.longest * 1000:.0f} ms")
    assert person.longest < 1
    again(way)
    if example.forward_only:
        with pytest.raises(Refused, match="forward-only"):
            way.project.downgrade("001")
        return
    way.project.downgrade("001")
    assert way.database.rows(case.kept) == before
    way.project.upgrade()
    assert way.database.rows(case.wrong) == []
    assert way.database.rows(case.kept) == before


def again(way: Way) -> None:
    """Run it once more, with nobody who remembers that it was run: not a row is written."""
    there = everything(way)
    way.database.rows("TRUNCATE migration.backfill, migration.backfill_range, migration.journal")
    command.stamp(way.project.config(reason="a test"), "001")

    way.project.upgrade()

    assert everything(way) == there


@pytest.mark.parametrize(("environment", "days", "people"), [("development", 9999, 2), ("production", 14, 0)])
def test_seeds_differ_by_environment(
    way: Way, environment: str, days: int, people: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Development has long trials and people to log in as; production has neither."""
    monkeypatch.setenv("PLANNER_ENV", environment)
    way.project.configure(backup_age="never")
    begin(way, "Seed reference data")

    way.project.upgrade()

    assert way.database.rows("SELECT DISTINCT trial_days FROM plans WHERE code IN ('team', 'firm')") == [(days,)]
    assert way.database.value("SELECT count(*) FROM users WHERE email LIKE '%@example.org'") == people

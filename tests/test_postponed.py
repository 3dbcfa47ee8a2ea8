"""What a statement says without the constraints that kept rows are still missing for."""

from __future__ import annotations

import pytest

from mcp_planner_schema.guard import postponed

# What it says then (None: nothing of it is to be left out), the foreign keys it was to validate, the columns that are required.
LEFT = {
    "ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z": ("ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z NOT VALID", [], {}),
    'ALTER TABLE IF EXISTS ONLY "A".k ADD CONSTRAINT "x, y" FOREIGN KEY (a, b) REFERENCES z (c, d) DEFERRABLE, ADD y int': (
        'ALTER TABLE IF EXISTS ONLY "A".k ADD CONSTRAINT "x, y" FOREIGN KEY (a, b) REFERENCES z (c, d) DEFERRABLE NOT VALID,'
        " ADD y int", [], {},
    ),
    "ALTER TABLE k * ADD FOREIGN KEY (z) REFERENCES z": ("ALTER TABLE k * ADD FOREIGN KEY (z) REFERENCES z NOT VALID", [], {}),
    "ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z, ADD FOREIGN KEY (o) REFERENCES z NOT VALID": None,
    "ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z NOT ENFORCED": None,
    "ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z, ADD CONSTRAINT k_o FOREIGN KEY (o) REFERENCES z NOT VALID": (
        "ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z NOT VALID, ADD CONSTRAINT k_o FOREIGN KEY (o) REFERENCES z NOT VALID",
        [], {},
    ),
    "ALTER TABLE k ADD x int NOT NULL NO INHERIT": None,
    "ALTER TABLE k ADD y text DEFAULT 'FOREIGN KEY' CHECK (y <> 'ADD FOREIGN KEY')": None,
    "ALTER TABLE k VALIDATE CONSTRAINT k_z": ("", [("k", "k_z")], {}),
    'ALTER TABLE s."K" VALIDATE CONSTRAINT "K", VALIDATE CONSTRAINT L': ("", [('s."K"', "K"), ('s."K"', "l")], {}),
    "ALTER TABLE k VALIDATE CONSTRAINT a, ADD y int": ("ALTER TABLE k ADD y int", [("k", "a")], {}),
    "ALTER TABLE k ADD x int, VALIDATE CONSTRAINT a, ADD y int": ("ALTER TABLE k ADD x int, ADD y int", [("k", "a")], {}),
    "ALTER TABLE k ADD y int, VALIDATE CONSTRAINT a, VALIDATE CONSTRAINT b": (
        "ALTER TABLE k ADD y int", [("k", "a"), ("k", "b")], {},
    ),
    "ALTER TABLE k VALIDATE CONSTRAINT a, VALIDATE CONSTRAINT b, ADD y int": (
        "ALTER TABLE k ADD y int", [("k", "a"), ("k", "b")], {},
    ),
    "CREATE TABLE k (z int REFERENCES z, x int NOT NULL)": None,
    "ALTER TABLE": None,
    "ALTER TABLE k": None,
    "ALTER TABLE 'open": None,
    "DO $$ BEGIN open $$ 'never ends": None,
    "ALTER TABLE k ADD COLUMN x int NOT NULL": ("ALTER TABLE k ADD COLUMN x int ", [], {"x": ""}),
    'ALTER TABLE k ADD COLUMN IF NOT EXISTS "X" int NOT NULL DEFAULT 1, ADD x text /* NOT NULL */ not  null': (
        'ALTER TABLE k ADD COLUMN IF NOT EXISTS "X" int NOT NULL DEFAULT 1, ADD x text /* NOT NULL */ ', [], {"x": ""},
    ),
    'ALTER TABLE k ADD x int CONSTRAINT "is there" NOT NULL UNIQUE': ("ALTER TABLE k ADD x int  UNIQUE", [], {"x": '"is there"'}),
    "ALTER TABLE k ADD x int CHECK (x IS NOT NULL)": None,
    "ALTER TABLE k ADD y int NOT NULL": None,
    "ALTER TABLE k ALTER y SET NOT NULL": None,
    "ALTER TABLE k ALTER COLUMN x SET NOT NULL": ("", [], {"x": ""}),
    "ALTER TABLE k ADD y int, ALTER x SET NOT NULL": ("ALTER TABLE k ADD y int", [], {"x": ""}),
    "ALTER TABLE k ADD CONSTRAINT there NOT NULL x": ("", [], {"x": "there"}),
    "ALTER TABLE k ADD x int NOT NULL, ADD FOREIGN KEY (x) REFERENCES z": (
        "ALTER TABLE k ADD x int , ADD FOREIGN KEY (x) REFERENCES z NOT VALID", [], {"x": ""},
    ),
    "DO $$ DECLARE n int; BEGIN IF true THEN ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z; END IF; END $$": (
        "DO $$ DECLARE n int; BEGIN IF true THEN ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z NOT VALID; END IF; END $$",
        [], {},
    ),
    "DO LANGUAGE plpgsql $x$BEGIN ALTER TABLE k VALIDATE CONSTRAINT a; ALTER TABLE k ALTER x SET NOT NULL; END$x$": (
        "DO LANGUAGE plpgsql $x$BEGIN NULL; NULL; END$x$", [("k", "a")], {"x": ""},
    ),
    "DO $$ BEGIN EXECUTE 'ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z'; RAISE 'ALTER TABLE'; END $$": None,
    "DO 'BEGIN ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z; END'": None,
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ ALTER TABLE k ADD FOREIGN KEY (z) REFERENCES z $$": None,
}  # fmt: skip


@pytest.mark.parametrize("text", LEFT)
def test_only_what_the_statement_itself_says_is_left_out(text: str) -> None:
    """What stands in a literal, a name or parentheses is no action; a column that was not lost keeps its NOT NULL."""
    found = postponed.relaxed(text, {"x"})

    said = found and (found.text, list(found.named), {one.column: one.called for one in found.required})
    assert said == LEFT[text]

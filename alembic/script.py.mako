<%!
    from mcp_planner_schema.guard.scope import in_docstring

    def written(value):
        return repr(value).replace("'", '"')

    # What a data revision begins with: to be filled in, so all of it is a comment.
    ROWS = """\
# docs/5-data-migrations.md has whole examples.
    # op.backfill(
    #     "table",
    #     set={"column": "filled.other"},
    #     where="filled.column IS NULL",
    #     verify="SELECT count(*) FROM table WHERE column IS NULL",
    # )
    # op.run_script("{number}/name.py", arguments={})  # alembic/scripts/{number}/name.py
    pass"""
    STAYS = """\
# op.execute("SELECT 1")  # where what was filled stays true, because a trigger keeps it
    pass"""
%>\
"""${in_docstring(message)}.

Version: ${up_revision}
Description: ${in_docstring(message)}
Author: ${in_docstring(author) if author is not UNDEFINED else "undecided"}
Date: ${create_date.date()}
Dependencies: ${", ".join(filter(None, map(comma, (down_revision, depends_on)))) or None}
Type: ${kind if kind is not UNDEFINED else "schema"}
Phase: ${"migrate" if rows is not UNDEFINED and rows or stem is not UNDEFINED and kind == "data" else "expand"}
Transaction: ${transactions.get(up_revision, "single") if transactions is not UNDEFINED else "single"}
Reversible: undecided
"""

% if files is not UNDEFINED and files:
from mcp_planner_schema.operations import expect, sql
% elif stem is not UNDEFINED:
from alembic import op

from mcp_planner_schema.operations import expect
% else:
import sqlalchemy as sa
from alembic import op
${imports + "\n" if imports else ""}
from mcp_planner_schema.operations import expect
% endif

revision = ${written(up_revision)}
down_revision = ${written(down_revision)}
branch_labels = ${written(branch_labels)}
depends_on = ${written(depends_on)}

% if files is not UNDEFINED and files:
sql_files = [
]

% endif
expectations = [
]

<% in_sql = stem(up_revision, message, create_date) if stem is not UNDEFINED else None %>
def upgrade() -> None:
    ${f'op.run_sql("{in_sql}.up.sql")' if in_sql else "sql.apply(sql_files)" if files is not UNDEFINED and files else ROWS.replace("{number}", up_revision) if rows is not UNDEFINED and rows else upgrades or "pass"}


def downgrade() -> None:
    ${f'op.run_sql("{in_sql}.down.sql")' if in_sql else "sql.revert(sql_files)" if files is not UNDEFINED and files else STAYS if rows is not UNDEFINED and rows else downgrades or "pass"}

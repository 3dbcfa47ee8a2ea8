<%!
    from mcp_planner_schema.guard.scope import in_docstring

    def written(value):
        return repr(value).replace("'", '"')
%>\
"""${in_docstring(message)}.

Version: ${up_revision}
Description: ${in_docstring(message)}
Author: ${in_docstring(author) if author is not UNDEFINED else "undecided"}
Date: ${create_date.date()}
Dependencies: ${", ".join(filter(None, map(comma, (down_revision, depends_on)))) or None}
Type: ${kind if kind is not UNDEFINED else "schema"}
Phase: expand
Transaction: ${transactions.get(up_revision, "single") if transactions is not UNDEFINED else "single"}
Reversible: undecided
"""

% if files is not UNDEFINED and files:
from mcp_planner_schema.operations import expect, sql
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


def upgrade() -> None:
    ${"sql.apply(sql_files)" if files is not UNDEFINED and files else upgrades or "pass"}


def downgrade() -> None:
    ${"sql.revert(sql_files)" if files is not UNDEFINED and files else downgrades or "pass"}

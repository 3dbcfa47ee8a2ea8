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
Transaction: single
Reversible: undecided
"""

import sqlalchemy as sa
from alembic import op
${imports + "\n" if imports else ""}
from mcp_planner_schema.operations import expect

revision = ${written(up_revision)}
down_revision = ${written(down_revision)}
branch_labels = ${written(branch_labels)}
depends_on = ${written(depends_on)}

expectations = [
]


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}

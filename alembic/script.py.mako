"""${message}

Version: ${up_revision}
Description: ${description if description is not UNDEFINED else message}
Author: ${author if author is not UNDEFINED else "undecided"}
Date: ${create_date.date() if create_date else "undecided"}
Dependencies: ${down_revision if down_revision is not None else None | comma,n}
Type: ${kind if kind is not UNDEFINED else "schema"}
Phase: expand
Transaction: single
Reversible: undecided
"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
from mcp_planner_schema.operations import expect

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

expectations = [
]


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}

"""Seed the complexity levels.

Version: 021
Description: What each complexity level means and from which score on it holds, for agents and people to read.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 020
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM

from mcp_planner_schema.operations import expect

revision = "021"
down_revision = "020"
branch_labels = None
depends_on = None

expectations = [
    expect.table("complexity_levels"),
    expect.column("complexity_levels", "level", type="complexity_level", nullable=False),
    expect.column("complexity_levels", "lowest_score", type="double precision", nullable=False),
    expect.constraint("complexity_levels", "pk_complexity_levels"),
    expect.constraint("complexity_levels", "uq_complexity_levels_lowest_score"),
    expect.constraint("complexity_levels", "ck_complexity_levels_lowest_score_range"),
    expect.constraint("complexity_levels", "ck_complexity_levels_title_not_blank"),
    expect.constraint("complexity_levels", "ck_complexity_levels_description_not_blank"),
    expect.rows(
        "SELECT FROM unnest(pg_catalog.enum_range(NULL::public.complexity_level)) AS label"
        " WHERE NOT EXISTS (SELECT FROM public.complexity_levels WHERE level = label)",
        count=0,
    ),
]

# See 001.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"

# Run again, it changes nothing, and a row that was changed by hand stays as it is.
SEED = """
    INSERT INTO public.complexity_levels (level, lowest_score, title, description) VALUES
        ('LOW', 0, 'Low', 'One clear action; it is done as one step.'),
        ('MEDIUM', 0.4, 'Medium', 'Several actions or a decision on the way; still one step, worth a second look.'),
        ('HIGH', 0.7, 'High', 'A piece of work with parts of its own; better a task with steps.')
    ON CONFLICT (level) DO NOTHING
"""


def upgrade() -> None:
    op.create_table(
        "complexity_levels",
        sa.Column(
            "level",
            ENUM(name="complexity_level", create_type=False),  # of 004
            nullable=False,
            comment="The level; one row each.",
        ),
        sa.Column(
            "lowest_score",
            sa.Double(),
            nullable=False,
            comment="Score, 0 to 1, from which the level holds, up to where the next begins.",
        ),
        sa.Column("title", sa.String(255), nullable=False, comment="What people call it; not blank."),
        sa.Column("description", sa.Text(), nullable=False, comment="What it says about a step; not blank."),
        sa.PrimaryKeyConstraint("level", name=op.f("pk_complexity_levels")),
        sa.UniqueConstraint("lowest_score", name=op.f("uq_complexity_levels_lowest_score")),
        sa.CheckConstraint("lowest_score BETWEEN 0 AND 1", name=op.f("ck_complexity_levels_lowest_score_range")),
        sa.CheckConstraint(
            f"title COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'", name=op.f("ck_complexity_levels_title_not_blank")
        ),
        sa.CheckConstraint(
            f"description COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'",
            name=op.f("ck_complexity_levels_description_not_blank"),
        ),
        comment="Reference data: what each complexity level means. Filled by its revision, of no project.",
    )
    op.execute(SEED)


def downgrade() -> None:
    op.drop_table("complexity_levels")

"""Create the navigation functions.

Version: 018
Description: prev_id, next_id and the navigation links say the same, whichever is written; functions walk, find and check.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 017
Type: function
Phase: expand
Transaction: single
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "018"
down_revision = "017"
branch_labels = None
depends_on = None

sql_files = [
    "011/check_references.sql",
    "011/steps_20_check_references_insert.sql",
    "011/steps_20_check_references_update.sql",
    "011/tasks_20_check_references_insert.sql",
    "011/tasks_20_check_references_update.sql",
    "018/touch_updated_at.sql",
    "018/write_audit_log.sql",
    "018/write_audit_row.sql",
    "018/derive_finished.sql",
    "018/keep_place.sql",
    "018/item_exists.sql",
    "018/chain_position.sql",
    "018/set_places.sql",
    "018/place_items.sql",
    "018/mirror_references.sql",
    "018/change_links.sql",
    "018/lock_chains.sql",
    "018/link_items.sql",
    "018/mirror_links.sql",
    "018/resolve_reference.sql",
    "018/navigation_chain.sql",
    "018/next_actionable_item.sql",
    "018/validate_navigation.sql",
    "018/tasks_04_lock_chains.sql",
    "018/tasks_40_link_insert.sql",
    "018/tasks_40_link_update.sql",
    "018/tasks_60_derive_finished.sql",
    "018/tasks_60_keep_place_insert.sql",
    "018/tasks_60_keep_place_update.sql",
    "018/steps_04_lock_chains.sql",
    "018/steps_40_link_insert.sql",
    "018/steps_40_link_update.sql",
    "018/steps_60_derive_finished.sql",
    "018/steps_60_keep_place_insert.sql",
    "018/steps_60_keep_place_update.sql",
    "018/navigation_links_04_lock_chains.sql",
    "018/navigation_links_40_mirror_insert.sql",
    "018/navigation_links_40_mirror_update.sql",
    "018/navigation_links_40_mirror_delete.sql",
    "018/navigation_links_40_mirror_truncate.sql",
]
# Where a link's two ends exist is now a foreign key, and link_items says it before in its own words. The old check looked at
# both references of a row when one of them changed, so it would refuse what a deletion does to the neighbours.
GONE, FUNCTIONS, TRIGGERS = sql_files[:5], sql_files[5:23], sql_files[23:]

expectations = [
    expect.absent(expect.function("check_references()")),
    expect.absent(expect.trigger("steps", "steps_20_check_references_insert")),
    expect.absent(expect.trigger("steps", "steps_20_check_references_update")),
    expect.absent(expect.trigger("tasks", "tasks_20_check_references_insert")),
    expect.absent(expect.trigger("tasks", "tasks_20_check_references_update")),
    expect.column("tasks", "finished", default="false"),
    expect.column("steps", "finished", default="false"),
    expect.column("navigation_links", "position", default="'-9223372036854775808'::bigint"),
    expect.function("derive_finished()"),
    expect.function("keep_place()"),
    expect.function("item_exists(uuid, text)"),
    expect.function("chain_position(text)"),
    expect.function("set_places(text[], bigint[])"),
    expect.function("place_items(uuid, text[], boolean)"),
    expect.function("mirror_references(text[], text[])"),
    expect.function("change_links(uuid, text[], text[])"),
    expect.function("lock_chains()"),
    expect.function("link_items()"),
    expect.function("mirror_links()"),
    expect.function("resolve_reference(text)"),
    expect.function("navigation_chain(text, integer)"),
    expect.function("next_actionable_item(uuid)"),
    expect.function("validate_navigation(uuid)"),
    expect.trigger("tasks", "tasks_04_lock_chains"),
    expect.trigger("tasks", "tasks_40_link_insert"),
    expect.trigger("tasks", "tasks_40_link_update"),
    expect.trigger("tasks", "tasks_60_derive_finished"),
    expect.trigger("tasks", "tasks_60_keep_place_insert"),
    expect.trigger("tasks", "tasks_60_keep_place_update"),
    expect.trigger("steps", "steps_04_lock_chains"),
    expect.trigger("steps", "steps_40_link_insert"),
    expect.trigger("steps", "steps_40_link_update"),
    expect.trigger("steps", "steps_60_derive_finished"),
    expect.trigger("steps", "steps_60_keep_place_insert"),
    expect.trigger("steps", "steps_60_keep_place_update"),
    expect.trigger("navigation_links", "navigation_links_04_lock_chains"),
    expect.trigger("navigation_links", "navigation_links_40_mirror_insert"),
    expect.trigger("navigation_links", "navigation_links_40_mirror_update"),
    expect.trigger("navigation_links", "navigation_links_40_mirror_delete"),
    expect.trigger("navigation_links", "navigation_links_40_mirror_truncate"),
]


def upgrade() -> None:
    sql.apply(FUNCTIONS)  # while no table is locked: there are many, and nothing calls the new ones yet
    # Default and triggers in one transaction, as in 013: a row from before has NULL until it is looked at.
    for table in ("tasks", "steps"):
        op.execute(f"ALTER TABLE {table} ALTER finished SET DEFAULT false")
    # The least bigint: "find a place". A link that names none gets one by trigger.
    op.execute("ALTER TABLE navigation_links ALTER position SET DEFAULT '-9223372036854775808'::bigint")
    sql.remove(GONE)
    sql.apply(TRIGGERS)


def downgrade() -> None:
    sql.revert(FUNCTIONS + TRIGGERS)
    sql.apply(GONE)
    op.execute("ALTER TABLE navigation_links ALTER position DROP DEFAULT")
    for table in ("steps", "tasks"):
        op.execute(f"ALTER TABLE {table} ALTER finished DROP DEFAULT")

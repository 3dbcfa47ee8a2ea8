"""The one MetaData, its naming convention, and the columns and checks that several tables share."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Uuid,
    text,
)

# One convention names everything, so that a revision can drop what it created without asking the catalog.
# Check constraints say what they demand; the other names follow from table and columns. PostgreSQL cuts names
# at 63 bytes without an error, and two cut names may collide: SQLAlchemy would shorten a longer one with a hash,
# so columns are named short enough that none is.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

# Any character that leaves ink: neither ASCII white space, nor Unicode's (no-break space, em space, line
# separator, ideographic space), nor a zero-width one.
VISIBLE_CHARACTER = r"[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"

# The canonical lower-case form only: references are compared as text, and one item must have one spelling.
ITEM_REFERENCE = "^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def id_column() -> Column[uuid.UUID]:
    """Surrogate key, drawn by the server so that plain SQL inserts need not bring one."""
    return Column("id", Uuid(), primary_key=True, server_default=text("gen_random_uuid()"))


def title_column() -> Column[str]:
    """Title of a task or step; what its siblings are told apart by."""
    return Column("title", String(255), nullable=False, comment="Not blank; unique among its siblings.")


def progress_column(source: str) -> Column[float]:
    """Share of the work that is done; `source` says in the comment where the number comes from."""
    return Column(
        "progress",
        Double(),
        nullable=False,
        server_default=text("0"),
        comment=f"Share done, 0 to 1; {source}.",
    )


def child_count_column(children: str) -> Column[int]:
    """First of the two counters that progress follows from."""
    return Column(
        "child_count",
        Integer(),
        server_default=text("0"),
        comment=f"Number of {children}; kept by trigger, null until counted.",
    )


def child_progress_column(children: str) -> Column[Decimal]:
    """Second of them; numeric, so that no sum depends on the order in which it came about."""
    return Column(
        "child_progress",
        Numeric(38, 15),
        server_default=text("0"),
        comment=f"Sum of the progress of {children}, each at 15 decimals; kept by trigger, null until counted.",
    )


def chain_position_column() -> Column[int]:
    """Where an item stands in its chain: what the next item is found by, without walking there."""
    return Column(
        "chain_position",
        BigInteger(),
        comment="Place in the chain, greater than that of the item before; kept by trigger, null outside of chains.",
    )


def finished_column() -> Column[bool]:
    """For index predicates: an index on progress itself would be written at every change of it."""
    return Column(
        "finished",
        Boolean(),
        server_default=text("false"),
        comment="Whether progress is 1; kept by trigger, null until looked at.",
    )


def unfinished_index(table: str, column: str) -> Index:
    """The order of what next_actionable_item looks for, of a project or below a task."""
    return Index(
        f"ix_{table}_{column}_unfinished",
        column,
        "chain_position",
        "created_at",
        "id",
        postgresql_where=text("finished IS NOT TRUE"),
    )


def reference_column(name: str, neighbour: str) -> Column[str]:
    """Text form of the prev/next chain, which older releases read and write."""
    return Column(
        name,
        String(50),
        comment=f"Reference to the {neighbour} item, task://<uuid> or step://<uuid>; kept equal to navigation_links.",
    )


def created_at_column() -> Column[datetime]:
    """Start of the transaction that inserted the row."""
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()"))


def updated_at_column() -> Column[datetime]:
    """Start of the transaction that last changed the row."""
    return Column(
        "updated_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="Time of the last change; kept by trigger.",
    )


def has_visible_character(column: str) -> str:
    """SQL condition: `column` holds something a reader can see.

    COLLATE "C" pins what the regular expression takes for white space: otherwise a row that passes the check
    under one server's locale fails it when the dump is restored under another's.
    """
    return f"{column} COLLATE \"C\" ~ '{VISIBLE_CHARACTER}'"


def not_blank(column: str) -> CheckConstraint:
    """Refuse the empty string and white space of any kind; NULL is the column's own business."""
    return CheckConstraint(has_visible_character(column), name=f"{column}_not_blank")


def unit_interval(column: str) -> CheckConstraint:
    """Refuse what is outside 0 to 1. NaN too: PostgreSQL sorts it above every number, so it is not `<= 1`."""
    return CheckConstraint(f"{column} BETWEEN 0 AND 1", name=f"{column}_range")


def not_negative(column: str) -> CheckConstraint:
    """Refuse counts below zero."""
    return CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative")


def positive(column: str) -> CheckConstraint:
    """Refuse limits that allow nothing."""
    return CheckConstraint(f"{column} > 0", name=f"{column}_positive")


def reference_form(column: str) -> CheckConstraint:
    """Refuse a reference that names neither a task nor a step; whether it exists is a trigger's question."""
    return CheckConstraint(f"{column} ~ '{ITEM_REFERENCE}'", name=f"{column}_form")


def reference_not_itself(column: str, scheme: str) -> CheckConstraint:
    """Refuse a reference at its own row. The cast keeps `||` text to text: with a uuid operand it is only STABLE."""
    return CheckConstraint(f"{column} <> '{scheme}://' || id::text", name=f"{column}_not_itself")


def exactly_one(task_column: str, step_column: str, name: str) -> CheckConstraint:
    """Demand that a polymorphic end is a task or a step: not both, not neither."""
    return CheckConstraint(f"num_nonnulls({task_column}, {step_column}) = 1", name=name)

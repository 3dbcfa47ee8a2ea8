"""Where a database stands, by Prisma's rows and the revisions that came from its migrations; and what both say differently."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.interop.prisma.places import Place, matches
from mcp_planner_schema.interop.prisma.rows import Row


@dataclass(frozen=True)
class Standing:
    """``count`` revisions are applied; ``failed`` are the attempts that Prisma waits for."""

    line: Sequence[Place]
    rows: Sequence[Row]
    count: int
    failed: tuple[Row, ...]

    @property
    def place(self) -> Place | None:
        """The last one that is applied; None at base."""
        return self.line[self.count - 1] if self.count else None

    def __str__(self) -> str:
        names = [row.name for row in self.rows if row.applied]
        return f"{len(names)} migrations applied{f', the last {names[-1]}' if names else ''}"


def read(line: Sequence[Place], rows: Sequence[Row], heads: Collection[str]) -> Standing:
    """What the rows say. A revision that came from no migration is applied where ``heads``, with all before them, say so."""
    applied = {row.name for row in rows if row.applied}
    failed = tuple(row for row in rows if row.failed)
    done = [place.name in applied if place.name is not None else place.revision in heads for place in line]
    count = next((number for number, one in enumerate(done) if not one), len(line))
    return Standing(line, rows, count, failed)


def require_no_gap(standing: Standing, table: str, heads: Collection[str], command: str) -> None:
    """Raise :class:`WrongUse` where a revision is not applied and one behind it is: the guard runs them in their order."""
    applied = {row.name for row in standing.rows if row.applied}
    behind = [one for one in standing.line[standing.count :] if one.name in applied or one.revision in heads]
    if not behind:
        return
    lacks, has = standing.line[standing.count], behind[-1]
    if lacks.name is None:
        raise WrongUse(
            f"{table} says that {has.name} is applied, revision {has.revision}; revision {lacks.revision} before it came from no "
            "migration of Prisma's, and is not.",
            f"{command} AT=…   (the revision that this database stands at, by make migrate-plan)",
        )
    raise WrongUse(
        f"{table} has no row for {lacks.name} (revision {lacks.revision}), and one for {has.name} (revision {has.revision}) "
        "behind it: a branch that was merged late. Prisma would run it next; the guard runs revisions in their order.",
        f"npx prisma migrate deploy, then {command}   (or, where it is there all the same, {command} AT={has.revision})",
    )


def differences(standing: Standing, revision: str) -> list[str]:
    """What the rows say otherwise than the revisions up to this one: a text that was changed, a migration that is not here."""
    names = [place.revision for place in standing.line]
    upto = standing.line[: names.index(revision) + 1] if revision in names else ()
    rows = {row.name: row for row in standing.rows if row.applied}
    told = [
        f"{place.name} (revision {place.revision}) was applied with checksum {rows[place.name].checksum}, which is not its text's"
        for place in upto
        if place.name in rows and not matches(place.text() or "", rows[place.name].checksum)
    ]
    known = {place.name for place in standing.line}
    return told + [f"{name} was applied, and no revision came from it" for name in rows if name not in known]

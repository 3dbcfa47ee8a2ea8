"""Schemas for the tests of fingerprints, for PostgreSQL 14 and newer."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "fingerprints"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


SCHEMA = _read("every_kind.sql") + _read("shapes.sql")
"""An object of every kind that a fingerprint knows; views, checks and bodies that PostgreSQL has many ways to write."""

DRIFTS = [
    ("\n".join(line[2:] for line in lines if line[0] == ">"), [line for line in lines if line[0] != ">"])
    for lines in (drift.strip("\n").split("\n") for drift in _read("drifts.txt").split("\n\n"))
]
"""A change that no revision made, and the lines that tell of it."""

STEP_BY_STEP, ONCE = _read("step_by_step.sql"), _read("once.sql")
"""The same schema, made by a chain of changes and at once."""

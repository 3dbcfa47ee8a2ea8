"""What a rule of the catalogue consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One thing the guard refuses or warns of.

    ``happens``, ``hurts`` and ``instead`` are format strings; the names in braces are filled from the finding.
    ``waivable`` says whether a revision's ``Waive:`` line can lift it, ``acceptable`` whether whoever runs it can, for one run.
    """

    code: str
    happens: str
    hurts: str
    instead: str
    waivable: bool = False
    refuses: bool = True
    acceptable: bool = False

"""Numbers and times as people read them; one way for all of a report."""

from __future__ import annotations

import datetime as dt

from markupsafe import escape


def lasting(milliseconds: float) -> str:
    """A duration by its two largest units, or in tenths of a second."""
    if milliseconds < 1:
        return "< 1 ms" if milliseconds > 0 else "0 ms"
    if milliseconds < 1000:
        return f"{min(milliseconds, 999):.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    whole, parts = round(milliseconds / 1000), []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts[:2])


def when(at: dt.datetime) -> str:
    """A moment, to the second."""
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(at: dt.datetime) -> str:
    """The time of day, to the second."""
    return f"{at.astimezone(dt.UTC):%H:%M:%S}"


def count(number: int | None, none: str = "not counted") -> str:
    """A number with commas."""
    return none if number is None else f"{number:,}"


def many(number: int, one: str, more: str = "") -> str:
    """``1 step``, ``2 steps``."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def heads(names: tuple[str, ...]) -> str:
    """A version: ``base`` where there is none."""
    return ", ".join(names) or "base"


def visible(text: object) -> str:
    """What cannot be seen, or would turn the order of what is read (U+202E), stands there as its number."""
    return "".join(
        char
        if char.isprintable() or char in "\n\t"
        else f"\\x{ord(char):02x}"
        if ord(char) < 256
        else f"\\u{ord(char):04x}"
        for char in str(text)
    )


def shown(text: object) -> str:
    """Safe between tags and in an attribute of HTML."""
    return str(escape(visible(text)))

"""Expressions that a dump and its restore write in another way, in one way.

``varchar IN ('a', 'b')`` and ``BETWEEN`` beside AND are parsed once by whoever writes them and once more from PostgreSQL's own
text: what PostgreSQL shows then has its casts and its brackets at other places. A second restore changes nothing more.
"""

from __future__ import annotations

from mcp_planner_schema.guard.fingerprint.tokens import Group, groups, is_group, parse, words, written

_CONNECTIVES = ("AND", "OR")


def expressions(text: str) -> str:
    """``text`` with its expressions in canonical form."""
    casts = "::text" in text
    if not casts and " AND " not in text and " OR " not in text:
        return text  # most are
    nested = any(f" {word} (" in text or f") {word} " in text for word in _CONNECTIVES)
    if not nested and "ARRAY" not in text and "character varying" not in text:
        return text
    root = parse(text)
    if casts:
        for group in groups(root):
            _cast_elements(group)
        for group in groups(root):
            _cast_constants(group)
    if nested:
        for group in groups(root):
            _flatten(group)
    return written(root)


def _cast_elements(group: Group) -> None:
    """``(ARRAY[a, b])::text[]`` becomes ``ARRAY[(a)::text, (b)::text]``."""
    parts, made, at = group.parts, list[str | Group](), 0
    while at < len(parts):
        array = _array(parts[at])
        if array is not None and parts[at + 1 : at + 3] == ["::", "text"] and _is_empty(parts[at + 3 : at + 4]):
            made += ["ARRAY", _each_cast(array)]
            at += 4
        else:
            made.append(parts[at])
            at += 1
    group.parts = made


def _array(part: str | Group) -> Group | None:
    if is_group(part, "(") and len(part.parts) == 2 and part.parts[0] == "ARRAY" and is_group(part.parts[1], "["):
        return part.parts[1]
    return None


def _is_empty(brackets: list[str | Group]) -> bool:
    return bool(brackets) and is_group(brackets[0], "[") and not brackets[0].parts


def _each_cast(array: Group) -> Group:
    made, element = Group("[", ended=True), Group("(", ended=True)
    for part in [*array.parts, ","]:
        if part != ",":
            if element.parts or part != " ":
                element.parts.append(part)
            continue
        made.parts += [element, "::", "text", ",", " "]
        element = Group("(", ended=True)
    del made.parts[-2:]
    return made


def _cast_constants(group: Group) -> None:
    """``('a'::character varying(9))::text`` becomes ``'a'::text``."""
    parts, made = group.parts, list[str | Group]()
    for at, part in enumerate(parts):
        cast = parts[at + 1 : at + 3] == ["::", "text"] and not any(
            is_group(one, "[") for one in parts[at + 3 : at + 4]
        )
        constant = _varchar(part) if cast else None
        made.append(part if constant is None else constant)
    group.parts = made


def _varchar(part: str | Group) -> str | None:
    """The constant in ``('a'::character varying)``."""
    if not is_group(part, "("):
        return None
    inside = words(part)
    if inside[1:4] != ["::", "character", "varying"] or len(inside) > 5:
        return None
    constant = inside[0]
    length = len(inside) == 4 or is_group(inside[4], "(")
    return constant if length and isinstance(constant, str) and constant.startswith("'") else None


def _flatten(group: Group) -> None:
    """``((a AND b) AND c)`` becomes ``(a AND b AND c)``."""
    connective = _connective(group)
    if not connective:
        return
    inside = [connective, *words(group), connective]
    for before, part, after in zip(inside, inside[1:], inside[2:], strict=False):
        if before == after == connective and is_group(part, "(") and _connective(part) == connective:
            part.bare = True


def _connective(group: Group) -> str:
    """The one word that joins what is in these brackets. The AND of a window's frame is none."""
    if group.opening != "(":
        return ""
    found = {part for part in group.parts if isinstance(part, str) and part in (*_CONNECTIVES, "BETWEEN")}
    return found.pop() if len(found) == 1 and "BETWEEN" not in found else ""

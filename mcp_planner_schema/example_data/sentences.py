"""Texts about planning software, built once and escaped for COPY, so that a row only has to pick one.

Every pool has a power of two entries: a few random bits are an index. They hold what breaks careless loaders: accents,
CJK, emoji, both kinds of quotes, backslashes, tabs and newlines.
"""

# ruff: noqa: RUF001  # characters that look like others are here on purpose: users type them

from __future__ import annotations

import json
import random

_VERBS = (
    "Design", "Review", "Draft", "Measure", "Document", "Split", "Migrate", "Test",
    "Simplify", "Prototype", "Schedule", "Harden", "Estimate", "Validate", "Rehearse", "Retire",
)  # fmt: skip
_THINGS = (
    "the import pipeline", "the sign-in flow", "the billing report", "the search index", "the audit trail",
    "the release checklist", "the mobile layout", "the retry policy", "the permission model", "the data retention",
    "the onboarding guide", "the cache invalidation", "the webhook contract", "the error budget", "the staging cluster",
    "the invoice export", "the translation workflow", "the rate limits", "the backup rehearsal", "the feature flags",
    "the customer survey", "the dependency updates", "the message queue", "the status page", "the accessibility audit",
    "the pricing page", "the load test", "the incident playbook", "the API versioning", "the nightly batch",
    "the schema review", "the support handover",
)  # fmt: skip
_QUALIFIERS = ("", " for the pilot", " with the reviewers", " before the release", " after the audit",
               " in the second pass", " for all tenants")  # fmt: skip
_RARE = (
    " (Zürich)", " 🚧", " — façade first", " 第2版", ' "as agreed"', " in C:\\plans\\next", " – „Übergabe“", " ✅ v2",
    " naïvely", " with Łukasz", " для архива", " のレビュー", " (O'Brien)", " → done?", " at 100 %", " \\ rollback",
)  # fmt: skip
_REASONS = (
    "nobody has owned it since the spring", "two teams depend on the outcome", "the numbers do not add up yet",
    "support asks for it every week", "the old answer was a guess", "the contract ends in March",
    "a rollback would take a day", "the reviewers asked for evidence", "it blocks every later step",
    "the first estimate was off by half", "it fails only under load", "the vendor changes the format",
    "the logs tell a different story", "users notice it within minutes", "it is cheap now and dear later",
    "there is no test for it",
)  # fmt: skip
_SHAPES = (
    "{verb} {thing} first, because {reason}.",
    "{verb} {thing} and write down what was left out.",
    "Ask who relies on {thing} before anything changes.",
    "Keep {thing} as it is until the figures are in; {reason}.",
    "The plan for {thing} needs an owner, a date and a way back.",
    "{verb} {thing} in small parts, each of which can be undone.",
    "Nobody should have to read the source to understand {thing}.",
    "Done means that {thing} runs a week without a page.",
    "Compare {thing} with last quarter, since {reason}.",
    "Both agents read {thing} the same way now.",
    "{verb} {thing} again once the review is over.",
    "If {reason}, then {thing} can wait.",
    "Agree on one name for {thing}, and use it everywhere.",
    "Time-box {thing} to two days and report either way.",
    'The note said "{thing}", which is not what was meant.',
    "{rare_sentence}",
)
_RARE_SENTENCES = (
    "Zoë prüft die Grenzfälle, bevor {thing} freigegeben wird.",
    "先确认范围，再继续 ({thing})。",
    "「{thing}」のテストを追加してから出荷する。",
    "Ship it 🚀 — but only after {thing} is green ✅.",
    "L’équipe a déjà vérifié {thing} ; il reste l’été à prévoir.",
    "The file is C:\\plans\\drafts\\new.txt, not \\\\share\\tmp; see {thing}.",
    "O'Brien's note: \"{thing}\" \\N is not a null.",
    "Columns:\tname\tvalue\t{thing}.",
)
_CODE = (
    '```python\ndef ready(step):\n\treturn step.status == "AGREED"\n```',
    "```sql\nSELECT title\n\tFROM steps\n\tWHERE title LIKE 'A\\_%';\n```",
    '```json\n{"path": "C:\\\\plans", "retries": 3}\n```',
    "```sh\nprintf '%s\\n' \"$HOME\" | sed 's/\\//-/g'\n```",
)


def escaped(text: str) -> str:
    r"""`text` as one field of COPY's text format: backslash, tab, newline and return are written \\, \t, \n, \r."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def quoted(text: str) -> str:
    """`text` as a JSON string, escaped for COPY."""
    return escaped(json.dumps(text, ensure_ascii=False))


# One fixed stream for the pools: they are the same for every seed. Only getrandbits is used, here and in rows.py: what
# choice() or sample() draw has changed between Python versions.
_bits = random.Random(20250101).getrandbits


def _sentence() -> str:
    words = {"verb": _VERBS[_bits(4)], "thing": _THINGS[_bits(5)], "reason": _REASONS[_bits(4)]}
    shape = _SHAPES[_bits(4)]
    if shape == "{rare_sentence}":
        shape = _RARE_SENTENCES[_bits(3)]
    return shape.format(**words)


def _body() -> tuple[str, str]:
    """A step's content, and what the agents measured of it as JSON with its keys in jsonb's own order."""
    sentences = [_sentence() for _ in range(2 + _bits(2))]
    items = [f"- {_VERBS[_bits(4)].lower()} {_THINGS[_bits(5)]}" for _ in range(max(0, _bits(3) - 3))]
    code = [_CODE[_bits(2)]] if _bits(2) == 0 else []
    parts = [" ".join(sentences), *(["\n".join(items)] if items else []), *code]
    text = "\n\n".join(parts)
    metrics = {
        "sentences": len(sentences),
        "list_items": len(items),
        "code_blocks": len(code),
        "content_length": len(text),
    }
    return text, json.dumps(metrics)


# 16 verbs x 32 things x 8 qualifiers. Bit 11 steps through them all, so siblings that walk the pool never meet twice.
_titles = [
    f"{verb} {thing}{qualifier}"
    for at, verb in enumerate(_VERBS)
    for number, thing in enumerate(_THINGS)
    for qualifier in (*_QUALIFIERS, _RARE[(at + number) % len(_RARE)])
]
_bodies = [_body() for _ in range(1024)]
_breakdowns = [[_titles[_bits(12)] for _ in range(2 + _bits(1))] for _ in range(64)]

TITLES = tuple(map(escaped, _titles))
TITLES_JSON = tuple(map(quoted, _titles))
SENTENCES = tuple(escaped(_sentence()) for _ in range(1024))
BODIES = tuple(escaped(text) for text, _ in _bodies)
METRICS = tuple(escaped(metrics) for _, metrics in _bodies)
BREAKDOWNS = tuple(escaped(json.dumps(titles, ensure_ascii=False)) for titles in _breakdowns)
PRODUCTS = (
    "Atlas", "Beacon", "Café Ordering", "Delta Ledger", "Écluse", "Fjällräven Sync", "Grünspan", "Harbour",
    "Iris 🌈", "Jalapeño", "Kestrel", "Lumière", "Meridian", "Nachtigall", "Orion", "计划助手",
)  # fmt: skip
USERS = (
    "amelie.dubois", "jörg.müller", "佐藤", "s.o'brien", "łukasz", "priya@example.com", "maya \"mo\" ortiz", "corp\\\\li",
)  # fmt: skip
REASONS = tuple(f"Scored above the threshold: {reason}." for reason in _REASONS)
CONVERGED = (
    "No step above the threshold is left.",
    "The last pass promoted nothing.",
    "The allowed number of passes was used up.",
    "Scores changed by less than 0.01 between passes.",
)

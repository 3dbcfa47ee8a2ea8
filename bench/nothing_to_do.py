"""``alembic upgrade head`` at head: what the guard costs when there is nothing to do. Limit: 1.15 times plain Alembic."""

from __future__ import annotations

from functools import partial

from bench.side_by_side import alembic, create_database, history, medians, processor_seconds, server


def main() -> None:
    """Print seconds and ratio for histories of 10, 200 and 1,000 revisions."""
    print("\nnothing to do: alembic upgrade head at head (medians of 15 interleaved runs)")
    print(
        "| revisions | plain Alembic, s | with the guard, s | ratio | ratio of processor time |\n|---|---|---|---|---|"
    )
    with server() as where:
        for revisions in (10, 200, 1000):
            with history(revisions, guarded=False) as plain, history(revisions, guarded=True) as guarded:
                url = create_database(where, "bench")
                alembic(guarded, url, "upgrade", "head")
                contestants = {
                    "plain": partial(alembic, plain, url, "upgrade", "head"),
                    "guarded": partial(alembic, guarded, url, "upgrade", "head"),
                }
                found, spent = medians(15, contestants), processor_seconds(15, contestants)
                ratio, of_processor = found["guarded"] / found["plain"], spent["guarded"] / spent["plain"]
                print(
                    f"| {revisions} | {found['plain']:.3f} | {found['guarded']:.3f} | {ratio:.2f} | {of_processor:.2f} |"
                )

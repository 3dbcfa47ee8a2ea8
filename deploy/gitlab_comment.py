"""Writes a file as a note on a merge request, or over the note that an earlier pipeline has written. Standard library only.

The token comes from PLANNER_COMMENT_TOKEN and goes into a header; where to comes from what GitLab sets for a job.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MARK = "<!-- migrate-plan -->"


def main(file: str) -> int:
    """Write the note; gives the exit code."""
    body = f"{MARK}\n{Path(file).read_text(encoding='utf-8')}"
    where = "{CI_API_V4_URL}/projects/{CI_PROJECT_ID}/merge_requests/{CI_MERGE_REQUEST_IID}/notes".format_map(
        os.environ
    )
    try:
        there = next((one["id"] for one in _notes(where) if str(one["body"]).startswith(MARK)), None)
        if there is None:
            _ask("POST", where, {"body": body})
        else:
            _ask("PUT", f"{where}/{there}", {"body": body})
    except urllib.error.URLError as error:
        print(
            f"The note could not be written: {error}\n\nnext: look at PLANNER_COMMENT_TOKEN (scope api)",
            file=sys.stderr,
        )
        return 1
    return 0


def _notes(where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for page in range(1, 100):
        some = _ask("GET", f"{where}?per_page=100&page={page}")
        found += some
        if len(some) < 100:
            break
    return found


def _ask(method: str, url: str, body: dict[str, str] | None = None) -> Any:
    headers = {"PRIVATE-TOKEN": os.environ["PLANNER_COMMENT_TOKEN"], "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

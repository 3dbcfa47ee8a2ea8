"""Steps and what hangs on them: contents, assessments, agreements, disputes and each move's row in the log."""

from __future__ import annotations

from mcp_planner_schema.example_data.project import DAY, LEVELS, NULL, SCORES, Outline, Project, number_text, stamp
from mcp_planner_schema.example_data.sentences import BODIES, BREAKDOWNS, METRICS, SENTENCES, TITLES, TITLES_JSON, USERS

_PROGRESS = {"PENDING": 0.0, "SERVER_DRAFT": 0.25, "CLIENT_REVIEW": 0.5, "DISPUTED": 0.5, "USER_RESOLUTION": 0.75,
             "AGREED": 1.0}  # fmt: skip
_STATUSES = tuple(_PROGRESS)
# What is under way, behind the frontier (mostly agreed) and at it; picked by four bits.
_BEHIND = ("AGREED",) * 14 + ("DISPUTED", "USER_RESOLUTION")
_FRONTIER = ("SERVER_DRAFT",) * 5 + ("CLIENT_REVIEW",) * 6 + ("DISPUTED",) * 2 + ("AGREED",) * 2 + ("PENDING",)
_RESOLUTIONS = ("SERVER", "CLIENT", "CUSTOM", "HYBRID")


def _moved(old: str, new: str, actor: str, action: str = "UPDATED") -> str:
    """An audit row's fields from `action` to `ai_agent`, for one move of a step's status."""
    values = f'{{"status": "{old}"}}\t{{"status": "{new}"}}'
    who = f"\\N\t{actor}" if actor.endswith("_AI") else f"{actor}\t\\N"
    return f'{action}\t{values}\t{{"source": "negotiation"}}\t{who}'


def _path(status: str, rounds: int, disputed: bool, user: str) -> tuple[str, ...]:
    """The audit rows of a step that came to `status` after `rounds`, in order: the moves the schema allows."""
    if status == "PENDING":
        return ()
    back = [
        _moved("SERVER_DRAFT", "CLIENT_REVIEW", "SERVER_AI"),
        _moved("CLIENT_REVIEW", "SERVER_DRAFT", "CLIENT_AI"),
    ]
    path = [_moved("PENDING", "SERVER_DRAFT", "SERVER_AI"), *back * (rounds - 1)]
    if status == "SERVER_DRAFT":
        return tuple(path)
    path.append(back[0])
    if disputed:
        path.append(_moved("CLIENT_REVIEW", "DISPUTED", "CLIENT_AI"))
        if status != "DISPUTED":
            path.append(_moved("DISPUTED", "USER_RESOLUTION", user))
        if status == "AGREED":
            path.append(_moved("USER_RESOLUTION", "AGREED", "system", "COMPLETED"))
    elif status == "AGREED":
        path.append(_moved("CLIENT_REVIEW", "AGREED", "CLIENT_AI", "COMPLETED"))
    return tuple(path)


_PATHS = {
    (status, rounds, disputed): tuple(_path(status, rounds, disputed, user) for user in USERS)
    for status in _STATUSES
    for rounds in range(6)
    for disputed in (False, True)
}


def write(project: Project, outline: Outline, showing: bool) -> list[float]:
    """Write steps and all that hangs on them; gives for each task the sum of its steps' progress (exact: quarters)."""
    dice, lines, pid = project.dice, project.lines["steps"], project.id
    previous, following = outline.previous.get, outline.following.get
    total = sum(map(len, outline.steps))
    pace = (10 + dice.getrandbits(7)) * DAY // max(total, 1)
    walk, stride = dice.getrandbits(12), 2 * dice.getrandbits(11) + 1  # odd: meets no title twice in 4096
    planned = project.begun + 600 + 45 * len(outline.tasks)  # every task exists by then
    every, done = 0, []
    for task, steps in zip(outline.tasks, outline.steps, strict=True):
        gained = 0.0
        for step in steps:
            bits = dice.getrandbits(64)
            ahead = every - project.advance * total
            if showing and every < 6:
                status = _STATUSES[every]
            elif ahead < -2:
                status = _BEHIND[bits & 15]
            else:
                status = _FRONTIER[bits & 15] if ahead < 6 else "PENDING"
            title = (walk + stride * every) & 4095
            created = planned + every * pace // 2
            every += 1
            gained += _PROGRESS[status]
            project.audit(
                "STEP",
                step,
                f'CREATED\t\\N\t{{"title": {TITLES_JSON[title]}, "status": "PENDING", "task_id": "{task}"}}'
                f'\t{{"source": "planning"}}\t\\N\tSERVER_AI',
                created,
            )
            head = f"{step}\t{pid}\t{task}\t{TITLES[title]}\t{previous(step, NULL)}\t{following(step, NULL)}"
            tail = f"\t{outline.places.get(step, NULL)}\t{'t' if _PROGRESS[status] == 1 else 'f'}"
            if status == "PENDING":
                lines.append(f"{head}{_UNTOUCHED}{stamp(created)}\t{stamp(created)}{tail}")
            else:
                lines.append(head + _negotiated(project, step, status, bits >> 4, created) + tail)
        done.append(gained)
    return done


_UNTOUCHED = "\t0\t\\N\t\\N\t\\N\t0\tf\tPENDING\tf\tf\t\\N\t\\N\t\\N\t\\N\t\\N\t"


def _negotiated(project: Project, step: str, status: str, bits: int, created: int) -> str:
    """A worked-on step's fields from `progress` on; writes its assessments, agreements, disputes and audit rows."""
    ids, pid, threshold = project.ids, project.id, project.threshold
    body, sentence, user = bits & 1023, bits >> 10 & 1023, bits >> 20 & 7
    # A user has settled one agreed step in eight; a dispute arises when the rounds are used up.
    disputed = status in ("DISPUTED", "USER_RESOLUTION") or (status == "AGREED" and bits >> 23 & 7 == 0)
    rounds = project.most_rounds if disputed else 1 + ((bits >> 26 & 3) * project.most_rounds >> 3)
    reviewed = status != "SERVER_DRAFT"
    last = rounds if reviewed else rounds - 1  # the last round both agents have judged
    mine = (bits >> 28 & 127) * threshold >> 7
    theirs = min(100, mine + (bits >> 35 & 31)) if disputed else max(0, mine - (bits >> 35 & 15))
    agreed = mine if disputed else (mine + theirs) // 2
    server_content, client_content = BODIES[body], f"{BODIES[body]} {SENTENCES[sentence]}"
    at, pause = created, 300 + (bits >> 40 & 4095)

    assessments, agreements = project.lines["complexity_assessments"], project.lines["complexity_agreements"]
    metrics = METRICS[body]
    for turn in range(1, rounds + 1):
        at += pause
        assessments.append(
            f"{next(ids)}\t{pid}\t{step}\tSERVER_AI\t{turn}\t{LEVELS[mine]}\t{SCORES[mine]}\t{SENTENCES[sentence ^ turn]}"
            f"\tf\t{SCORES[60 + 10 * turn % 40]}\t[]\t{metrics}\t{stamp(at)}"
        )
        if turn <= last:
            promote = theirs > threshold
            assessments.append(
                f"{next(ids)}\t{pid}\t{step}\tCLIENT_AI\t{turn}\t{LEVELS[theirs]}\t{SCORES[theirs]}\t\\N"
                f"\t{'t' if promote else 'f'}\t{SCORES[50 + (bits >> 52 & 31)]}"
                f"\t{BREAKDOWNS[sentence & 63] if promote else '[]'}\t{metrics}\t{stamp(at + 90)}"
            )
            if turn == rounds and disputed:
                outcome = "f\t\\N\t\\N\t\\N\tESCALATED"
            elif turn == rounds and status == "AGREED":
                how = "CONSENSUS" if LEVELS[mine] == LEVELS[theirs] else "WEIGHTED"
                outcome = f"t\t{LEVELS[agreed]}\t{SCORES[agreed]}\tf\t{how}"
            else:
                outcome = "f\t\\N\t\\N\t\\N\tWEIGHTED"
            agreements.append(f"{next(ids)}\t{pid}\t{step}\t{turn}\t{outcome}\t{stamp(at + 120)}")

    moved = created
    for fields in _PATHS[status, rounds, disputed][user]:
        moved += pause // 2
        project.audit("STEP", step, fields, moved)
    updated = max(at + 120, moved)
    final = client_content
    if disputed:
        resolution = _RESOLUTIONS[bits >> 57 & 3] if status != "DISPUTED" else ""
        final = _dispute(
            project, step, (server_content, client_content), sentence, resolution, (at + 150, updated + 200)
        )
        updated += 300
    return (
        f"\t{number_text(_PROGRESS[status])}\t{server_content}\t{client_content if reviewed else NULL}"
        f"\t{final if status == 'AGREED' else NULL}\t{rounds}\t{'t' if rounds == project.most_rounds else 'f'}\t{status}"
        f"\t{'t' if reviewed else 'f'}\t{'t' if status == 'AGREED' else 'f'}"
        f"\t{LEVELS[mine]}\t{LEVELS[theirs] if last else NULL}\t{LEVELS[agreed] if status == 'AGREED' else NULL}"
        f"\t{SCORES[agreed]}\t{'t' if status == 'DISPUTED' and theirs > threshold else 'f'}"
        f"\t{stamp(created)}\t{stamp(updated)}"
    )


def _dispute(
    project: Project, step: str, contents: tuple[str, str], sentence: int, resolution: str, times: tuple[int, int]
) -> str:
    """Write a step's dispute, settled where `resolution` says how; gives the content that was settled on."""
    (server, client), (raised, settled) = contents, times
    dispute, user = next(project.ids), USERS[project.user]
    settlement = {"SERVER": server, "CLIENT": client, "HYBRID": f"{client}\\n\\n{SENTENCES[sentence ^ 7]}"}.get(
        resolution, f"{SENTENCES[sentence ^ 5]} {SENTENCES[sentence ^ 6]}"
    )
    outcome = f"RESOLVED\t{resolution}\t{settlement}\t{stamp(settled)}" if resolution else "PENDING\t\\N\t\\N\t\\N"
    project.lines["disputes"].append(
        f"{dispute}\t{project.id}\t{step}\t{server}\t{client}\t{SENTENCES[sentence ^ 1]}\t{SENTENCES[sentence ^ 2]}"
        f"\t{outcome}\t{stamp(raised)}\t{stamp(settled if resolution else raised)}"
    )
    new = f'{{"status": "PENDING", "step_id": "{step}"}}'
    project.audit("DISPUTE", dispute, f"DISPUTED\t\\N\t{new}\t\\N\t\\N\tCLIENT_AI", raised)
    if resolution:
        new = f'{{"status": "RESOLVED", "user_resolution": "{resolution}"}}'
        project.audit("DISPUTE", dispute, f'RESOLVED\t{{"status": "PENDING"}}\t{new}\t\\N\t{user}\t\\N', settled)
    return settlement

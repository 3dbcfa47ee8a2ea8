"""Rows of example projects in COPY's text format: a pure function of the seed and the project's number.

Nothing else goes in: not the clock, not the number of projects asked for, not the Python version. Only `getrandbits` and
what rests on it draws numbers, and floats are added one by one, because `sum()` of floats rounds differently from 3.12 on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from mcp_planner_schema.example_data import negotiation
from mcp_planner_schema.example_data.project import (
    COLUMNS,
    DAY,
    NULL,
    SCORES,
    Outline,
    Project,
    mean,
    number_text,
    project_id,
    stamp,
    stored_sum,
    units,
)
from mcp_planner_schema.example_data.sentences import (
    BODIES,
    CONVERGED,
    PRODUCTS,
    REASONS,
    SENTENCES,
    TITLES,
    TITLES_JSON,
    USERS,
)

APART = 1 << 32  # from one item of a chain to the next, as the triggers place them


def rows(seed: int, first: int, count: int) -> Iterator[dict[str, bytes]]:
    """COPY text by table, one dictionary a project, for projects `first` to `first + count - 1`.

    Project k is the same bytes whatever `first` and `count` are. Touches no database; memory holds one project.
    """
    for number in range(first, first + count):
        lines = _project(seed, number).lines
        # pop: a table's lines are gone before the next table's are encoded
        yield {table: "\n".join([*every, ""]).encode() for table in COLUMNS if (every := lines.pop(table))}


def _uuids(dice: random.Random) -> Iterator[str]:
    while True:
        pool = dice.randbytes(1024).hex()
        for at in range(0, 2048, 32):
            yield (
                f"{pool[at : at + 8]}-{pool[at + 8 : at + 12]}-4{pool[at + 13 : at + 16]}"
                f"-a{pool[at + 17 : at + 20]}-{pool[at + 20 : at + 32]}"
            )


def _project(seed: int, number: int) -> Project:
    dice = random.Random(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest(), "big"))
    project = Project(
        id=project_id(seed, number),
        threshold=50 + dice.getrandbits(5),
        most_rounds=2 + dice.getrandbits(1) + dice.getrandbits(1),
        begun=dice.getrandbits(25) + dice.getrandbits(22),  # within 13 months
        advance=1.3 * dice.random() - 0.1,
        dice=dice,
        ids=_uuids(dice),
        user=dice.getrandbits(3),
    )
    showing = number % 16 == 0  # has a step of every status, so that the smallest database has one too
    if showing:
        project.advance = 0.6
    outline = _outline(project, empty=number % 32 == 31)
    _link(project, outline)
    done = negotiation.write(project, outline, showing)
    _head(project, number, outline, *_tasks(project, outline, done))
    _cursors(project, outline)
    return project


def _outline(project: Project, empty: bool) -> Outline:
    """About 12 tasks and 80 steps; of 128 projects three are four times that, one eight times, and four just begun."""
    dice, ids = project.dice, project.ids
    size = 4 + int(33 * dice.random() * dice.random())
    size *= 8 if (chance := dice.getrandbits(7)) == 0 else 4 if chance < 4 else 1
    outline = Outline([], [], [])
    depths: list[int] = []
    for at in range(0 if empty else size):
        parent = int(dice.random() * at) if at > 2 + size // 8 else -1
        if parent >= 0 and depths[parent] == 4:
            parent = outline.parents[parent]
        depths.append(depths[parent] + 1 if parent >= 0 else 1)
        outline.tasks.append(next(ids))
        outline.parents.append(parent)
        # One task in 16 has no step of its own yet; the first has enough for every status.
        count = 8 if at == 0 else 0 if dice.getrandbits(4) == 0 else 2 + dice.getrandbits(2) + dice.getrandbits(3)
        outline.steps.append([next(ids) for _ in range(count)])
    return outline


def _link(project: Project, outline: Outline) -> None:
    """Chain the items: a task's steps, its sub-tasks, then the task. Some projects break the chain or leave items out."""
    children: list[list[int]] = [[] for _ in outline.tasks]
    roots = [at for at, parent in enumerate(outline.parents) if parent < 0]
    for at, parent in enumerate(outline.parents):
        if parent >= 0:
            children[parent].append(at)
    breaks = set()

    def walk(at: int) -> None:
        outline.items.extend(("step", step) for step in outline.steps[at])
        for child in children[at]:
            walk(child)
        outline.items.append(("task", outline.tasks[at]))

    for root in roots:
        breaks.add(len(outline.items))
        walk(root)
    style = project.dice.getrandbits(4)
    # 0-2: one chain for each root task; 3-4: an eighth of the items is in no chain; the others: one chain.
    chained = outline.items
    if style in (3, 4):
        chained = [item for item in chained if project.dice.getrandbits(3)]
    lines = project.lines["navigation_links"]
    for at in range(1, len(chained)):
        if style < 3 and at in breaks:
            continue
        (kind, here), (next_kind, there) = chained[at - 1], chained[at]
        outline.following[here] = f"{next_kind}://{there}"
        outline.previous[there] = f"{kind}://{here}"
        start = f"{here}\t\\N" if kind == "task" else f"\\N\t{here}"
        end = f"{there}\t\\N" if next_kind == "task" else f"\\N\t{there}"
        outline.places.setdefault(here, (at - 1) * APART)
        outline.places[there] = at * APART
        lines.append(f"{next(project.ids)}\t{project.id}\t{start}\t{end}\t{at * APART}\tf")


def _tasks(project: Project, outline: Outline, done: list[float]) -> tuple[int, int]:
    """Write the tasks and the promotions some came from; gives the sum of the root tasks' progress, and their number."""
    dice, pid = project.dice, project.id
    gained, parts = [units(value) for value in done], [len(steps) for steps in outline.steps]
    progress = [0.0] * len(done)
    whole, roots = 0, 0
    for at in reversed(range(len(done))):  # children stand behind their parents
        progress[at] = mean(gained[at], parts[at])
        parent = outline.parents[at]
        if parent >= 0:
            gained[parent] += units(progress[at])
            parts[parent] += 1
        else:
            whole += units(progress[at])
            roots += 1
    walk, stride = dice.getrandbits(12), 2 * dice.getrandbits(11) + 1
    promoted = 0
    for at, task in enumerate(outline.tasks):
        bits = dice.getrandbits(48)
        title = (walk + stride * at) & 4095
        parent = outline.parents[at]
        above = outline.tasks[parent] if parent >= 0 else NULL
        created = project.begun + 60 + at * 45
        updated = created + (bits >> 20 & 0xFFFFF)
        project.lines["tasks"].append(
            f"{task}\t{pid}\t{above}\t{TITLES[title]}\t{SENTENCES[bits & 1023]} {SENTENCES[bits >> 10 & 1023]}"
            f"\t{number_text(progress[at])}\t{outline.previous.get(task, NULL)}\t{outline.following.get(task, NULL)}"
            f"\t{stamp(created)}\t{stamp(updated)}\t{parts[at]}\t{stored_sum(gained[at])}"
            f"\t{outline.places.get(task, NULL)}\t{'t' if progress[at] == 1 else 'f'}"
        )
        # jsonb prints its keys by length, then by name
        parent_json = f'"{above}"' if parent >= 0 else "null"
        new = f'{{"title": {TITLES_JSON[title]}, "progress": 0, "parent_task_id": {parent_json}}}'
        project.audit("TASK", task, f'CREATED\t\\N\t{new}\t{{"source": "planning"}}\t\\N\tSERVER_AI', created)
        if progress[at]:
            new = f'{{"progress": {number_text(progress[at])}}}'
            project.audit("TASK", task, f'UPDATED\t{{"progress": 0}}\t{new}\t\\N\tsystem\t\\N', updated)
        # One sub-task in eight was a step once, and at least one of each project
        if parent >= 0 and (promoted == 0 or bits >> 40 & 7 == 0):
            promoted += 1
            _promotion(project, task, above, title, bits, created)
    return whole, roots


def _promotion(project: Project, task: str, above: str, title: int, bits: int, at: int) -> None:
    """Write how `task` came from a step, which is gone; only its audit rows and the promotion remember it."""
    step = next(project.ids)
    score = project.threshold + 1 + (bits >> 43) * (100 - project.threshold - 1) // 31
    project.lines["step_promotions"].append(
        f"{next(project.ids)}\t{project.id}\t{step}\t{TITLES[title]}\t{task}\t{REASONS[bits & 15]}"
        f"\t{SCORES[score] if bits & 15 else NULL}\t{BODIES[bits >> 4 & 1023]}\t{stamp(at)}"
    )
    was = f'{{"title": {TITLES_JSON[title]}, "status": "PENDING", "task_id": "{above}"}}'
    project.audit("STEP", step, f"CREATED\t\\N\t{was}\t\\N\t\\N\tSERVER_AI", at - 40)
    project.audit("STEP", step, f'PROMOTED\t\\N\t{{"new_task_id": "{task}"}}\t\\N\t\\N\tSERVER_AI', at)
    project.audit("STEP", step, f"DELETED\t{was}\t\\N\t\\N\t\\N\tSERVER_AI", at)


def _head(project: Project, number: int, outline: Outline, done: int, roots: int) -> None:
    """Write the project itself, its thresholds and its optimisation runs."""
    dice, pid, begun = project.dice, project.id, project.begun
    bits = dice.getrandbits(40)
    name = f"{PRODUCTS[bits & 15]} {number + 1}"
    user = USERS[project.user]
    latest = begun + 3_600 + (bits >> 20 & 0xFFFFF)
    project.lines["projects"].append(
        f"{pid}\t{name}\t{SENTENCES[bits >> 4 & 1023]}\\n\\n{BODIES[bits >> 10 & 1023]}\t{number_text(mean(done, roots))}"
        f"\t{stamp(begun)}\t{stamp(latest)}\t{SCORES[project.threshold]}\t{project.most_rounds}\t{roots}\t{stored_sum(done)}"
    )
    new = f'{{"name": "{name}", "progress": 0}}'
    project.audit("PROJECT", pid, f'CREATED\t\\N\t{new}\t{{"source": "planning"}}\t{user}\t\\N', begun)

    thresholds = [70, 75 - (bits & 15), project.threshold] if bits >> 4 & 3 == 0 else [70, project.threshold]
    if project.threshold == 70:
        thresholds = [70]
    old = NULL
    for turn, threshold in enumerate(thresholds):
        score, at = SCORES[threshold], begun + turn * (latest - begun) // len(thresholds)
        who = user if turn else "system"
        project.lines["threshold_changes"].append(f"{next(project.ids)}\t{pid}\t{old}\t{score}\t{who}\t{stamp(at)}")
        if turn:
            values = f'{{"complexity_threshold": {old}}}\t{{"complexity_threshold": {score}}}'
            project.audit("PROJECT", pid, f"UPDATED\t{values}\t\\N\t{who}\t\\N", at)
        old = score

    promoted = len(project.lines["step_promotions"])
    analysed = sum(map(len, outline.steps)) + promoted
    for turn in range(1 + dice.getrandbits(1) + dice.getrandbits(1)):
        at = begun + 1_800 + turn * 5 * DAY
        under_way = turn == 2
        used = 1 if under_way else 1 + dice.getrandbits(1)
        end = "\\N\t{}\t\\N" if under_way else f"{CONVERGED[dice.getrandbits(2)]}\t{{}}\t{stamp(at + 40 * used)}"
        project.lines["complexity_runs"].append(
            f"{next(project.ids)}\t{pid}\t{SCORES[project.threshold]}\t{used}\t{project.most_rounds}\t{analysed}"
            f"\t{promoted}\t{end.format(stamp(at))}"
        )
        analysed, promoted = analysed - promoted, 0  # the first run found them all


def _cursors(project: Project, outline: Outline) -> None:
    """Write where the agents and a few users stand."""
    if not outline.items:
        return
    actors = ("SERVER_AI", "CLIENT_AI", *USERS[project.user : project.user + project.dice.getrandbits(2)])
    for actor in actors:
        kind, item = outline.items[int(project.dice.random() * len(outline.items))]
        current = f"{item}\t\\N" if kind == "task" else f"\\N\t{item}"
        project.lines["navigation_cursors"].append(
            f"{next(project.ids)}\t{project.id}\t{actor}\t{current}\t{stamp(project.begun + 7 * DAY)}"
        )

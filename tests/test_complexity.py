"""complexity_summary: numbers of hand-made rows, worked out by hand."""

from __future__ import annotations

import pytest

from tests.conftest import Database

PROJECT, TASK = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(2))
STEPS = [f"00000000-0000-4000-8000-00000000001{n}" for n in range(5)]


def test_the_summary_of_hand_made_rows(database: Database) -> None:
    """Agreed levels win over later assessments, the latest assessment holds elsewhere, and unassessed steps only count."""
    database.rows(
        f"""
        INSERT INTO projects (id, name, description, complexity_threshold) VALUES ('{PROJECT}', 'p', 'd', 0.6);
        INSERT INTO tasks (id, project_id, title, objective) VALUES ('{TASK}', '{PROJECT}', 't', 'o');
        INSERT INTO steps (id, task_id, title) SELECT id, '{TASK}', id FROM unnest(%s::uuid[]) id;
        """,
        STEPS,
    )
    first, second, third, fourth, _ = STEPS
    for step, agent, turn, level, score in [
        (first, "SERVER_AI", 1, "LOW", 0.1), (first, "CLIENT_AI", 1, "MEDIUM", 0.5), (first, "SERVER_AI", 2, "HIGH", 0.9),
        (second, "SERVER_AI", 1, "LOW", 0.2), (second, "SERVER_AI", 2, "HIGH", 0.8),
        (third, "SERVER_AI", 1, "MEDIUM", 0.6), (fourth, "CLIENT_AI", 1, "LOW", 0.1),
    ]:  # fmt: skip
        database.rows(
            "INSERT INTO complexity_assessments (project_id, step_id, agent, iteration, level, score, confidence) "
            "VALUES (%s, %s, %s, %s, %s, %s, 1)", PROJECT, step, agent, turn, level, score,
        )  # fmt: skip
    for step, turn, agreed, level, score, how in [
        (first, 1, True, "MEDIUM", 0.3, "CONSENSUS"), (second, 1, False, None, None, "WEIGHTED"),
        (second, 2, False, None, None, "ESCALATED"), (fourth, 1, True, "LOW", 0.1, "CONSENSUS"),
    ]:  # fmt: skip
        database.rows(
            "INSERT INTO complexity_agreements (project_id, step_id, iteration, agreed, final_level, final_score, resolution) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)", PROJECT, step, turn, agreed, level, score, how,
        )  # fmt: skip
    database.rows(
        "INSERT INTO step_promotions (project_id, step_id, step_title, new_task_id, reason) "
        "VALUES (%s, gen_random_uuid(), 's', %s, 'r')", PROJECT, TASK,
    )  # fmt: skip

    # MEDIUM 0.3, HIGH 0.8, MEDIUM 0.6, LOW 0.1: mean 0.45, only 0.8 above 0.6; two of four rounds agreed
    assert database.rows("SELECT * FROM complexity_summary(%s)", PROJECT) == [
        (5, 4, 1, 2, 1, pytest.approx(0.45), 0.5, 1, 1, 0.6, 1)
    ]


def test_the_summary_of_nothing(database: Database) -> None:
    """A project without assessments has zeros and unknown means; one that does not exist has no row."""
    project = database.value("INSERT INTO projects (name, description) VALUES ('p', 'd') RETURNING id")

    assert database.rows("SELECT * FROM complexity_summary(%s)", project) == [(0, 0, 0, 0, 0, None, None, 0, 0, 0.7, 0)]
    assert database.rows("SELECT * FROM complexity_summary(gen_random_uuid())") == []

"""May X do Y? A batch is one statement, the revision in the same snapshot as the membership (architecture §5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

# Two joins, each on its own unique index: one join with OR would read them both for every question.
DECIDE = text("""
    SELECT
        coalesce(h.access_revision, 0) AS access_revision,
        coalesce(by_user.id, by_member.id) AS member_id,
        coalesce(by_user.user_id, by_member.user_id) AS user_id,
        coalesce(by_user.role, by_member.role) AS role,
        coalesce(by_user.kind, by_member.kind) AS kind
    FROM unnest(CAST(:workspace_ids AS uuid[]), CAST(:user_ids AS uuid[]), CAST(:member_ids AS uuid[]))
        WITH ORDINALITY AS asked (workspace_id, user_id, member_id, position)
    LEFT JOIN workspace_heads h ON h.workspace_id = asked.workspace_id
    LEFT JOIN members by_user
        ON by_user.workspace_id = asked.workspace_id AND by_user.user_id = asked.user_id AND by_user.state = 'active'
    LEFT JOIN members by_member
        ON by_member.workspace_id = asked.workspace_id AND by_member.id = asked.member_id AND by_member.state = 'active'
    ORDER BY asked.position
""")


@dataclass(frozen=True, slots=True)
class Question:
    """About one person in one workspace, named by exactly one of the two ids."""

    workspace_id: str
    user_id: str | None
    member_id: str | None


async def standings(tx: AsyncConnection, questions: Sequence[Question]) -> Sequence[Row[Any]]:
    """For each question, in their order: the active member, empty if there is none, and the access revision."""
    asked = {
        "workspace_ids": [question.workspace_id for question in questions],
        "user_ids": [question.user_id for question in questions],
        "member_ids": [question.member_id for question in questions],
    }
    return (await tx.execute(DECIDE, asked)).all()

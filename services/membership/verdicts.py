"""May X do Y? A batch is one statement, the revision in the same snapshot as the membership."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guildhall.membership.v1 import access_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership.capabilities import EVERYTHING, allows
from services.membership.group_access import HOLDS

# Two joins, each on its own unique index: one join with OR would read them both for every question.
PEOPLE = """
    FROM unnest(
        CAST(:workspace_ids AS uuid[]), CAST(:user_ids AS uuid[]), CAST(:member_ids AS uuid[]),
        CAST(:group_ids AS uuid[])
    ) WITH ORDINALITY AS asked (workspace_id, user_id, member_id, group_id, position)
    LEFT JOIN workspaces w ON w.id = asked.workspace_id AND w.deleted_at IS NULL
    LEFT JOIN workspace_heads h ON h.workspace_id = w.id
    LEFT JOIN members by_user
        ON by_user.workspace_id = w.id AND by_user.user_id = asked.user_id AND by_user.state <> 'pending'
    LEFT JOIN members by_member
        ON by_member.workspace_id = w.id AND by_member.id = asked.member_id AND by_member.state <> 'pending'
    CROSS JOIN LATERAL (
        SELECT
            coalesce(by_user.id, by_member.id) AS member_id,
            coalesce(by_user.user_id, by_member.user_id) AS user_id,
            coalesce(by_user.role, by_member.role) AS role,
            coalesce(by_user.kind, by_member.kind) AS kind,
            coalesce(by_user.state, by_member.state) AS state
    ) person
"""
DECIDE = text(f"""
    SELECT coalesce(h.access_revision, 0) AS access_revision, w.message_edit_window, person.*, asked.group_id,
        false AS in_group
    {PEOPLE}
    ORDER BY asked.position
""")
# Apart: a batch about workspaces only, as most are, would pay half as much again for the joins that it has no use for.
DECIDE_IN_GROUPS = text(f"""
    SELECT coalesce(h.access_revision, 0) AS access_revision, w.message_edit_window, person.*, asked.group_id,
        g.id IS NOT NULL AS group_exists, held.capabilities, banned.is_banned,
        person.state = 'active' AND person.kind = 'full' AND banned.is_banned IS NULL AND EXISTS (
            SELECT FROM group_members gm
            WHERE gm.workspace_id = w.id AND gm.group_id = g.id AND gm.member_id = person.member_id
        ) AS in_group
    {PEOPLE}
    LEFT JOIN groups g ON g.workspace_id = w.id AND g.id = asked.group_id
    LEFT JOIN LATERAL (
        SELECT array_agg(DISTINCT capability) AS capabilities
        FROM group_members gm
        JOIN scheme_roles r ON r.scheme_id = gm.scheme_id AND r.role = gm.role
        CROSS JOIN unnest(r.capabilities) AS capability
        WHERE g.id IS NOT NULL AND gm.workspace_id = w.id AND gm.member_id = person.member_id
            AND gm.group_id = ANY(g.path)
    ) held ON true
    LEFT JOIN LATERAL (
        SELECT true AS is_banned FROM group_bans b
        WHERE g.id IS NOT NULL AND b.workspace_id = w.id AND b.user_id = person.user_id AND b.group_id = ANY(g.path)
            AND {HOLDS}
        LIMIT 1
    ) banned ON true
    ORDER BY asked.position
""")

ALLOWING = frozenset({pb.ACCESS_REASON_ROLE, pb.ACCESS_REASON_WORKSPACE_ADMIN, pb.ACCESS_REASON_GROUP_ROLE})
HIDING = frozenset({pb.ACCESS_REASON_BANNED, pb.ACCESS_REASON_NO_SUCH_GROUP})


@dataclass(frozen=True, slots=True)
class Question:
    """About one person in one workspace, named by exactly one of the two ids, and perhaps in one of its groups."""

    workspace_id: str
    user_id: str | None
    member_id: str | None
    group_id: str | None = None


async def standings(tx: AsyncConnection, questions: Sequence[Question]) -> Sequence[Row[Any]]:
    """For each question, in their order: the member, empty if there is none, where they stand, and the revision.

    A suspended member is there as well: reason_of says what that means.
    """
    asked = {
        "workspace_ids": [question.workspace_id for question in questions],
        "user_ids": [question.user_id for question in questions],
        "member_ids": [question.member_id for question in questions],
        "group_ids": [question.group_id for question in questions],
    }
    statement = DECIDE_IN_GROUPS if any(question.group_id for question in questions) else DECIDE
    return (await tx.execute(statement, asked)).all()


def reason_of(row: Row[Any], capability: str) -> pb.AccessReason.ValueType:
    """The first rule that decides. Allowed are those of ALLOWING."""
    if row.member_id is None:
        return pb.ACCESS_REASON_NOT_A_MEMBER
    if row.state == "suspended":
        return pb.ACCESS_REASON_SUSPENDED
    if row.group_id is not None:
        return _reason_in_group(row, capability)
    return pb.ACCESS_REASON_ROLE if allows(row, capability) else pb.ACCESS_REASON_ROLE_LACKS_CAPABILITY


def _reason_in_group(row: Row[Any], capability: str) -> pb.AccessReason.ValueType:
    if not row.group_exists or row.kind == "guest":
        return pb.ACCESS_REASON_NO_SUCH_GROUP
    if row.is_banned:
        return pb.ACCESS_REASON_BANNED
    if row.role == "admin":
        return pb.ACCESS_REASON_WORKSPACE_ADMIN
    if {capability, EVERYTHING} & set(row.capabilities or ()):
        return pb.ACCESS_REASON_GROUP_ROLE
    return pb.ACCESS_REASON_ROLE if allows(row, capability) else pb.ACCESS_REASON_ROLE_LACKS_CAPABILITY

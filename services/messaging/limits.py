"""How much of everything messaging lets there be. docs/limits.md shows this table; a test compares the two."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: how many, of what. A row of workspace_limits says otherwise for one workspace."""

    most: int
    what: str
    count: str
    """SQL: a subquery of rows to count, for :workspace_id and :scope_id."""
    retry_after_seconds: float = 60


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "channels": Limit(
            10_000,
            "channels of a workspace, archived ones too",
            "conversations WHERE workspace_id = :workspace_id AND kind = 'channel'",
        ),
        "group_conversations": Limit(
            50,
            "conversations of a group, archived ones too",
            "conversations WHERE workspace_id = :workspace_id AND group_id = :scope_id",
        ),
        "direct_conversations_a_day": Limit(
            200,
            "direct conversations that a member opens within 24 h, those with the same people once",
            "conversations WHERE workspace_id = :workspace_id AND kind = 'direct' AND created_by_member_id = :scope_id"
            " AND created_at > statement_timestamp() - interval '24 hours'",
            3600,
        ),
        "participants": Limit(
            50_000,
            "members who take part in a channel",
            "participants WHERE workspace_id = :workspace_id AND conversation_id = :scope_id",
        ),
    }
)
"""Besides these: 9 people in a direct conversation, and in a group's as many as membership lets be in a group."""

TAKE_TURNS = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
# Counted no further than the limit. In a statement after the lock that keeps others from adding.
STATEMENTS = {
    name: text(f"""
        SELECT most, (SELECT count(*) FROM (SELECT FROM {limit.count} LIMIT most) counted) AS present
        FROM (
            SELECT coalesce(max(value), {limit.most}) AS most, CAST(:scope_id AS uuid) AS scope_id
            FROM workspace_limits WHERE workspace_id = :workspace_id AND name = '{name}'
        ) allowed
    """)
    for name, limit in LIMITS.items()
}


async def take_turns(tx: AsyncConnection, name: str, scope_id: str) -> None:
    """Has whoever else adds to the same wait until this transaction ends: here no row stands for all there is."""
    await tx.execute(TAKE_TURNS, {"key": f"{name} {scope_id}"})


async def require(tx: AsyncConnection, name: str, *, workspace_id: str, scope_id: str | None = None) -> None:
    """LimitReached if there is no room for one more. Nobody else adds meanwhile.

    `scope_id` is the group, the conversation or the member, for limits that are of one.
    """
    found = (await tx.execute(STATEMENTS[name], {"workspace_id": workspace_id, "scope_id": scope_id})).one()
    if found.present >= found.most:
        raise LimitReached(name, most=found.most, retry_after_seconds=LIMITS[name].retry_after_seconds)

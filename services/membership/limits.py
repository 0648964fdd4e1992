"""How much of everything a workspace may have. docs/limits.md shows this table; a test compares the two."""

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
        "members": Limit(
            50_000,
            "members of a workspace, guests and pending ones included",
            "members WHERE workspace_id = :workspace_id",
        ),
        "open_invitations": Limit(
            1_000,
            "open invitations of a workspace",
            "invitations WHERE workspace_id = :workspace_id AND accepted_at IS NULL AND revoked_at IS NULL"
            " AND declined_at IS NULL AND statement_timestamp() < expire_at",
        ),
        "invitations_a_day": Limit(
            500,
            "mails of invitations of a workspace, resent ones too, within 24 h",
            "daily_uses WHERE used_at > statement_timestamp() - interval '24 hours' AND subject = sha256(convert_to("
            "'invitations_a_day ' || CAST(CAST(:workspace_id AS uuid) AS text), 'UTF8'))",
            3600,
        ),
        "groups": Limit(100_000, "groups of a workspace", "groups WHERE workspace_id = :workspace_id"),
        "group_members": Limit(
            50_000,
            "members of a group, by roles in itself",
            "group_members WHERE workspace_id = :workspace_id AND group_id = :scope_id",
        ),
        "member_groups": Limit(
            5_000,
            "groups in which one member has a role",
            "group_members WHERE workspace_id = :workspace_id AND member_id = :scope_id",
        ),
        "open_group_invites": Limit(
            100,
            "open invites of a group",
            "group_invites WHERE workspace_id = :workspace_id AND group_id = :scope_id AND revoked_at IS NULL"
            " AND (expire_at IS NULL OR statement_timestamp() < expire_at) AND (max_uses IS NULL OR uses < max_uses)",
        ),
        "role_schemes": Limit(
            50,
            "role schemes of a workspace, without the built-in ones",
            "role_schemes WHERE workspace_id = :workspace_id",
        ),
        "user_groups": Limit(1_000, "user groups of a workspace", "user_groups WHERE workspace_id = :workspace_id"),
        "user_group_members": Limit(
            1_000,
            "members of a user group",
            "user_group_members WHERE workspace_id = :workspace_id AND user_group_id = :scope_id",
        ),
        "bans": Limit(10_000, "bans of a workspace", "workspace_bans WHERE workspace_id = :workspace_id"),
        "group_bans": Limit(
            10_000, "bans of a group", "group_bans WHERE workspace_id = :workspace_id AND group_id = :scope_id"
        ),
    }
)
"""Besides these: a tree of groups is 32 deep at most, an invitation is resent 20 times at most."""

# Counted no further than the limit. The workspace is locked, so that nobody else adds meanwhile.
STATEMENTS = {
    name: text(f"""
        SELECT most, (SELECT count(*) FROM (SELECT FROM {limit.count} LIMIT most + 1) counted) AS present
        FROM (
            SELECT coalesce(max(value), {limit.most}) AS most, CAST(:scope_id AS uuid) AS scope_id
            FROM workspace_limits WHERE workspace_id = :workspace_id AND name = '{name}'
        ) allowed
    """)
    for name, limit in LIMITS.items()
}


async def require(
    tx: AsyncConnection, name: str, *, workspace_id: str, scope_id: str | None = None, adding: int = 1
) -> None:
    """LimitReached if there would be more than the limit. The workspace is locked.

    `scope_id` is the group, user group or member, for limits that are of one.
    """
    left, reached = await room(tx, name, workspace_id=workspace_id, scope_id=scope_id)
    if adding > left:
        raise reached


async def room(
    tx: AsyncConnection, name: str, *, workspace_id: str, scope_id: str | None = None
) -> tuple[int, LimitReached]:
    """How many more there may be, and the refusal for one more than that. The workspace is locked."""
    found = (await tx.execute(STATEMENTS[name], {"workspace_id": workspace_id, "scope_id": scope_id})).one()
    reached = LimitReached(name, most=found.most, retry_after_seconds=LIMITS[name].retry_after_seconds)
    return found.most - found.present, reached

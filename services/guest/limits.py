"""How much a workspace may have of what guest holds. docs/limits.md shows this table; a test compares the two."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached
from services.guest import invites


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
        "open_guest_invites": Limit(
            1_000,
            "open guest links of a workspace",
            f"guest_invites WHERE workspace_id = :workspace_id AND {invites.WORKS}",
        ),
        "guest_invites_a_day": Limit(
            500,
            "guest links of a workspace made within 24 h",
            "guest_invites WHERE workspace_id = :workspace_id"
            " AND created_at > statement_timestamp() - interval '24 hours'",
            3600,
        ),
        "guest_channels": Limit(
            200,
            "channels granted to a guest, past ones included",
            "guest_grants WHERE workspace_id = :workspace_id AND member_id = allowed.scope_id",
        ),
    }
)
"""How many guests there are is limited by membership's `members`."""

# Counted no further than the limit. The workspace's policy, or the guest, is locked: nobody else adds meanwhile.
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


async def require(tx: AsyncConnection, name: str, *, workspace_id: str, scope_id: str | None = None) -> None:
    """LimitReached if one more would be too many. `scope_id` is the guest, for the limit that is of one."""
    found = (await tx.execute(STATEMENTS[name], {"workspace_id": workspace_id, "scope_id": scope_id})).one()
    if found.present >= found.most:
        raise LimitReached(name, most=found.most, retry_after_seconds=LIMITS[name].retry_after_seconds)

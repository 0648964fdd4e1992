"""Access revisions: a number per workspace that tells the other services when a verdict is out of date.

Raised in the transaction of every change that can take sight or rights away. What only adds them leaves it alone.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

RAISED_BY: Mapping[str, str] = {
    "/guildhall.membership.v1.MemberService/RemoveMember": "the person sees nothing newer of the workspace",
}
"""Every RPC that raises it, and what it takes away. The tests go through it row by row."""

RAISE = text("UPDATE workspace_heads SET access_revision = access_revision + 1 WHERE workspace_id = :workspace_id")
READ = text("""
    SELECT coalesce(h.access_revision, 0) AS access_revision
    FROM unnest(CAST(:workspace_ids AS uuid[])) WITH ORDINALITY AS asked (workspace_id, position)
    LEFT JOIN workspace_heads h ON h.workspace_id = asked.workspace_id
    ORDER BY asked.position
""")


async def raise_access_revision(tx: AsyncConnection, workspace_id: str) -> None:
    """Makes every verdict given so far worth asking again. The last lock that a transaction takes."""
    await tx.execute(RAISE, {"workspace_id": workspace_id})


async def access_revisions(tx: AsyncConnection, workspace_ids: Sequence[str]) -> Sequence[int]:
    """One for each id, in their order; 0 for a workspace that does not exist."""
    return (await tx.execute(READ, {"workspace_ids": list(workspace_ids)})).scalars().all()

"""Access revisions: a number per workspace that tells the other services when a verdict is out of date.

Raised in the transaction of every change that can take sight or rights away. What only adds them leaves it alone.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound

CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "member_removed": "RemoveMember: the person sees nothing newer of the workspace",
        "member_left": "LeaveWorkspace: likewise",
        "member_suspended": "SuspendMember: likewise, for as long as it lasts",
        "member_banned": "BanMember, of somebody who is a member",
        "member_role_lowered": "UpdateMemberRole to a lower role, or the admin role lost with UserDisabled",
        "user_deleted": "identity deleted the person: every membership of theirs ends",
        "workspace_deleted": "DeleteWorkspace: nobody sees anything newer of it",
        "group_member_removed": "RemoveGroupMember: rights in the group and below it",
        "group_left": "LeaveGroup: likewise",
        "group_role_changed": "UpdateGroupMemberRole: any change, since capabilities do not follow ranks",
        "group_ownership_transferred": "TransferOwnership: who gave it has a lower role",
        "group_banned": "BanUser: sight and rights in the group and below it",
        "group_moved": "MoveGroup: what was inherited from above, and bans that now hold from there",
        "group_deleted": "DeleteGroup: the rights in it and below it",
        "role_scheme_changed": "UpdateRoleScheme, where roles changed: capabilities in every group of the scheme",
        "guest_removed": "RemoveGuestMember: the guest sees nothing newer of the workspace",
        "guest_promoted": "ChangeMemberKind: what was granted to the guest is decided by role from now on",
        "peer_changed": "BumpAccessRevision: guest or messaging took sight away, and says so",
    }
)
"""Everything that raises an access revision, and what it takes away. The tests go through it row by row."""

RAISE = text("""
    UPDATE workspace_heads SET access_revision = access_revision + 1 WHERE workspace_id = :workspace_id
    RETURNING access_revision
""")
# The inbox's row is what makes it repeatable, and is forgotten with the others after 7 days.
NOTE_BUMP = text("""
    INSERT INTO inbox (event_id, source, kind, applied_at)
    SELECT CAST(:event_id AS uuid), CAST(:source AS text), 'bump_access_revision', statement_timestamp()
    FROM workspace_heads WHERE workspace_id = :workspace_id
    ON CONFLICT (event_id) DO NOTHING
""")
READ = text("""
    SELECT coalesce(h.access_revision, 0) AS access_revision
    FROM unnest(CAST(:workspace_ids AS uuid[])) WITH ORDINALITY AS asked (workspace_id, position)
    LEFT JOIN workspace_heads h ON h.workspace_id = asked.workspace_id
    ORDER BY asked.position
""")


async def raise_access_revision(tx: AsyncConnection, workspace_id: str, cause: str) -> int:
    """Makes every verdict given so far worth asking again; returns the new revision. `cause` is one of CAUSES.

    It locks the head, so nothing but activities.record comes after it.
    """
    assert cause in CAUSES, f"{cause} is not in the table"
    return int((await tx.execute(RAISE, {"workspace_id": workspace_id})).scalar_one())


async def access_revisions(tx: AsyncConnection, workspace_ids: Sequence[str]) -> Sequence[int]:
    """One for each id, in their order; 0 for a workspace that does not exist."""
    return (await tx.execute(READ, {"workspace_ids": list(workspace_ids)})).scalars().all()


async def bump(tx: AsyncConnection, workspace_id: str, *, event_id: str, source: str) -> int:
    """Raises it for a change that another service has committed, once for each event. Errors: NotFound."""
    noted = await tx.execute(NOTE_BUMP, {"workspace_id": workspace_id, "event_id": event_id, "source": source})
    if noted.rowcount:
        return await raise_access_revision(tx, workspace_id, "peer_changed")
    (present,) = await access_revisions(tx, [workspace_id])
    if not present:
        raise NotFound
    return present

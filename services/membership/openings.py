"""What identity is told of secrets by which people join: who holds one that is open may sign up."""

from collections.abc import Iterable
from datetime import UTC, datetime

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import emit

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
# The codes are those for outsiders: identity knows of no others.
OF_MEMBER = text("""
    SELECT token_hash FROM invitations
    WHERE workspace_id = :workspace_id AND inviter_member_id = :member_id
        AND accepted_at IS NULL AND revoked_at IS NULL AND declined_at IS NULL AND statement_timestamp() < expire_at
    UNION ALL
    SELECT code_hash FROM group_invites
    WHERE workspace_id = :workspace_id AND created_by_member_id = :member_id AND workspace_role IS NOT NULL
        AND revoked_at IS NULL AND (expire_at IS NULL OR statement_timestamp() < expire_at)
        AND (max_uses IS NULL OR uses < max_uses)
""")


async def opened(tx: AsyncConnection, token_hash: bytes, expire_at: datetime | None) -> None:
    """A secret can be used from now on, until a time or until it is closed."""
    event = events.InviteOpened(token_hash=token_hash)
    event.expire_time.FromDatetime(expire_at or NEVER)
    await emit(tx, ["identity"], events.Event(invite_opened=event))


async def closed(tx: AsyncConnection, token_hashes: Iterable[bytes]) -> None:
    """Secrets can no longer be used."""
    for token_hash in token_hashes:
        await emit(tx, ["identity"], events.Event(invite_closed=events.InviteClosed(token_hash=token_hash)))


async def close_of_member(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """All that a member can no longer vouch for. For good: identity takes events in any order, so it re-opens none.

    Who has an account already can use them again once the member may invite again; for others they have to be new.
    """
    named = {"workspace_id": workspace_id, "member_id": member_id}
    await closed(tx, (await tx.execute(OF_MEMBER, named)).scalars().all())

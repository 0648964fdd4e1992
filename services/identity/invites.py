"""Open invitations and guest links, as membership and guest tell of them: who holds a secret may sign up.

Events come in any order, so that a closed invite is remembered for a while: an opening that comes late finds it.
"""

from datetime import UTC

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.secret import token_hash

OPEN = text("""
    INSERT INTO open_invites (token_hash, expire_at) VALUES (:token_hash, :expire_at)
    ON CONFLICT (token_hash) DO UPDATE SET expire_at = greatest(open_invites.expire_at, excluded.expire_at)
    WHERE NOT open_invites.closed
""")
CLOSE = text("""
    INSERT INTO open_invites (token_hash, expire_at, closed) VALUES (:token_hash, statement_timestamp(), true)
    ON CONFLICT (token_hash) DO UPDATE
    SET expire_at = least(open_invites.expire_at, statement_timestamp()), closed = true
""")
IS_OPEN = text("""
    SELECT EXISTS (
        SELECT FROM open_invites
        WHERE token_hash = ANY(:token_hashes) AND NOT closed AND statement_timestamp() < expire_at
    )
""")
FORGET = text("""
    DELETE FROM open_invites WHERE token_hash IN (
        SELECT token_hash FROM open_invites WHERE expire_at <= statement_timestamp() - interval '7 days'
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


async def apply_opened(tx: AsyncConnection, payload: events.InviteOpened) -> None:
    """An invite can be used; told again, for as long as the later end says."""
    await tx.execute(OPEN, {"token_hash": payload.token_hash, "expire_at": payload.expire_time.ToDatetime(UTC)})


async def apply_closed(tx: AsyncConnection, payload: events.InviteClosed) -> None:
    """An invite is over, for good."""
    await tx.execute(CLOSE, {"token_hash": payload.token_hash})


async def is_open(tx: AsyncConnection, *, token: str) -> bool:
    """Whether an invite's secret is good at this instant.

    A group's code is good in any case there, and its hash is of small letters; which kind it is, nobody has told.
    """
    return bool(await tx.scalar(IS_OPEN, {"token_hashes": [token_hash(token), token_hash(token.lower())]}))


async def forget(tx: AsyncConnection) -> int:
    """Deletes invites that have been over for a week; says how many."""
    return (await tx.execute(FORGET)).rowcount

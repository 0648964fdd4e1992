"""Guests: where each stands, what they see, until when. Every decision is a function of the row and its clock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, InvalidRequest
from services.guest import invites
from services.guest.errors import ExpiryNotLater, GuestEnded

GRACE = "interval '24 hours'"
LONGEST = "interval '8784 hours'"
"""366 days, in hours: a day of an interval depends on the session's time zone."""

STATE = """CASE
    WHEN guests.ended_at IS NOT NULL THEN 'ENDED'
    WHEN statement_timestamp() < guests.expire_at THEN 'ACTIVE'
    WHEN statement_timestamp() < guests.grace_end_at THEN 'LOCKED'
    ELSE 'ENDED'
END"""
"""Where a guest stands at this instant. The column `state` only follows it; nothing is decided by that."""

HOLDS_FOR = f"""CASE {STATE}
    WHEN 'ACTIVE' THEN guests.expire_at - statement_timestamp()
    WHEN 'LOCKED' THEN guests.grace_end_at - statement_timestamp()
END"""
"""How long the state stays as it is."""

GUEST = f"""guests.member_id, guests.workspace_id, guests.user_id, guests.sponsor_member_id, guests.expire_at,
    guests.grace_end_at, guests.generation, {STATE} AS state,
    ARRAY(
        SELECT conversation_id FROM guest_grants
        WHERE guest_grants.member_id = guests.member_id ORDER BY conversation_id
    ) AS conversation_ids"""
"""What a guest is shown as (wire.guest)."""

ONE = "guests.workspace_id = CAST(:workspace_id AS uuid) AND guests.member_id = CAST(:member_id AS uuid)"

FIND = text(f"SELECT {GUEST} FROM guests WHERE {ONE}")
LOCK = text(f"SELECT 1 FROM guests WHERE {ONE} FOR UPDATE")
WEIGH = text(f"""
    SELECT {STATE} AS state, generation,
        CAST(:expire_at AS timestamptz) > greatest(expire_at, statement_timestamp()) AS is_later,
        CAST(:expire_at AS timestamptz) <= statement_timestamp() + {LONGEST} AS is_near
    FROM guests WHERE {ONE}
""")
EXTEND = text(f"""
    UPDATE guests
    SET expire_at = :expire_at, grace_end_at = CAST(:expire_at AS timestamptz) + {GRACE}, state = 'ACTIVE',
        generation = generation + 1, expiry_job_id = :job_id, updated_at = statement_timestamp()
    WHERE {ONE}
    RETURNING {GUEST}
""")
END = text(f"""
    UPDATE guests
    SET ended_at = statement_timestamp(), state = 'ENDED', generation = generation + 1,
        updated_at = statement_timestamp()
    WHERE {ONE} AND ended_at IS NULL
""")
REVOKE_ALL = text("""
    DELETE FROM guest_grants
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
""")
CHECK = text(f"""
    SELECT {STATE} AS state, {HOLDS_FOR} AS holds_for, guests.expire_at, guests.grace_end_at,
        guest_grants.member_id IS NOT NULL AND {STATE} <> 'ENDED' AS granted
    FROM unnest(
        CAST(:workspace_ids AS uuid[]), CAST(:member_ids AS uuid[]), CAST(:conversation_ids AS uuid[])
    ) WITH ORDINALITY AS question (workspace_id, member_id, conversation_id, number)
    LEFT JOIN guests ON guests.workspace_id = question.workspace_id AND guests.member_id = question.member_id
    LEFT JOIN guest_grants
        ON guest_grants.member_id = guests.member_id AND guest_grants.conversation_id = question.conversation_id
    ORDER BY question.number
""")
CHANNELS = text(f"SELECT {GUEST}, {HOLDS_FOR} AS holds_for FROM guests WHERE {ONE} AND {STATE} <> 'ENDED'")


async def find(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any] | None:
    """A guest, or None. One who has ended is still there to be shown."""
    return (await tx.execute(FIND, {"workspace_id": workspace_id, "member_id": member_id})).one_or_none()


async def lock(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> bool:
    """Has every other change of the guest wait for this transaction; False if there is no such guest."""
    row = {"workspace_id": workspace_id, "member_id": member_id}
    return (await tx.execute(LOCK, row)).one_or_none() is not None


async def extend(tx: AsyncConnection, *, workspace_id: str, member_id: str, expire_at: datetime, etag: str) -> Row[Any]:
    """Moves the expiry of a guest locked before. The new job id and generation make the present expiry job stale.

    Errors: ETAG_MISMATCH, GUEST_ENDED, EXPIRY_NOT_LATER, INVALID_REQUEST (more than 366 days ahead).
    """
    row = {"workspace_id": workspace_id, "member_id": member_id, "expire_at": expire_at}
    # In a statement after the lock, or the clock would be that of before the wait.
    found = (await tx.execute(WEIGH, row)).one()
    if etag and etag != etag_of(found.generation):
        raise EtagMismatch
    if found.state == "ENDED":
        raise GuestEnded
    if not found.is_near:
        raise InvalidRequest(fields=[("expire_time", "must be at most 366 days ahead")])
    if not found.is_later:
        raise ExpiryNotLater
    return (await tx.execute(EXTEND, {**row, "job_id": str(uuid_utils.uuid7())})).one()


async def end(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> bool:
    """Ends a guest whose member is gone, grants included; False if they had ended before, or never were."""
    row = {"workspace_id": workspace_id, "member_id": member_id}
    ended = (await tx.execute(END, row)).rowcount == 1
    await tx.execute(REVOKE_ALL, row)
    return ended


async def member_removed(tx: AsyncConnection, removed: Any) -> None:
    """Applies membership's event: nobody is a guest, or invites guests, without being a member."""
    # Links before guests, as in a redemption: two that wait for each other would both have to begin anew.
    await invites.revoke_of_member(tx, workspace_id=removed.workspace_id, member_id=removed.member_id)
    await end(tx, workspace_id=removed.workspace_id, member_id=removed.member_id)


async def check(tx: AsyncConnection, questions: Sequence[tuple[str, str, str | None]]) -> Sequence[Row[Any]]:
    """Decides (workspace, member, channel or None) in one statement; one row for each, in order."""
    workspace_ids, member_ids, conversation_ids = map(list, zip(*questions, strict=True))
    rows = {"workspace_ids": workspace_ids, "member_ids": member_ids, "conversation_ids": conversation_ids}
    return (await tx.execute(CHECK, rows)).all()


async def find_seeing(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any] | None:
    """A guest who has not ended, with the channels granted; or None."""
    return (await tx.execute(CHANNELS, {"workspace_id": workspace_id, "member_id": member_id})).one_or_none()


def etag_of(generation: int) -> str:
    """The etag of a guest at a generation."""
    return str(generation)

"""Guests: where each stands, what they see, until when. Every decision is a function of the row and its clock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, InvalidRequest
from services.guest import invites, notices
from services.guest.errors import ExpiryNotLater, GuestEnded

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

GRANTED = "(guest_grants.expire_at IS NULL OR statement_timestamp() < guest_grants.expire_at)"
"""Whether a row of guest_grants grants at this instant, to whoever has not ended."""

OF_GUEST = f"FROM guest_grants WHERE guest_grants.member_id = guests.member_id AND {GRANTED}"

GUEST = f"""guests.member_id, guests.workspace_id, guests.user_id, guests.sponsor_member_id, guests.expire_at,
    guests.grace_end_at, guests.generation, {STATE} AS state, guests.created_at, guests.sponsor_gone_at,
    guests.ended_at, guests.end_reason,
    ARRAY(SELECT conversation_id {OF_GUEST} ORDER BY conversation_id) AS conversation_ids,
    ARRAY(SELECT guest_grants.expire_at {OF_GUEST} ORDER BY conversation_id) AS channel_expire_ats,
    ARRAY(SELECT history_start_at {OF_GUEST} ORDER BY conversation_id) AS history_start_ats"""
"""What a guest is shown as (wire.guest)."""

ONE = "guests.workspace_id = CAST(:workspace_id AS uuid) AND guests.member_id = CAST(:member_id AS uuid)"

FIND = text(f"SELECT {GUEST} FROM guests WHERE {ONE}")
LIST = text(f"""
    SELECT {GUEST} FROM guests
    WHERE guests.workspace_id = CAST(:workspace_id AS uuid) AND guests.member_id > CAST(:after AS uuid)
        AND (CAST(:state AS text) IS NULL OR {STATE} = :state)
        AND (
            CAST(:sponsor_member_id AS uuid) IS NULL OR guests.sponsor_member_id = CAST(:sponsor_member_id AS uuid)
        )
        AND (NOT CAST(:orphaned AS boolean) OR guests.sponsor_gone_at IS NOT NULL)
    ORDER BY guests.member_id LIMIT :size
""")
LOCK = text(f"SELECT CAST(sponsor_member_id AS text) AS sponsor_member_id FROM guests WHERE {ONE} FOR UPDATE")
WEIGH = text(f"""
    SELECT {STATE} AS state, generation, end_reason, ended_at IS NOT NULL AS is_over FROM guests WHERE {ONE}
""")
WEIGH_EXPIRY = text(f"""
    SELECT CAST(:expire_at AS timestamptz) > greatest(expire_at, statement_timestamp()) AS is_later,
        CAST(:expire_at AS timestamptz) <= guests.created_at + policy.maximum_stay AS is_within_stay
    FROM guests JOIN guest_policies policy ON policy.workspace_id = guests.workspace_id WHERE {ONE}
""")
EXTEND = text(f"""
    UPDATE guests
    SET expire_at = :expire_at, grace_end_at = CAST(:expire_at AS timestamptz) + (
            SELECT grace FROM guest_policies WHERE workspace_id = CAST(:workspace_id AS uuid)
        ),
        state = 'ACTIVE', generation = generation + 1, expiry_job_id = :job_id, updated_at = statement_timestamp()
    WHERE {ONE}
""")
HAND_OVER = text(f"""
    UPDATE guests SET sponsor_member_id = CAST(:sponsor_member_id AS uuid), sponsor_gone_at = NULL WHERE {ONE}
""")
CHANGED = text(f"UPDATE guests SET generation = generation + 1, updated_at = statement_timestamp() WHERE {ONE}")
END = text(f"""
    UPDATE guests
    SET ended_at = statement_timestamp(), end_reason = :reason, state = 'ENDED', generation = generation + 1,
        updated_at = statement_timestamp()
    WHERE {ONE} AND ended_at IS NULL
""")
REVOKE_ALL = text("""
    DELETE FROM guest_grants
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
""")
ORPHAN = text("""
    UPDATE guests SET sponsor_gone_at = statement_timestamp()
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND sponsor_member_id = CAST(:member_id AS uuid)
        AND sponsor_gone_at IS NULL
""")
CHECK = text(f"""
    SELECT verdict.*, CASE WHEN granted THEN verdict.granted_from END AS history_start_at,
        CASE WHEN granted THEN verdict.granted_until END AS grant_expire_at
    FROM (
        SELECT question.number, {STATE} AS state, guests.expire_at, guests.grace_end_at,
            guests.end_reason,
            CASE WHEN {STATE} <> 'ENDED'
                THEN least({HOLDS_FOR}, CASE WHEN {GRANTED} THEN guest_grants.expire_at - statement_timestamp() END)
            END AS holds_for,
            guest_grants.member_id IS NOT NULL AND {GRANTED} AND {STATE} <> 'ENDED' AS granted,
            guest_grants.history_start_at AS granted_from, guest_grants.expire_at AS granted_until
        FROM unnest(
            CAST(:workspace_ids AS uuid[]), CAST(:member_ids AS uuid[]), CAST(:conversation_ids AS uuid[])
        ) WITH ORDINALITY AS question (workspace_id, member_id, conversation_id, number)
        LEFT JOIN guests ON guests.workspace_id = question.workspace_id AND guests.member_id = question.member_id
        LEFT JOIN guest_grants
            ON guest_grants.member_id = guests.member_id AND guest_grants.conversation_id = question.conversation_id
    ) verdict
    ORDER BY verdict.number
""")
CHANNELS = text(f"""
    SELECT {GUEST},
        least({HOLDS_FOR}, (SELECT min(guest_grants.expire_at) {OF_GUEST}) - statement_timestamp()) AS holds_for
    FROM guests WHERE {ONE} AND {STATE} <> 'ENDED'
""")

FIRST = "00000000-0000-0000-0000-000000000000"


async def find(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any] | None:
    """A guest, or None. One who has ended is still there to be shown."""
    return (await tx.execute(FIND, {"workspace_id": workspace_id, "member_id": member_id})).one_or_none()


async def get(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any]:
    """A guest who was locked before."""
    return (await tx.execute(FIND, {"workspace_id": workspace_id, "member_id": member_id})).one()


async def list_page(
    tx: AsyncConnection,
    *,
    workspace_id: str,
    state: str | None,
    sponsor_member_id: str | None,
    orphaned: bool,
    after: str | None,
    size: int,
) -> Sequence[Row[Any]]:
    """Guests by member id, after one; those who have ended too."""
    page = {"workspace_id": workspace_id, "after": after or FIRST, "size": size}
    filters = {"state": state, "sponsor_member_id": sponsor_member_id, "orphaned": orphaned}
    return (await tx.execute(LIST, {**page, **filters})).all()


async def lock(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any] | None:
    """Has every other change of the guest wait for this transaction; who the sponsor is, or None for no such guest."""
    row = {"workspace_id": workspace_id, "member_id": member_id}
    return (await tx.execute(LOCK, row)).one_or_none()


async def weigh(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any]:
    """Where a guest locked before stands now: in a statement of its own, as the lock's clock is of before the wait."""
    return (await tx.execute(WEIGH, {"workspace_id": workspace_id, "member_id": member_id})).one()


async def require_unended(tx: AsyncConnection, *, workspace_id: str, member_id: str, etag: str) -> Row[Any]:
    """A guest locked before. Errors: ETAG_MISMATCH; GUEST_ENDED (removed, promoted, or past their grace)."""
    found = await weigh(tx, workspace_id=workspace_id, member_id=member_id)
    if etag and etag != etag_of(found.generation):
        raise EtagMismatch
    if found.state == "ENDED":
        raise GuestEnded
    return found


async def extend(tx: AsyncConnection, *, workspace_id: str, member_id: str, expire_at: datetime, etag: str) -> Row[Any]:
    """Moves the expiry of a guest locked before, the policy being held. The new job id and generation make the present
    expiry job stale, and the notices are planned anew.

    Errors: ETAG_MISMATCH, GUEST_ENDED, EXPIRY_NOT_LATER, INVALID_REQUEST (longer than the maximum stay).
    """
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await require_unended(tx, **guest, etag=etag)
    found = (await tx.execute(WEIGH_EXPIRY, {**guest, "expire_at": expire_at})).one()
    if not found.is_within_stay:
        raise InvalidRequest(fields=[("expire_time", "must be within the policy's maximum stay")])
    if not found.is_later:
        raise ExpiryNotLater
    await tx.execute(EXTEND, {**guest, "expire_at": expire_at, "job_id": str(uuid_utils.uuid7())})
    await notices.plan(tx, [member_id])
    return await get(tx, **guest)


async def hand_over(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, sponsor_member_id: str, etag: str
) -> Row[Any]:
    """Makes somebody else the sponsor of a guest locked before. Errors: ETAG_MISMATCH, GUEST_ENDED."""
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await require_unended(tx, **guest, etag=etag)
    await tx.execute(HAND_OVER, {**guest, "sponsor_member_id": sponsor_member_id})
    await tx.execute(CHANGED, guest)
    return await get(tx, **guest)


async def end(tx: AsyncConnection, *, workspace_id: str, member_id: str, reason: str) -> bool:
    """Ends a guest, grants included; False if something else than their time had ended them before, or they never were.

    `reason` is removed or promoted.
    """
    row = {"workspace_id": workspace_id, "member_id": member_id}
    ended = (await tx.execute(END, {**row, "reason": reason})).rowcount == 1
    await tx.execute(REVOKE_ALL, row)
    return ended


async def member_removed(tx: AsyncConnection, removed: events.MemberRemoved) -> None:
    """Applies membership's event: nobody is a guest, invites guests or answers for any without being a member."""
    member = {"workspace_id": removed.workspace_id, "member_id": removed.member_id}
    # Links before guests, as in a redemption: two that wait for each other would both have to begin anew.
    await invites.revoke_of_member(tx, **member)
    if await end(tx, **member, reason="removed"):
        await notices.tell_removed(tx, **member)
    await tx.execute(ORPHAN, member)


async def member_disabled(tx: AsyncConnection, disabled: events.MemberDisabled) -> None:
    """Applies membership's event: nobody signs up by the links of somebody who cannot sign in themselves."""
    await invites.close_of_member(tx, workspace_id=disabled.workspace_id, member_id=disabled.member_id)


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

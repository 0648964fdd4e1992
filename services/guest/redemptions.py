"""Redemptions: one person becoming a guest, over two services.

membership first adds a pending member, who sees nothing, under the id of a redemption. Only the transaction that
moves that redemption from STARTED to COMMITTED makes the guest; only one that moves it to ABANDONED has the pending
member taken away. So neither can happen after the other, whoever dies in between.
"""

from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.idempotency import Repeatable, forget
from services.chassis.outbox import emit
from services.guest import guests, invites, notices, policies, sight
from services.guest.errors import GuestInviteInvalid

LIVE = text(f"""
    SELECT {guests.GUEST} FROM guests
    WHERE workspace_id = :workspace_id AND user_id = :user_id AND {guests.STATE} <> 'ENDED'
""")
BEGIN = text("""
    INSERT INTO redemptions (id, invite_id, workspace_id, user_id)
    SELECT CAST(:id AS uuid), id, workspace_id, CAST(:user_id AS uuid) FROM guest_invites
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND id = CAST(:invite_id AS uuid) FOR KEY SHARE
    ON CONFLICT (workspace_id, user_id) WHERE state = 'STARTED'
    DO UPDATE SET invite_id = excluded.invite_id, started_at = statement_timestamp()
    RETURNING id
""")
COMMIT = text("UPDATE redemptions SET state = 'COMMITTED' WHERE id = :id AND state = 'STARTED'")
ABANDON = text("""
    UPDATE redemptions SET state = 'ABANDONED' WHERE id = :id AND state = 'STARTED' RETURNING id, workspace_id
""")
ABANDON_OF_PERSON = text("""
    UPDATE redemptions SET state = 'ABANDONED'
    WHERE workspace_id = :workspace_id AND user_id = :user_id AND state = 'STARTED' RETURNING id, workspace_id
""")
ABANDON_STALE = text("""
    UPDATE redemptions SET state = 'ABANDONED'
    WHERE id IN (
        SELECT id FROM redemptions
        WHERE state = 'STARTED' AND started_at <= statement_timestamp() - interval '60 seconds'
        ORDER BY started_at LIMIT 500 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, workspace_id
""")
# No call or event asks for a redemption that was decided: what counts then is the guest.
FORGET_DECIDED = text("""
    DELETE FROM redemptions WHERE id IN (
        SELECT id FROM redemptions
        WHERE state <> 'STARTED' AND started_at <= statement_timestamp() - interval '1 hour'
        ORDER BY started_at LIMIT 1000
    )
""")
END_OTHERS = text("""
    UPDATE guests
    SET ended_at = statement_timestamp(), end_reason = 'removed', state = 'ENDED', generation = generation + 1,
        updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND user_id = :user_id AND member_id <> :member_id AND ended_at IS NULL
""")
# The time in the link was within the maximum stay when it was made; the policy may be stricter by now. Who begins anew
# has a whole stay before them.
ADMIT = text("""
    INSERT INTO guests
        (member_id, workspace_id, user_id, invite_id, sponsor_member_id, expire_at, grace_end_at, expiry_job_id,
        unconfirmed)
    SELECT CAST(:member_id AS uuid), invite.workspace_id, CAST(:user_id AS uuid), invite.id,
        invite.created_by_member_id, statement_timestamp() + least(invite.guest_ttl, policy.maximum_stay),
        statement_timestamp() + least(invite.guest_ttl, policy.maximum_stay) + policy.grace, CAST(:job_id AS uuid),
        true
    FROM guest_invites invite JOIN guest_policies policy ON policy.workspace_id = invite.workspace_id
    WHERE invite.id = :invite_id
    ON CONFLICT (member_id) DO UPDATE
    SET invite_id = excluded.invite_id, sponsor_member_id = excluded.sponsor_member_id, sponsor_gone_at = NULL,
        expire_at = excluded.expire_at, grace_end_at = excluded.grace_end_at, state = 'ACTIVE',
        expiry_job_id = excluded.expiry_job_id, unconfirmed = true, generation = guests.generation + 1,
        created_at = statement_timestamp(), updated_at = statement_timestamp()
    WHERE guests.ended_at IS NULL
    RETURNING generation > 1 AS is_anew
""")
GRANT = text("""
    INSERT INTO guest_grants (member_id, conversation_id, workspace_id)
    SELECT CAST(:member_id AS uuid), conversation_id, CAST(:workspace_id AS uuid)
    FROM guest_invite_channels WHERE invite_id = :invite_id
""")

CONFIRMED = text(f"UPDATE guests SET unconfirmed = false WHERE {guests.ONE} AND unconfirmed")


class Superseded(Exception):
    """Another call decided the redemption, or the member is gone: to be begun again from what is there now."""


async def find_live(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> Row[Any] | None:
    """The person's guest in a workspace, unless they have ended."""
    return (await tx.execute(LIVE, {"workspace_id": workspace_id, "user_id": user_id})).one_or_none()


async def get_live(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> Row[Any]:
    """The person's guest in a workspace. Errors: Superseded, if they have just ended."""
    found = await find_live(tx, workspace_id=workspace_id, user_id=user_id)
    if found is None:
        raise Superseded
    return found


async def begin(tx: AsyncConnection, *, invite_id: str, workspace_id: str, user_id: str) -> str:
    """The id of a redemption that has started; the one at hand, if the person has one.

    Errors: GUEST_INVITE_INVALID, if the link was purged meanwhile.
    """
    row = {"id": str(uuid_utils.uuid7()), "invite_id": invite_id, "workspace_id": workspace_id, "user_id": user_id}
    redemption_id = await tx.scalar(BEGIN, row)
    if redemption_id is None:
        raise GuestInviteInvalid
    return str(redemption_id)


async def decide(
    tx: AsyncConnection, *, redemption_id: str, invite_id: str, workspace_id: str, user_id: str, member_id: str
) -> Row[Any]:
    """Makes the guest, with uses, grants and the event, or returns the one that is there and spends nothing.

    Somebody whose grace had ended starts anew, with this link's channels. Errors: GUEST_INVITE_INVALID; Superseded.
    """
    person = {"workspace_id": workspace_id, "user_id": user_id}
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await policies.hold(tx, workspace_id)
    if (await tx.execute(COMMIT, {"id": redemption_id})).rowcount == 0:
        raise Superseded
    found = await find_live(tx, **person)
    if found is not None and str(found.member_id) == member_id:
        return found
    if not await invites.spend(tx, invite_id=invite_id):
        raise GuestInviteInvalid
    # membership names the person's present stay; what is left of an earlier one waits for its event.
    await tx.execute(END_OTHERS, {**person, "member_id": member_id})
    row = {"member_id": member_id, "user_id": user_id, "invite_id": invite_id, "job_id": str(uuid_utils.uuid7())}
    admitted = (await tx.execute(ADMIT, row)).one_or_none()
    if admitted is None:
        raise Superseded
    if admitted.is_anew:
        await sight.take(tx, workspace_id, "guest_replaced")
    await tx.execute(guests.REVOKE_ALL, guest)
    await tx.execute(GRANT, {**guest, "invite_id": invite_id})
    await notices.plan(tx, [member_id])
    await emit(tx, ["membership"], events.Event(guest_redeemed=events.GuestRedeemed(**guest)))
    return (await tx.execute(guests.FIND, guest)).one()


async def abandon(tx: AsyncConnection, *, redemption_id: str) -> None:
    """Gives a redemption up, unless it was decided; its pending member is taken away."""
    for row in (await tx.execute(ABANDON, {"id": redemption_id})).all():
        await _tell_abandoned(tx, row)


async def abandon_of_person(tx: AsyncConnection, *, workspace_id: str, user_id: str) -> None:
    """Gives up what an earlier call of somebody's, turned away half-way, left behind; one under way begins anew."""
    for row in (await tx.execute(ABANDON_OF_PERSON, {"workspace_id": workspace_id, "user_id": user_id})).all():
        await _tell_abandoned(tx, row)


async def abandon_stale(tx: AsyncConnection) -> int:
    """Gives up what was started a minute ago: no call lasts that long. Returns how many there were, at most 500."""
    rows = (await tx.execute(ABANDON_STALE)).all()
    for row in rows:
        await _tell_abandoned(tx, row)
    return len(rows)


async def forget_decided(tx: AsyncConnection) -> bool:
    """Forgets redemptions that were decided an hour ago, a thousand at most; True if there may be more."""
    return (await tx.execute(FORGET_DECIDED)).rowcount == 1000


async def confirmed(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Notes that membership has let a guest in: what ends them from now on undoes no redemption."""
    await tx.execute(CONFIRMED, {"workspace_id": workspace_id, "member_id": member_id})


async def apply_confirmed(tx: AsyncConnection, payload: events.GuestConfirmed) -> None:
    """The same, where the call did not live to hear it."""
    await confirmed(tx, workspace_id=payload.workspace_id, member_id=payload.member_id)


async def undo(tx: AsyncConnection, *, workspace_id: str, member_id: str, request: Repeatable) -> bool:
    """Ends a guest whom membership no longer has as a member; False if that was known already.

    The answer stored under this call's key goes with the guest, or a repetition would get somebody who never was; and
    the link has its use back, unless the guest was let in before they were removed.
    """
    guest = {"workspace_id": workspace_id, "member_id": member_id}
    await invites.lock_of_guest(tx, **guest)
    has_ended = await guests.end(tx, **guest, reason="removed")
    # Who was purged with the workspace is no longer there to have ended.
    if not has_ended and await guests.find(tx, **guest) is not None:
        return False
    if has_ended:
        await invites.give_back(tx, **guest)
    await forget(tx, request)
    return True


async def _tell_abandoned(tx: AsyncConnection, row: Row[Any]) -> None:
    abandoned = events.GuestRedemptionAbandoned(workspace_id=str(row.workspace_id), redemption_id=str(row.id))
    await emit(tx, ["membership"], events.Event(guest_redemption_abandoned=abandoned))

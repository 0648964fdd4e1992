"""Guests' memberships: pending while guest decides on the redemption, in force once it is confirmed.

They hold the role `member`, which says nothing while they are guests: capabilities.OF_GUESTS holds for every guest.
What guest tells may come late: a workspace that was deleted meanwhile, or a member who is gone, is left alone.
"""

from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, NotFound
from services.chassis.outbox import emit
from services.membership import activities, handles, joining, members, removals, revisions, workspaces
from services.membership.activities import Activity, Origin
from services.membership.revisions import raise_access_revision

STAY_OF = text(f"""
    SELECT {members.COLUMNS} FROM members m WHERE m.workspace_id = :workspace_id AND m.user_id = :user_id
""")
# A new redemption takes a pending member over: the old one, once abandoned, finds nothing to take away.
ADD = text(f"""
    INSERT INTO members AS m (id, workspace_id, user_id, role, kind, state, redemption_id)
    VALUES (:id, :workspace_id, :user_id, 'member', 'guest', 'pending', :redemption_id)
    ON CONFLICT (workspace_id, user_id) DO UPDATE SET redemption_id = excluded.redemption_id
    WHERE m.state = 'pending'
    RETURNING {members.COLUMNS}
""")
# Of a guest whose time was over, who is a member still: their next confirmation is that of a new beginning.
BEGIN_ANEW = text("""
    UPDATE members SET redemption_id = :redemption_id
    WHERE workspace_id = :workspace_id AND user_id = :user_id AND kind = 'guest' AND state = 'active'
""")
CONFIRM = text(f"""
    UPDATE members m SET state = 'active', joined_at = statement_timestamp(), redemption_id = NULL
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND m.state = 'pending'
    RETURNING {members.COLUMNS}
""")
# Raised once for each redemption: whoever was told before that the stay is over finds that it has changed.
CONFIRM_ANEW = text("""
    UPDATE members SET redemption_id = NULL, version = version + 1, updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :member_id AND kind = 'guest' AND state = 'active'
        AND redemption_id IS NOT NULL
""")
ABANDON = text("""
    DELETE FROM members
    WHERE workspace_id = :workspace_id AND redemption_id = :redemption_id AND state = 'pending'
""")
REMOVE_PENDING = text("""
    DELETE FROM members
    WHERE workspace_id = :workspace_id AND id = :member_id AND kind = 'guest' AND state = 'pending'
""")
PROMOTE = text(f"""
    UPDATE members m SET kind = 'full', role = :role, redemption_id = NULL, version = m.version + 1,
        updated_at = statement_timestamp()
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND m.kind = 'guest' AND m.state = 'active'
    RETURNING {members.COLUMNS}
""")


async def add(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, redemption_id: str, normalized_email: str
) -> Row[Any]:
    """A pending member, or the membership that the person has already.

    Errors: NotFound, Banned, LimitReached; InvalidRequest for another person's redemption.
    """
    await workspaces.lock(tx, workspace_id)
    person = {"workspace_id": workspace_id, "user_id": user_id}
    stay = (await tx.execute(STAY_OF, person)).one_or_none()
    if stay is not None and stay.state == "suspended":
        raise NotFound
    row = {**person, "id": str(uuid_utils.uuid7()), "redemption_id": redemption_id}
    try:
        if stay is not None and stay.state == "active":
            await tx.execute(BEGIN_ANEW, row)
            return stay
        may_join = joining.require_may_join if stay is None else joining.require_not_banned
        await may_join(tx, **person, normalized_email=normalized_email)
        return (await tx.execute(ADD, row)).one()
    except exc.IntegrityError as error:
        raise InvalidRequest(fields=[("redemption_id", "is another person's redemption")]) from error


async def confirm(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> Row[Any]:
    """The member, in force from now on or already. Errors: NotFound if the pending member was taken away."""
    await workspaces.lock(tx, workspace_id)
    named = {"workspace_id": workspace_id, "member_id": member_id}
    confirmed = (await tx.execute(CONFIRM, named)).one_or_none()
    if confirmed is None:
        await tx.execute(CONFIRM_ANEW, named)
        present = (await tx.execute(members.ACTIVE_BY_ID, named)).one_or_none()
        if present is None:
            raise NotFound
        return present
    person = str(confirmed.user_id)
    joined = Activity("member.joined", "member", target_user_id=person, metadata={"way": "guest"})
    # Their own doing, though guest is who says so: an event, where the call was lost.
    await activities.record(tx, workspace_id, [joined], origin=Origin(person))
    return confirmed


async def remove(tx: AsyncConnection, *, workspace_id: str, member_id: str, origin: Origin) -> int:
    """Ends a guest's membership; who is gone or a full member is left alone. Returns the access revision.

    A pending one goes as well, silently: guest had made them a guest, and has removed them before they were confirmed.
    """
    try:
        await workspaces.lock(tx, workspace_id)
    except NotFound:
        return await _revision(tx, workspace_id)
    await tx.execute(REMOVE_PENDING, {"workspace_id": workspace_id, "member_id": member_id})
    guest = (await tx.execute(members.BY_ID, {"workspace_id": workspace_id, "member_id": member_id})).one_or_none()
    if guest is None or guest.kind != "guest":
        return await _revision(tx, workspace_id)
    followed = await removals.end_stay(tx, guest)
    removed = Activity("member.removed", "member", target_user_id=str(guest.user_id))
    await activities.record(tx, workspace_id, [removed, *followed], origin=origin)
    return await raise_access_revision(tx, workspace_id, "guest_removed")


async def promote(
    tx: AsyncConnection, *, workspace_id: str, member_id: str, role: str, origin: Origin
) -> tuple[Row[Any], int]:
    """Makes a guest a full member, with the handle they had last; returns the access revision too.

    Who is a full member already stays as they are. Errors: NotFound.
    """
    await workspaces.lock(tx, workspace_id)
    named = {"workspace_id": workspace_id, "member_id": member_id}
    promoted = (await tx.execute(PROMOTE, {**named, "role": role})).one_or_none()
    if promoted is not None:
        await handles.give_back(tx, promoted)
    present = (await tx.execute(members.ACTIVE_BY_ID, named)).one_or_none()
    if present is None:
        raise NotFound
    if promoted is None:
        return present, await _revision(tx, workspace_id)
    told = {"before": {"kind": "guest"}, "after": {"kind": "full", "role": role}}
    done = Activity("member.promoted", "member", target_user_id=str(present.user_id), metadata=told)
    await activities.record(tx, workspace_id, [done], origin=origin)
    return present, await raise_access_revision(tx, workspace_id, "guest_promoted")


async def _revision(tx: AsyncConnection, workspace_id: str) -> int:
    return (await revisions.access_revisions(tx, [workspace_id]))[0]


async def apply_redeemed(tx: AsyncConnection, payload: events.GuestRedeemed) -> None:
    """The net below ConfirmGuestMember. A member who is gone by now was removed after the redemption.

    guest is told, which may not have heard the answer of the call: else it would take whoever is removed one day for
    somebody who was never let in, and give their link its use back.
    """
    named = {"workspace_id": payload.workspace_id, "member_id": payload.member_id}
    try:
        await confirm(tx, **named)
    except NotFound:
        return
    await emit(tx, ["guest"], events.Event(guest_confirmed=events.GuestConfirmed(**named)))


async def apply_abandoned(tx: AsyncConnection, payload: events.GuestRedemptionAbandoned) -> None:
    """Takes the pending member away; whoever is in force by another way stays."""
    try:
        await workspaces.lock(tx, payload.workspace_id)
    except NotFound:
        return
    named = {"workspace_id": payload.workspace_id, "redemption_id": payload.redemption_id}
    await tx.execute(ABANDON, named)


async def apply_removed(tx: AsyncConnection, payload: events.GuestRemoved) -> None:
    """The net below RemoveGuestMember."""
    origin = Origin(payload.actor_user_id)
    await remove(tx, workspace_id=payload.workspace_id, member_id=payload.member_id, origin=origin)


async def apply_promoted(tx: AsyncConnection, payload: events.GuestPromoted) -> None:
    """The net below ChangeMemberKind. Who is gone by now was removed after the promotion."""
    origin = Origin(payload.actor_user_id)
    try:
        await promote(
            tx, workspace_id=payload.workspace_id, member_id=payload.member_id, role=payload.role, origin=origin
        )
    except NotFound:
        return

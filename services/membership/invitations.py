"""Invitations by e-mail: for one address, 7 days, one use, and no longer than the sender may invite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached, NotFound, PermissionDenied
from services.chassis.outbox import enqueue
from services.chassis.secret import SecretKey, token_hash
from services.membership import activities, daily_limits, joining, limits, members, openings, workspaces
from services.membership.activities import Activity
from services.membership.capabilities import INVITE_MEMBERS, RANKS, allows, rank
from services.membership.daily_limits import DailyLimits
from services.membership.errors import Banned, InvitationEnded, InvitationForAnother, InvitationInvalid
from services.membership.holders import ABLE
from services.membership.invitation_reads import COLUMNS

MAIL = "mail.invitation"
MOST_RESENDS = 20

UNENDED = "accepted_at IS NULL AND revoked_at IS NULL AND declined_at IS NULL"
REVOKE = text(f"""
    UPDATE invitations SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :id AND {UNENDED}
    RETURNING {COLUMNS}
""")
REVOKE_FOR_ADDRESSES = text(f"""
    UPDATE invitations SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND normalized_email = ANY(CAST(:addresses AS text[])) AND {UNENDED}
    RETURNING id, token_hash
""")
REVOKE_OF_INVITER = text(f"""
    UPDATE invitations SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND inviter_member_id = :member_id AND {UNENDED}
    RETURNING id, token_hash
""")
GET = text(f"SELECT {COLUMNS} FROM invitations WHERE workspace_id = :workspace_id AND id = :id")
FIND_TO_RESEND = text(f"""
    SELECT {COLUMNS},
        EXISTS (
            SELECT FROM workspace_bans b
            WHERE b.workspace_id = i.workspace_id AND b.normalized_email = i.normalized_email
                AND (b.expire_at IS NULL OR statement_timestamp() < b.expire_at)
        ) AS is_banned
    FROM invitations i WHERE workspace_id = :workspace_id AND id = :id
""")
# Who sends it again answers for it from then on: it would be of no use if it still hung on a sender who may not invite.
RESEND = text(f"""
    UPDATE invitations
    SET rotation = rotation + 1, token_hash = :token_hash, inviter_member_id = :inviter_member_id,
        expire_at = statement_timestamp() + interval '7 days', sent_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :id AND {UNENDED}
    RETURNING {COLUMNS}
""")
# With what its use depends on: a sender who is disabled vouches for nobody. Read without a lock to find the workspace,
# and again once that is locked: the second statement's snapshot and clock are of then, and a token that was replaced
# meanwhile finds nothing.
FIND_BY_TOKEN = text(f"""
    SELECT i.id, i.workspace_id, i.normalized_email, i.role AS invited_role, i.inviter_member_id, i.expire_at,
        i.declined_at IS NOT NULL AS is_declined, w.name AS workspace_name,
        {UNENDED} AND statement_timestamp() < i.expire_at AND m.state IS NOT NULL AS is_open, m.role, m.kind
    FROM invitations i JOIN workspaces w ON w.id = i.workspace_id AND w.deleted_at IS NULL
    LEFT JOIN members m ON m.workspace_id = i.workspace_id AND m.id = i.inviter_member_id AND {ABLE}
    WHERE i.token_hash = :token_hash
""")
FIND_STAY = text("""
    SELECT m.id, m.workspace_id, m.kind, m.version FROM invitations i
    JOIN members m ON m.workspace_id = i.workspace_id AND m.user_id = :user_id AND m.state = 'active'
    WHERE i.token_hash = :token_hash
""")
CONSUME = text(f"""
    UPDATE invitations SET accepted_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :id AND {UNENDED} AND statement_timestamp() < expire_at
    RETURNING token_hash
""")
DECLINE = text(f"""
    UPDATE invitations SET declined_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :id AND {UNENDED}
    RETURNING token_hash
""")
FIND_FOR_MAIL = text(f"""
    SELECT i.id, i.email, i.expire_at, i.rotation, w.name AS workspace_name
    FROM invitations i JOIN workspaces w ON w.id = i.workspace_id AND w.deleted_at IS NULL
    WHERE i.id = :id AND {UNENDED} AND statement_timestamp() < i.expire_at
""")
# Those that somebody is just changing come next time: waiting for them without their workspace's lock could deadlock.
FORGET_ADDRESSES = text("""
    UPDATE invitations
    SET email = NULL, normalized_email = NULL,
        revoked_at = CASE WHEN num_nonnulls(accepted_at, declined_at) = 0
            THEN coalesce(revoked_at, statement_timestamp()) END
    WHERE id IN (
        SELECT id FROM invitations
        WHERE email IS NOT NULL AND expire_at <= statement_timestamp() - interval '30 days'
        ORDER BY expire_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


@dataclass(frozen=True, slots=True)
class Presenter:
    """Who presents a token. An unverified address proves nothing, so it is not here."""

    user_id: str
    verified_email: str | None
    """Normalised."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An invitation that its presenter may use, or has no need of."""

    invitation: Row[Any]
    member: Row[Any] | None
    """The presenter, where they are a member already."""
    ended: Row[Any] | None = None
    """Their stay as a guest, where its time is over."""


def token_of(secret: SecretKey, invitation_id: str, rotation: int = 0) -> str:
    """The token of an invitation: derived, so that the mail can be written without it being stored.

    `rotation` is how often it was resent.
    """
    return secret.token("ghi", invitation_id, *([str(rotation)] if rotation else []))


async def find_stay(tx: AsyncConnection, presenter: Presenter, *, token: str) -> Row[Any] | None:
    """The presenter's membership, if it is in force, of the workspace that a token is for."""
    named = {"user_id": presenter.user_id, "token_hash": token_hash(token)}
    return (await tx.execute(FIND_STAY, named)).one_or_none()


async def access_offer(tx: AsyncConnection, presenter: Presenter, *, token: str, over: Row[Any] | None = None) -> Offer:
    """What a token offers to its presenter, with the workspace locked; nothing is used up.

    `over` is their stay as a guest, if its time was over: unless it has changed, it is no reason against another.
    Errors: InvitationInvalid; InvitationForAnother, but only for an invitation that somebody else could use.
    """
    found = await _find_locked(tx, presenter, token)
    if _is_for(found, presenter):
        member = await members.find_active(tx, workspace_id=str(found.workspace_id), user_id=presenter.user_id)
        if member is not None and not joining.is_unchanged(over, member):
            return Offer(found, member)
        _require_usable(found)
        return Offer(found, None, member)
    _require_usable(found)
    raise InvitationForAnother


async def accept(
    tx: AsyncConnection, offer: Offer, presenter: Presenter, *, ended: Sequence[Activity] = ()
) -> Row[Any]:
    """Makes the presenter a member and uses the invitation up. Who is one already stays as they are, and it is not.

    `ended` is what the log says of the end of an earlier stay.
    Errors: InvitationInvalid, Banned, MemberSuspended, LimitReached.
    """
    if offer.member is not None:
        return offer.member
    invitation = offer.invitation
    workspace_id, invitation_id = str(invitation.workspace_id), str(invitation.id)
    await joining.require_may_join(
        tx, workspace_id=workspace_id, user_id=presenter.user_id, normalized_email=presenter.verified_email
    )
    joined = await members.join(
        tx,
        workspace_id=workspace_id,
        user_id=presenter.user_id,
        role=invitation.invited_role,
        invitation_id=invitation_id,
        inviter_member_id=str(invitation.inviter_member_id),
    )
    assert joined is not None, "with the workspace locked, nobody else made them a member"
    used = (await tx.execute(CONSUME, {"workspace_id": workspace_id, "id": invitation_id})).one_or_none()
    if used is None:
        raise InvitationInvalid
    await openings.closed(tx, [used.token_hash])
    way = {"way": "invitation", "after": {"role": invitation.invited_role}}
    came = Activity("member.joined", "member", target_user_id=presenter.user_id, metadata=way)
    accepted = Activity("invitation.accepted", "invitation", invitation_id)
    await activities.record(tx, workspace_id, [*ended, came, accepted])
    return joined


async def access_decline(tx: AsyncConnection, presenter: Presenter, *, token: str) -> Row[Any]:
    """The presenter's own invitation, open or declined, with the workspace locked.

    Errors: as access_offer's.
    """
    found = await _find_locked(tx, presenter, token)
    if not (_is_for(found, presenter) and found.is_declined):
        _require_usable(found)
    if not _is_for(found, presenter):
        raise InvitationForAnother
    return found


async def decline(tx: AsyncConnection, invitation: Row[Any]) -> None:
    """Ends an invitation by its addressee. Repeatable."""
    workspace_id, invitation_id = str(invitation.workspace_id), str(invitation.id)
    ended = (await tx.execute(DECLINE, {"workspace_id": workspace_id, "id": invitation_id})).one_or_none()
    if ended is not None:
        await openings.closed(tx, [ended.token_hash])
        await activities.record(tx, workspace_id, [Activity("invitation.declined", "invitation", invitation_id)])


async def preview(tx: AsyncConnection, *, token: str) -> Row[Any]:
    """What a token leads to, as long as somebody could use it. Errors: InvitationInvalid."""
    found = await _find_by_token(tx, token)
    _require_usable(found)
    return found


async def _find_by_token(tx: AsyncConnection, token: str) -> Row[Any]:
    found = (await tx.execute(FIND_BY_TOKEN, {"token_hash": token_hash(token)})).one_or_none()
    if found is None:
        raise InvitationInvalid
    return found


async def _find_locked(tx: AsyncConnection, presenter: Presenter, token: str) -> Row[Any]:
    """An invitation, with the workspace locked if it is the presenter's own: others must not hold the workspace up."""
    found = await _find_by_token(tx, token)
    if not _is_for(found, presenter):
        return found
    await workspaces.lock(tx, str(found.workspace_id))
    return await _find_by_token(tx, token)


def _is_for(invitation: Row[Any], presenter: Presenter) -> bool:
    # A forgotten address is nobody's, least of all theirs who have none.
    return presenter.verified_email is not None and presenter.verified_email == invitation.normalized_email


def _require_usable(invitation: Row[Any]) -> None:
    """InvitationInvalid, whatever the reason, if nobody could use it, its sender's right included."""
    if (
        not invitation.is_open
        or not allows(invitation, INVITE_MEMBERS)
        or RANKS[invitation.invited_role] > rank(invitation)
    ):
        raise InvitationInvalid


async def resend(
    tx: AsyncConnection, secret: SecretKey, sender: Row[Any], *, invitation_id: str, daily: DailyLimits
) -> Row[Any]:
    """Gives an invitation a new token and 7 new days, and has the mail written. The workspace is locked.

    Errors: NotFound, PermissionDenied for a role above the sender's own, Banned, InvitationEnded, LimitReached.
    """
    named = {"workspace_id": str(sender.workspace_id), "id": invitation_id}
    old = (await tx.execute(FIND_TO_RESEND, named)).one_or_none()
    if old is None:
        raise NotFound
    if old.state not in ("open", "expired"):
        raise InvitationEnded
    if RANKS[old.invited_role] > rank(sender):
        raise PermissionDenied("You cannot invite somebody to a higher role than your own.")
    if old.is_banned:
        raise Banned
    await _require_room_to_resend(tx, old)
    user_id, address = str(sender.user_id), old.normalized_email
    room = await daily_limits.mail_room(tx, daily, user_id=user_id, addresses=[address])
    if refusal := room.find_refusal(address):
        raise refusal
    new_token = token_of(secret, str(old.id), old.rotation + 1)
    new = {**named, "token_hash": token_hash(new_token), "inviter_member_id": sender.id}
    row = (await tx.execute(RESEND, new)).one_or_none()
    if row is None:
        # The sweep forgot its address in between.
        raise InvitationEnded
    await openings.closed(tx, [old.token_hash])
    await openings.opened(tx, row.token_hash, row.expire_at)
    await enqueue(tx, MAIL, str(row.id))
    await daily_limits.note_mails(tx, workspace_id=named["workspace_id"], user_id=user_id, addresses=[address])
    await activities.record(tx, named["workspace_id"], [Activity("invitation.resent", "invitation", str(row.id))])
    return row


async def _require_room_to_resend(tx: AsyncConnection, old: Row[Any]) -> None:
    if old.rotation >= MOST_RESENDS:
        raise LimitReached("resends", most=MOST_RESENDS)
    workspace_id = str(old.workspace_id)
    await limits.require(tx, "open_invitations", workspace_id=workspace_id, adding=int(old.state == "expired"))
    await limits.require(tx, "invitations_a_day", workspace_id=workspace_id)


async def revoke(tx: AsyncConnection, *, workspace_id: str, invitation_id: str) -> Row[Any]:
    """Ends an invitation that is open or past its time. Repeatable. Errors: NotFound, InvitationEnded."""
    named = {"workspace_id": workspace_id, "id": invitation_id}
    revoked = (await tx.execute(REVOKE, named)).one_or_none()
    if revoked is not None:
        await openings.closed(tx, [revoked.token_hash])
        await activities.record(tx, workspace_id, [Activity("invitation.revoked", "invitation", str(revoked.id))])
        return revoked
    found = (await tx.execute(GET, named)).one_or_none()
    if found is None:
        raise NotFound
    if found.state != "revoked":
        raise InvitationEnded
    return found


async def revoke_for_addresses(tx: AsyncConnection, *, workspace_id: str, addresses: list[str]) -> list[str]:
    """Ends the invitations to normalised addresses; returns their ids. The log is for the caller to write."""
    ended = (await tx.execute(REVOKE_FOR_ADDRESSES, {"workspace_id": workspace_id, "addresses": addresses})).all()
    await openings.closed(tx, [row.token_hash for row in ended])
    return [str(row.id) for row in ended]


async def revoke_for_address(tx: AsyncConnection, *, workspace_id: str, normalized_email: str) -> list[str]:
    """The same, for one."""
    return await revoke_for_addresses(tx, workspace_id=workspace_id, addresses=[normalized_email])


async def revoke_of_inviter(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> list[str]:
    """Ends the invitations that a member sent; returns their ids. The log is for the caller to write."""
    named = {"workspace_id": workspace_id, "member_id": member_id}
    ended = (await tx.execute(REVOKE_OF_INVITER, named)).all()
    await openings.closed(tx, [row.token_hash for row in ended])
    return [str(row.id) for row in ended]


async def find_for_mail(tx: AsyncConnection, invitation_id: str) -> Row[Any] | None:
    """What the mail says, as long as the invitation can still be used."""
    return (await tx.execute(FIND_FOR_MAIL, {"id": invitation_id})).one_or_none()


async def forget_addresses(tx: AsyncConnection) -> int:
    """Forgets addresses 30 days after the invitation's time, a batch of them; one that nobody ended is revoked."""
    return (await tx.execute(FORGET_ADDRESSES)).rowcount

"""Invitations by e-mail: for one address, 7 days, one use, and no longer than the sender may invite."""

from dataclasses import dataclass
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.emails import normalize
from services.chassis.errors import PermissionDenied
from services.chassis.outbox import enqueue
from services.chassis.secret import SecretKey, token_hash
from services.membership import members, workspaces
from services.membership.capabilities import INVITE_MEMBERS, RANKS, allows, rank
from services.membership.errors import InvitationForAnother, InvitationInvalid

MAIL = "mail.invitation"

REVOKE_OPEN = text("""
    UPDATE invitations SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND normalized_email = :normalized_email
        AND accepted_at IS NULL AND revoked_at IS NULL
""")
REVOKE_OF_INVITER = text("""
    UPDATE invitations SET revoked_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND inviter_member_id = :member_id
        AND accepted_at IS NULL AND revoked_at IS NULL
""")
INSERT = text("""
    INSERT INTO invitations
        (id, workspace_id, email, normalized_email, role, token_hash, inviter_member_id, expire_at)
    VALUES (
        :id, :workspace_id, :email, :normalized_email, :role, :token_hash, :inviter_member_id,
        statement_timestamp() + interval '7 days'
    )
    RETURNING id, workspace_id, email, role, inviter_member_id, expire_at, created_at
""")
FIND = text("SELECT id, workspace_id, normalized_email FROM invitations WHERE token_hash = :token_hash")
# A statement of its own after the workspace is locked: its snapshot and its clock are of then.
FIND_OPEN = text("""
    SELECT i.id, i.role AS invited_role, inviter.role, inviter.kind
    FROM invitations i JOIN members inviter
        ON inviter.workspace_id = i.workspace_id AND inviter.id = i.inviter_member_id AND inviter.state = 'active'
    WHERE i.workspace_id = :workspace_id AND i.id = :id
        AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND statement_timestamp() < i.expire_at
""")
CONSUME = text("""
    UPDATE invitations SET accepted_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :id
        AND accepted_at IS NULL AND revoked_at IS NULL AND statement_timestamp() < expire_at
    RETURNING id
""")
FIND_FOR_MAIL = text("""
    SELECT i.id, i.email, i.expire_at, w.name AS workspace_name
    FROM invitations i JOIN workspaces w ON w.id = i.workspace_id
    WHERE i.id = :id AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND statement_timestamp() < i.expire_at
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

    workspace_id: str
    invitation_id: str
    role: str
    member: Row[Any] | None
    """The presenter, where they are a member already."""


def token_of(secret: SecretKey, invitation_id: str) -> str:
    """The token of an invitation: derived, so that the mail can be written without it being stored."""
    return secret.token("ghi", invitation_id)


async def create(tx: AsyncConnection, secret: SecretKey, inviter: Row[Any], *, email: str, role: str) -> Row[Any]:
    """Invites an address, in place of its open invitation if it has one, and has the mail written.

    The workspace is locked, and `inviter` may invite. Errors: PermissionDenied for a role above the inviter's own;
    InvalidRequest for what no mail could be addressed to.
    """
    if RANKS[role] > rank(inviter):
        raise PermissionDenied("You cannot invite somebody to a higher role than your own.")
    invitation_id = str(uuid_utils.uuid7())
    address = {"workspace_id": inviter.workspace_id, "normalized_email": normalize(email)}
    await tx.execute(REVOKE_OPEN, address)
    row = {
        **address,
        "id": invitation_id,
        "email": email,
        "role": role,
        "token_hash": token_hash(token_of(secret, invitation_id)),
        "inviter_member_id": inviter.id,
    }
    created = (await tx.execute(INSERT, row)).one()
    await enqueue(tx, MAIL, invitation_id)
    return created


async def access_offer(tx: AsyncConnection, presenter: Presenter, *, token: str) -> Offer:
    """What a token offers to its presenter, with the workspace locked; nothing is used up.

    Errors: InvitationInvalid; InvitationForAnother, but only for an invitation that somebody else could use.
    """
    found = (await tx.execute(FIND, {"token_hash": token_hash(token)})).one_or_none()
    if found is None:
        raise InvitationInvalid
    workspace_id, invitation_id = str(found.workspace_id), str(found.id)
    named = {"workspace_id": workspace_id, "id": invitation_id}
    is_addressee = presenter.verified_email == found.normalized_email
    if is_addressee:
        # Not for others: a token that is not theirs must not let them hold the workspace up.
        await workspaces.lock(tx, workspace_id)
        member = await members.find_active(tx, workspace_id=workspace_id, user_id=presenter.user_id)
        if member is not None:
            return Offer(workspace_id, invitation_id, str(member.role), member)
    invitation = (await tx.execute(FIND_OPEN, named)).one_or_none()
    if (
        invitation is None
        or not allows(invitation, INVITE_MEMBERS)
        or RANKS[invitation.invited_role] > rank(invitation)
    ):
        raise InvitationInvalid
    if not is_addressee:
        raise InvitationForAnother
    return Offer(workspace_id, invitation_id, str(invitation.invited_role), None)


async def accept(tx: AsyncConnection, offer: Offer, *, user_id: str) -> Row[Any]:
    """Makes the presenter a member and uses the invitation up. Who is one already stays as they are, and it is not."""
    if offer.member is not None:
        return offer.member
    named = {"workspace_id": offer.workspace_id, "id": offer.invitation_id}
    joined = await members.join(
        tx,
        workspace_id=offer.workspace_id,
        user_id=user_id,
        role=offer.role,
        invitation_id=offer.invitation_id,
    )
    if joined is None:
        # A guest whose redemption was confirmed in between: that path does not take the workspace's lock.
        confirmed = await members.find_active(tx, workspace_id=offer.workspace_id, user_id=user_id)
        if confirmed is None:
            raise InvitationInvalid
        return confirmed
    if (await tx.execute(CONSUME, named)).one_or_none() is None:
        raise InvitationInvalid
    return joined


async def revoke_of_inviter(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Ends the open invitations that a member sent."""
    await tx.execute(REVOKE_OF_INVITER, {"workspace_id": workspace_id, "member_id": member_id})


async def find_for_mail(tx: AsyncConnection, invitation_id: str) -> Row[Any] | None:
    """What the mail says, as long as the invitation can still be used."""
    return (await tx.execute(FIND_FOR_MAIL, {"id": invitation_id})).one_or_none()

"""Redeeming a group's code: exact uses, and no use for who is refused or in already."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound
from services.membership import group_access, group_members, joining, members, openings, removals, workspaces
from services.membership.activities import Activity, record
from services.membership.capabilities import INVITE_MEMBERS, INVITE_TO_GROUP, allows
from services.membership.errors import CodeInvalid
from services.membership.group_access import HOLDS
from services.membership.group_invites import OPEN, code_hash
from services.membership.group_members import GROUP_MEMBER
from services.membership.holders import ABLE
from services.membership.invitations import Presenter
from services.membership.revisions import raise_access_revision

FIND = text("""
    SELECT i.id, i.workspace_id, i.group_id FROM group_invites i
    JOIN workspaces w ON w.id = i.workspace_id AND w.deleted_at IS NULL
    WHERE i.code_hash = :code_hash
""")
# A creator who is disabled vouches for nobody. The rest of their right is the caller's to ask, by the same union as
# everywhere.
FIND_OPEN = text(f"""
    SELECT i.id, i.workspace_id, i.group_id, i.scheme_id, i.role, i.workspace_role, i.expire_at, i.code_hash,
        r.rank, g.path, g.name AS group_name, g.avatar_url, w.name AS workspace_name, m.user_id AS creator_user_id
    FROM group_invites i
    JOIN workspaces w ON w.id = i.workspace_id AND w.deleted_at IS NULL
    JOIN groups g ON g.workspace_id = i.workspace_id AND g.id = i.group_id
    JOIN members m ON m.workspace_id = i.workspace_id AND m.id = i.created_by_member_id AND {ABLE}
    JOIN scheme_roles r ON r.scheme_id = i.scheme_id AND r.role = i.role
    JOIN role_schemes s ON s.id = i.scheme_id AND s.owning_role <> i.role
    WHERE i.code_hash = :code_hash AND {OPEN}
""")
FIND_REDEEMER = text("""
    SELECT m.id, m.workspace_id, m.user_id, m.role, m.state, m.kind, m.version FROM members m
    WHERE m.workspace_id = :workspace_id AND m.user_id = :user_id AND m.state <> 'pending'
""")
FIND_INSIDE = text(f"""
    SELECT {GROUP_MEMBER}
    FROM group_members gm
    JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id AND m.state = 'active'
    JOIN groups g ON g.workspace_id = gm.workspace_id AND g.id = gm.group_id
    WHERE gm.workspace_id = :workspace_id AND gm.group_id = :group_id AND m.user_id = :user_id AND NOT EXISTS (
        SELECT FROM group_bans b
        WHERE b.workspace_id = :workspace_id AND b.user_id = m.user_id AND b.group_id = ANY(g.path) AND {HOLDS}
    )
""")
SPEND = text(f"""
    UPDATE group_invites i SET uses = i.uses + 1
    WHERE i.workspace_id = :workspace_id AND i.id = :invite_id AND {OPEN}
    RETURNING i.workspace_role, i.code_hash, i.uses = i.max_uses AS used_up
""")


@dataclass(frozen=True, slots=True)
class Redemption:
    """What a code gives its presenter; nothing is spent by then."""

    invite: Row[Any]
    inside: Row[Any] | None
    """Their role in the group, where they have one already."""
    member: Row[Any] | None
    """The presenter, where they are a member of the workspace."""
    ended: Row[Any] | None = None
    """Their stay as a guest, where its time is over and the code lets them into the workspace."""


async def find(tx: AsyncConnection, code: str) -> Row[Any]:
    """Which invite a code is of, used up or not. Errors: CodeInvalid."""
    found = (await tx.execute(FIND, {"code_hash": code_hash(code)})).one_or_none()
    if found is None:
        raise CodeInvalid
    return found


async def get_usable(tx: AsyncConnection, code: str) -> Row[Any]:
    """An invite that can be used, by somebody. Errors: CodeInvalid."""
    invite = (await tx.execute(FIND_OPEN, {"code_hash": code_hash(code)})).one_or_none()
    if invite is None:
        raise CodeInvalid
    creator = await group_access.find_standing(
        tx,
        workspace_id=str(invite.workspace_id),
        group_id=str(invite.group_id),
        user_id=str(invite.creator_user_id),
    )
    if creator is None or not creator.may(INVITE_TO_GROUP) or invite.rank > creator.rank:
        raise CodeInvalid
    if invite.workspace_role is not None and not allows(creator.member, INVITE_MEMBERS):
        raise CodeInvalid
    return invite


async def access_redemption(
    tx: AsyncConnection, presenter: Presenter, found: Row[Any], *, code: str, over: Row[Any] | None = None
) -> Redemption:
    """What a code that was found gives to its presenter, with the workspace locked.

    `over` is their stay as a guest, if its time was over: unless it has changed, a code into the workspace ends it.
    Errors: CodeInvalid, Banned, MemberSuspended, GuestsExcluded, LimitReached.
    """
    workspace_id = str(found.workspace_id)
    named = {"workspace_id": workspace_id, "user_id": presenter.user_id}
    if not await workspaces.lock_for_member(tx, **named):
        # An outsider must not hold a workspace up, unless with a code that lets them in.
        await _usable_by(tx, code, named)
        await _lock(tx, workspace_id)
    inside = (await tx.execute(FIND_INSIDE, {**named, "group_id": found.group_id})).one_or_none()
    if inside is not None:
        return Redemption(found, inside, await members.find_active(tx, **named))
    invite, redeemer = await _usable_by(tx, code, named)
    is_over = redeemer is not None and joining.is_unchanged(over, redeemer) and invite.workspace_role is not None
    if redeemer is not None and not is_over:
        group_members.require_eligible(redeemer)
    await group_access.require_not_banned(tx, **named, path=[str(each) for each in invite.path])
    if is_over:
        await joining.require_not_banned(tx, **named, normalized_email=presenter.verified_email)
        return Redemption(invite, None, None, ended=redeemer)
    if redeemer is not None:
        return Redemption(invite, None, await members.find_active(tx, **named))
    await joining.require_may_join(tx, **named, normalized_email=presenter.verified_email)
    return Redemption(invite, None, None)


async def _usable_by(tx: AsyncConnection, code: str, person: dict[str, str]) -> tuple[Row[Any], Row[Any] | None]:
    """An invite that can be used by its presenter, and they, if they are a member. Errors: CodeInvalid."""
    invite = await get_usable(tx, code)
    redeemer = (await tx.execute(FIND_REDEEMER, person)).one_or_none()
    if redeemer is None and invite.workspace_role is None:
        raise CodeInvalid
    return invite, redeemer


async def _lock(tx: AsyncConnection, workspace_id: str) -> None:
    try:
        await workspaces.lock(tx, workspace_id)
    except NotFound:
        raise CodeInvalid from None


async def redeem(tx: AsyncConnection, redemption: Redemption, *, user_id: str) -> tuple[Row[Any], Row[Any]]:
    """Spends a use and puts the presenter into the group; their role in it, and their membership.

    Who is in it already stays as they are. Errors: CodeInvalid, LimitReached.
    """
    invite = redemption.invite
    if redemption.inside is not None and redemption.member is not None:
        return redemption.inside, redemption.member
    workspace_id, invite_id = str(invite.workspace_id), str(invite.id)
    spent = (await tx.execute(SPEND, {"workspace_id": workspace_id, "invite_id": invite_id})).one_or_none()
    if spent is None:
        raise CodeInvalid
    ended = await removals.end_guest(tx, redemption.ended) if redemption.ended is not None else []
    member = redemption.member or await members.join(
        tx, workspace_id=workspace_id, user_id=user_id, role=invite.workspace_role, group_invite_id=invite_id
    )
    if member is None:
        raise CodeInvalid
    added = await group_members.insert(
        tx,
        workspace_id=workspace_id,
        group_id=str(invite.group_id),
        scheme_id=str(invite.scheme_id),
        member_id=str(member.id),
        role=invite.role,
        group_invite_id=invite_id,
    )
    if spent.used_up and spent.workspace_role is not None:
        await openings.closed(tx, [spent.code_hash])
    await record(tx, workspace_id, [*ended, *_told(redemption, user_id)])
    if ended:
        await raise_access_revision(tx, workspace_id, "guest_removed")
    return added, member


def _told(redemption: Redemption, user_id: str) -> list[Activity]:
    invite = redemption.invite
    told = []
    if redemption.member is None:
        joined = {"way": "group_invite", "after": {"role": invite.workspace_role}}
        told.append(Activity("member.joined", "member", target_user_id=user_id, metadata=joined))
    given = {"group_id": str(invite.group_id), "after": {"role": invite.role}}
    redeemed = Activity("group_invite.redeemed", "group_invite", str(invite.id), target_user_id=user_id, metadata=given)
    return [*told, redeemed]

"""Bans from a workspace: of a member, of a person who is none, or of an address."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.emails import normalize
from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.membership import activities, continuity, invitations, limits, members, removals
from services.membership.activities import Activity
from services.membership.capabilities import BAN_MEMBERS, allows, may_act_on
from services.membership.errors import RankTooLow
from services.membership.revisions import raise_access_revision

COLUMNS = """
    b.id, b.workspace_id, b.user_id, b.email, b.reason, b.banned_by_member_id, b.expire_at, b.created_at, b.was_member
"""
HOLDS = "(b.expire_at IS NULL OR statement_timestamp() < b.expire_at)"

USER_OF = text("""
    SELECT m.user_id FROM members m
    WHERE m.workspace_id = :workspace_id AND m.id = :member_id AND m.state IN ('active', 'suspended')
""")
STAY_OF = text(f"""
    SELECT {members.COLUMNS} FROM members m WHERE m.workspace_id = :workspace_id AND m.user_id = :user_id
""")
# The redemption that is being decided on finds nobody to confirm.
DELETE_PENDING = text("""
    DELETE FROM members WHERE workspace_id = :workspace_id AND user_id = :user_id AND state = 'pending'
""")
FORGET_ENDED = text("DELETE FROM workspace_bans b WHERE b.workspace_id = :workspace_id AND NOT " + HOLDS)


def _upsert(subject: str) -> Any:
    return text(f"""
        INSERT INTO workspace_bans AS b
            (id, workspace_id, user_id, email, normalized_email, reason, banned_by_member_id, expire_at, was_member)
        SELECT CAST(:id AS uuid), CAST(:workspace_id AS uuid), CAST(:user_id AS uuid), CAST(:email AS text),
            CAST(:normalized_email AS text), CAST(:reason AS text), CAST(:actor_id AS uuid), new.expire_at,
            CAST(:was_member AS boolean)
        FROM (SELECT CAST(:expire_at AS timestamptz)) AS new (expire_at)
        WHERE new.expire_at IS NULL OR statement_timestamp() < new.expire_at
        ON CONFLICT (workspace_id, {subject}) DO UPDATE
        SET email = excluded.email, reason = excluded.reason, banned_by_member_id = excluded.banned_by_member_id,
            expire_at = excluded.expire_at, was_member = b.was_member OR excluded.was_member,
            created_at = statement_timestamp()
        RETURNING {COLUMNS}
    """)


BAN_PERSON = _upsert("user_id")
BAN_ADDRESS = _upsert("normalized_email")
LIFT = text(f"""
    DELETE FROM workspace_bans b WHERE b.workspace_id = :workspace_id AND b.id = :ban_id AND {HOLDS}
    RETURNING {COLUMNS}
""")
LIST = text(f"""
    SELECT caller.role, caller.kind, listed.*
    FROM {members.CALLER}
    LEFT JOIN LATERAL (
        SELECT {COLUMNS} FROM workspace_bans b
        WHERE b.workspace_id = caller.workspace_id AND b.id < CAST(:before AS uuid) AND {HOLDS}
        ORDER BY b.id DESC LIMIT :size
    ) listed ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
    ORDER BY listed.id DESC
""")
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass(frozen=True, slots=True)
class Terms:
    """Why somebody is banned, and until when: the database decides whether that is still to come."""

    reason: str
    expire_at: datetime | None


async def find_user(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> str | None:
    """Who a member is, for asking identity before the transaction; the ban looks again."""
    found = await tx.scalar(USER_OF, {"workspace_id": workspace_id, "member_id": member_id})
    return str(found) if found else None


async def ban_member(
    tx: AsyncConnection, actor: Row[Any], terms: Terms, *, member_id: str, normalized_email: str | None
) -> Row[Any]:
    """Bans a member's person, as ban_person does. Errors: NotFound as well."""
    user_id = await find_user(tx, workspace_id=str(actor.workspace_id), member_id=member_id)
    if user_id is None:
        raise NotFound
    return await ban_person(tx, actor, terms, user_id=user_id, normalized_email=normalized_email)


async def ban_person(
    tx: AsyncConnection, actor: Row[Any], terms: Terms, *, user_id: str, normalized_email: str | None
) -> Row[Any]:
    """Keeps a person out, and ends their stay if they are a member. The workspace is locked, `actor` may ban.

    `normalized_email` is their verified address: invitations to it are revoked. Errors: RankTooLow, LastAdmin,
    InvalidRequest for an end that is past, LimitReached.
    """
    workspace_id = str(actor.workspace_id)
    person = {"workspace_id": workspace_id, "user_id": user_id}
    stay = (await tx.execute(STAY_OF, person)).one_or_none()
    is_member = stay is not None and stay.state != "pending"
    if stay is not None and is_member and (stay.id == actor.id or not may_act_on(actor, stay)):
        raise RankTooLow
    ban = await _put(tx, actor, terms, BAN_PERSON, user_id=user_id, was_member=is_member)
    followed = await _revoke(tx, workspace_id, normalized_email) if normalized_email else []
    if stay is not None and is_member:
        await continuity.require_another_admin(tx, stay)
        followed += await removals.end_stay(tx, stay)
    else:
        await tx.execute(DELETE_PENDING, person)
    banned = Activity(
        "member.banned", "member", target_user_id=user_id, metadata=_told(ban, is_member), reason=terms.reason
    )
    await activities.record(tx, workspace_id, [banned, *followed])
    if is_member:
        await raise_access_revision(tx, workspace_id, "member_banned")
    return ban


async def ban_address(tx: AsyncConnection, actor: Row[Any], terms: Terms, *, email: str) -> Row[Any]:
    """Keeps out whoever proves to own an address. The workspace is locked, `actor` may ban.

    Errors: InvalidRequest, also for an end that is past; LimitReached.
    """
    workspace_id, normalized = str(actor.workspace_id), normalize(email)
    ban = await _put(tx, actor, terms, BAN_ADDRESS, email=email, normalized_email=normalized)
    revoked = await _revoke(tx, workspace_id, normalized)
    # Whose address it is nobody here knows, so nobody could have it forgotten: it is not told.
    banned = Activity("member.banned", "ban", str(ban.id), metadata=_told(ban, False), reason=terms.reason)
    await activities.record(tx, workspace_id, [banned, *revoked])
    return ban


async def _revoke(tx: AsyncConnection, workspace_id: str, normalized_email: str) -> list[Activity]:
    found = await invitations.revoke_for_address(tx, workspace_id=workspace_id, normalized_email=normalized_email)
    return removals.invitations_revoked(found)


async def _put(
    tx: AsyncConnection,
    actor: Row[Any],
    terms: Terms,
    statement: Any,
    *,
    user_id: str | None = None,
    email: str | None = None,
    normalized_email: str | None = None,
    was_member: bool = False,
) -> Row[Any]:
    workspace_id = str(actor.workspace_id)
    await tx.execute(FORGET_ENDED, {"workspace_id": workspace_id})
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "user_id": user_id,
        "email": email,
        "normalized_email": normalized_email,
        "reason": terms.reason,
        "actor_id": actor.id,
        "expire_at": terms.expire_at,
        "was_member": was_member,
    }
    ban = (await tx.execute(statement, row)).one_or_none()
    if ban is None:
        raise InvalidRequest(fields=[("expire_time", "must be later than now")])
    await limits.require(tx, "bans", workspace_id=workspace_id, adding=0)
    return ban


def _told(ban: Row[Any], is_member: bool) -> dict[str, Any]:
    until = ban.expire_at.isoformat() if ban.expire_at else ""
    return {"ban_id": str(ban.id), "was_member": is_member, "until": until}


async def lift(tx: AsyncConnection, workspace_id: str, *, ban_id: str, reason: str) -> None:
    """Ends a ban that holds. The workspace is locked, the caller may ban. Errors: NotFound."""
    ban = (await tx.execute(LIFT, {"workspace_id": workspace_id, "ban_id": ban_id})).one_or_none()
    if ban is None:
        raise NotFound
    told = {"ban_id": str(ban.id)}
    if ban.user_id:
        lifted = Activity("member.unbanned", "member", None, str(ban.user_id), told, reason)
    else:
        lifted = Activity("member.unbanned", "ban", str(ban.id), None, told, reason)
    await activities.record(tx, workspace_id, [lifted])


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, before: str | None, size: int
) -> Sequence[Row[Any]]:
    """The bans that hold, newest first, before a ban id. Errors: NotFound, PermissionDenied."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "before": before or LAST, "size": size}
    rows = (await tx.execute(LIST, page)).all()
    if not rows:
        raise NotFound
    if not allows(rows[0], BAN_MEMBERS):
        raise PermissionDenied
    return [row for row in rows if row.id is not None]

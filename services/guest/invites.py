"""Invite links: what each grants, and whether it still works.

identity is told which are open, by the hash of their tokens: who holds one may sign up where only the invited may.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import uuid_utils
from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.outbox import emit

WORKS = "revoked_at IS NULL AND statement_timestamp() < expire_at AND (max_uses IS NULL OR uses < max_uses)"
"""Whether a link of guest_invites can be redeemed at this instant, as far as guest knows."""

MOST_WRONG_PRESENTERS = 20
"""Within 24 h: the next ones are told no more than that the link does not work."""

INVITE = f"""invite.id, invite.workspace_id, invite.created_by_member_id, invite.guest_ttl, invite.max_uses,
    invite.uses, invite.expire_at, invite.created_at, invite.bound_email, invite.bound_domain, {WORKS} AS works,
    CASE WHEN revoked_at IS NOT NULL THEN 'REVOKED' WHEN uses >= max_uses THEN 'USED_UP'
        WHEN statement_timestamp() < expire_at THEN 'OPEN' ELSE 'EXPIRED' END AS state,
    ARRAY(
        SELECT conversation_id FROM guest_invite_channels WHERE invite_id = invite.id ORDER BY conversation_id
    ) AS conversation_ids,
    (
        SELECT count(*) FROM guest_invite_attempts attempt
        WHERE attempt.invite_id = invite.id AND attempted_at > statement_timestamp() - interval '24 hours'
    ) AS wrong_presenters"""
"""What a link is shown as (wire.invite), and what its use depends on."""

CREATE = text("""
    INSERT INTO guest_invites
        (id, workspace_id, token_hash, created_by_member_id, guest_ttl, max_uses, expire_at, bound_email, bound_domain)
    VALUES (
        :id, :workspace_id, :token_hash, :member_id, make_interval(secs => :guest_ttl_seconds), :max_uses,
        statement_timestamp() + make_interval(secs => :invite_ttl_seconds), :bound_email, :bound_domain
    )
""")
ADD_CHANNELS = text("""
    INSERT INTO guest_invite_channels (invite_id, conversation_id)
    SELECT CAST(:id AS uuid), channel FROM unnest(CAST(:conversation_ids AS uuid[])) AS channel
""")
FIND = text(f"SELECT {INVITE} FROM guest_invites AS invite WHERE token_hash = :token_hash")
GET = text(f"SELECT {INVITE} FROM guest_invites AS invite WHERE workspace_id = :workspace_id AND id = :id")
LIST = text(f"""
    SELECT {INVITE} FROM guest_invites AS invite
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND id < CAST(:before AS uuid)
        AND (CAST(:creator_member_id AS uuid) IS NULL OR created_by_member_id = CAST(:creator_member_id AS uuid))
    ORDER BY id DESC LIMIT :size
""")
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
LOCK_OF_WORKSPACE = text("""
    SELECT CAST(created_by_member_id AS text) AS created_by_member_id FROM guest_invites
    WHERE workspace_id = :workspace_id AND id = :id FOR NO KEY UPDATE
""")
# Whether it still worked is asked of the row as it was: identity is told once.
REVOKE = text(f"""
    WITH present AS (SELECT id, {WORKS} AS works FROM guest_invites WHERE workspace_id = :workspace_id AND id = :id)
    UPDATE guest_invites SET revoked_at = coalesce(revoked_at, statement_timestamp())
    FROM present WHERE guest_invites.id = present.id
    RETURNING token_hash, present.works
""")
# The link is locked first: two wrong presenters at once would both find one place left.
NOTE_WRONG_PRESENTER = text(f"""
    INSERT INTO guest_invite_attempts (invite_id, user_id)
    SELECT CAST(:invite_id AS uuid), CAST(:user_id AS uuid) WHERE (
        SELECT count(*) FROM guest_invite_attempts
        WHERE invite_id = CAST(:invite_id AS uuid) AND user_id <> CAST(:user_id AS uuid)
            AND attempted_at > statement_timestamp() - interval '24 hours'
    ) < {MOST_WRONG_PRESENTERS}
    ON CONFLICT (invite_id, user_id) DO UPDATE SET attempted_at = statement_timestamp()
""")
FORGET_PRESENTERS = text("""
    DELETE FROM guest_invite_attempts WHERE attempted_at <= statement_timestamp() - interval '24 hours'
""")
FORGET_ADDRESSES = text("""
    UPDATE guest_invites SET bound_email = NULL
    WHERE bound_email IS NOT NULL
        AND least(expire_at, revoked_at) <= statement_timestamp() - interval '720 hours'
""")
LOCK = text("SELECT 1 FROM guest_invites WHERE id = :id FOR NO KEY UPDATE")
SPEND = text(f"""
    UPDATE guest_invites SET uses = uses + 1 WHERE id = :id AND {WORKS} RETURNING token_hash, uses = max_uses AS is_last
""")
# Links before guests, as in a redemption: two that wait for each other would both have to begin anew.
LOCK_OF_GUEST = text("""
    SELECT 1 FROM guest_invites
    WHERE id = (
        SELECT invite_id FROM guests
        WHERE workspace_id = CAST(:workspace_id AS uuid) AND member_id = CAST(:member_id AS uuid)
    )
    FOR NO KEY UPDATE
""")
GIVE_BACK = text("""
    UPDATE guest_invites SET uses = uses - 1
    FROM guests
    WHERE guests.workspace_id = CAST(:workspace_id AS uuid) AND guests.member_id = CAST(:member_id AS uuid)
        AND guests.unconfirmed AND guest_invites.id = guests.invite_id AND guest_invites.uses > 0
""")
# A member id is never used again, so nobody will back these links any more.
REVOKE_OF_MEMBER = text(f"""
    UPDATE guest_invites SET revoked_at = statement_timestamp()
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND created_by_member_id = CAST(:member_id AS uuid) AND {WORKS}
    RETURNING token_hash
""")
OF_MEMBER = text(f"""
    SELECT token_hash FROM guest_invites
    WHERE workspace_id = CAST(:workspace_id AS uuid) AND created_by_member_id = CAST(:member_id AS uuid) AND {WORKS}
""")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a link grants, to whom, for how long."""

    conversation_ids: Collection[str]
    invite_ttl: timedelta
    guest_ttl: timedelta
    max_uses: int
    """0 means no limit."""
    bound_email: str | None
    """Normalised."""
    bound_domain: str | None


async def create(
    tx: AsyncConnection, *, workspace_id: str, token_hash: bytes, member_id: str, terms: Terms
) -> Row[Any]:
    """Writes a link by the hash of its token."""
    row = {
        "id": str(uuid_utils.uuid7()),
        "workspace_id": workspace_id,
        "token_hash": token_hash,
        "member_id": member_id,
        "guest_ttl_seconds": terms.guest_ttl.total_seconds(),
        "invite_ttl_seconds": terms.invite_ttl.total_seconds(),
        "max_uses": terms.max_uses or None,
        "bound_email": terms.bound_email,
        "bound_domain": terms.bound_domain,
    }
    await tx.execute(CREATE, row)
    await tx.execute(ADD_CHANNELS, {"id": row["id"], "conversation_ids": list(terms.conversation_ids)})
    made = (await tx.execute(GET, {"workspace_id": workspace_id, "id": row["id"]})).one()
    opened = events.InviteOpened(token_hash=token_hash)
    opened.expire_time.FromDatetime(made.expire_at)
    await emit(tx, ["identity"], events.Event(invite_opened=opened))
    return made


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, creator_member_id: str | None, before: str | None, size: int
) -> Sequence[Row[Any]]:
    """Links older than one, newest first; of one creator, or of all."""
    page = {"workspace_id": workspace_id, "before": before or LAST, "size": size}
    return (await tx.execute(LIST, {**page, "creator_member_id": creator_member_id})).all()


async def lock(tx: AsyncConnection, *, workspace_id: str, invite_id: str) -> Row[Any] | None:
    """Has redemptions of the link wait for this transaction; its creator, or None for no such link."""
    return (await tx.execute(LOCK_OF_WORKSPACE, {"workspace_id": workspace_id, "id": invite_id})).one_or_none()


async def revoke(tx: AsyncConnection, *, workspace_id: str, invite_id: str) -> Row[Any]:
    """Ends a link locked before, for good; one that was revoked stays as it was."""
    named = {"workspace_id": workspace_id, "id": invite_id}
    revoked = (await tx.execute(REVOKE, named)).one()
    if revoked.works:
        await tell_closed(tx, [revoked.token_hash])
    return (await tx.execute(GET, named)).one()


def is_bound_to_another(invite: Row[Any], normalized_email: str) -> bool:
    """Whether a link is for somebody else than who has this verified address; "" is nobody's."""
    if invite.bound_email is not None:
        return bool(normalized_email != invite.bound_email)
    return invite.bound_domain is not None and bool(normalized_email.rpartition("@")[2] != invite.bound_domain)


async def note_wrong_presenter(tx: AsyncConnection, *, invite_id: str, user_id: str) -> bool:
    """Counts somebody for whom the link is not; False if too many others were counted within 24 h."""
    await tx.execute(LOCK, {"id": invite_id})
    row = {"invite_id": invite_id, "user_id": user_id}
    return (await tx.execute(NOTE_WRONG_PRESENTER, row)).rowcount == 1


async def forget(tx: AsyncConnection) -> None:
    """Forgets who presented links that were not theirs, after a day, and the addresses of links that ended."""
    await tx.execute(FORGET_PRESENTERS)
    await tx.execute(FORGET_ADDRESSES)


async def find(tx: AsyncConnection, *, token_hash: bytes) -> Row[Any] | None:
    """The link of a token, and in `works` whether it can be redeemed at this instant."""
    return (await tx.execute(FIND, {"token_hash": token_hash})).one_or_none()


async def spend(tx: AsyncConnection, *, invite_id: str) -> bool:
    """Takes one use; False if the link has ended or none is left."""
    # The lock apart: an update that waits for it would decide by the clock of before the wait.
    await tx.execute(LOCK, {"id": invite_id})
    spent = (await tx.execute(SPEND, {"id": invite_id})).one_or_none()
    if spent is not None and spent.is_last:
        await tell_closed(tx, [spent.token_hash])
    return spent is not None


async def lock_of_guest(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Has redemptions of the link that made somebody a guest wait for this transaction."""
    await tx.execute(LOCK_OF_GUEST, {"workspace_id": workspace_id, "member_id": member_id})


async def give_back(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Counts the use of a guest whom membership never let in as not made. To be called once, as they end.

    identity re-opens nothing: if it was the last use, the link is from now on for those who have an account.
    """
    await tx.execute(GIVE_BACK, {"workspace_id": workspace_id, "member_id": member_id})


async def revoke_of_member(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Ends the links of a member who is gone."""
    ended = await tx.execute(REVOKE_OF_MEMBER, {"workspace_id": workspace_id, "member_id": member_id})
    await tell_closed(tx, ended.scalars().all())


async def close_of_member(tx: AsyncConnection, *, workspace_id: str, member_id: str) -> None:
    """Closes the links of a disabled member at identity, for good: it re-opens none.

    They are not revoked: who has an account already can use them again once the member is enabled.
    """
    open_ = await tx.execute(OF_MEMBER, {"workspace_id": workspace_id, "member_id": member_id})
    await tell_closed(tx, open_.scalars().all())


async def tell_closed(tx: AsyncConnection, token_hashes: Iterable[bytes]) -> None:
    """Tells identity of links that can no longer be used."""
    for token_hash in token_hashes:
        await emit(tx, ["identity"], events.Event(invite_closed=events.InviteClosed(token_hash=token_hash)))

"""Inviting: one address or many, each made or refused by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.emails import normalize
from services.chassis.errors import Fault, InvalidRequest, PermissionDenied
from services.chassis.outbox import enqueue
from services.chassis.secret import SecretKey, token_hash
from services.membership import activities, daily_limits, limits, openings
from services.membership.activities import Activity
from services.membership.capabilities import RANKS, rank
from services.membership.daily_limits import DailyLimits
from services.membership.errors import Banned
from services.membership.invitation_reads import COLUMNS
from services.membership.invitations import MAIL, UNENDED, revoke_for_addresses, token_of

FIND_ADDRESSES = text(f"""
    SELECT asked.address,
        EXISTS (
            SELECT FROM workspace_bans b
            WHERE b.workspace_id = :workspace_id AND b.normalized_email = asked.address
                AND (b.expire_at IS NULL OR statement_timestamp() < b.expire_at)
        ) AS is_banned,
        EXISTS (
            SELECT FROM invitations
            WHERE workspace_id = :workspace_id AND normalized_email = asked.address AND {UNENDED}
                AND statement_timestamp() < expire_at
        ) AS is_invited
    FROM unnest(CAST(:addresses AS text[])) AS asked (address)
""")
INSERT = text(f"""
    INSERT INTO invitations
        (id, workspace_id, email, normalized_email, role, token_hash, inviter_member_id, expire_at)
    SELECT new.id, :workspace_id, new.email, new.address, new.role, new.token_hash, :inviter_member_id,
        statement_timestamp() + interval '7 days'
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:emails AS text[]), CAST(:addresses AS text[]), CAST(:roles AS text[]),
        CAST(:token_hashes AS bytea[])
    ) AS new (id, email, address, role, token_hash)
    RETURNING {COLUMNS}
""")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody to invite: the address as it was written, and the role."""

    email: str
    role: str


async def create(
    tx: AsyncConnection, secret: SecretKey, inviter: Row[Any], wanted: Wanted, *, daily: DailyLimits
) -> Row[Any]:
    """Invites an address, in place of its open invitation if it has one, and has the mail written.

    The workspace is locked, and `inviter` may invite. Errors: InvalidRequest for what no mail could be addressed to;
    PermissionDenied for a role above the inviter's own; Banned; LimitReached.
    """
    (result,) = await create_each(tx, secret, inviter, [wanted], daily=daily)
    if isinstance(result, Fault):
        raise result
    return result


async def create_each(
    tx: AsyncConnection, secret: SecretKey, inviter: Row[Any], items: Sequence[Wanted], *, daily: DailyLimits
) -> list[Row[Any] | Fault]:
    """Invites many: the invitation or the refusal of each, in their order.

    An address that comes twice is invited once, as it comes last. The workspace is locked, and `inviter` may invite.
    """
    addresses = [_address_of(item) for item in items]
    wanted = {address: item for address, item in zip(addresses, items, strict=True) if isinstance(address, str)}
    refusals = await _find_refusals(tx, inviter, wanted, daily)
    admitted = {address: item for address, item in wanted.items() if address not in refusals}
    made = await _insert(tx, secret, inviter, admitted) if admitted else {}
    results: dict[str, Row[Any] | Fault] = {**refusals, **made}
    return [results[address] if isinstance(address, str) else address for address in addresses]


def _address_of(item: Wanted) -> str | InvalidRequest:
    try:
        return normalize(item.email)
    except InvalidRequest as refusal:
        return refusal


async def _find_refusals(
    tx: AsyncConnection, inviter: Row[Any], wanted: dict[str, Wanted], daily: DailyLimits
) -> dict[str, Fault]:
    """Who of them may not be invited, and why; in their order, for as long as there is room."""
    workspace_id = str(inviter.workspace_id)
    found = await tx.execute(FIND_ADDRESSES, {"workspace_id": workspace_id, "addresses": list(wanted)})
    known = {row.address: row for row in found}
    open_left, too_many_open = await limits.room(tx, "open_invitations", workspace_id=workspace_id)
    left_today, too_many_today = await limits.room(tx, "invitations_a_day", workspace_id=workspace_id)
    mail_room = await daily_limits.mail_room(tx, daily, user_id=str(inviter.user_id), addresses=list(wanted))
    refusals: dict[str, Fault] = {}
    for address, item in wanted.items():
        # One that replaces another adds none to those that are open, but one to today's.
        opens = not known[address].is_invited
        if RANKS[item.role] > rank(inviter):
            refusals[address] = PermissionDenied("You cannot invite somebody to a higher role than your own.")
        elif known[address].is_banned:
            refusals[address] = Banned()
        elif open_left < opens:
            refusals[address] = too_many_open
        elif left_today < 1:
            refusals[address] = too_many_today
        elif (too_many_mails := mail_room.find_refusal(address)) is not None:
            refusals[address] = too_many_mails
        else:
            open_left, left_today = open_left - opens, left_today - 1
    return refusals


async def _insert(
    tx: AsyncConnection, secret: SecretKey, inviter: Row[Any], admitted: dict[str, Wanted]
) -> dict[str, Row[Any]]:
    workspace_id = str(inviter.workspace_id)
    replaced = await revoke_for_addresses(tx, workspace_id=workspace_id, addresses=list(admitted))
    ids = [str(uuid_utils.uuid7()) for _ in admitted]
    new = {
        "workspace_id": workspace_id,
        "inviter_member_id": inviter.id,
        "ids": ids,
        "emails": [item.email for item in admitted.values()],
        "addresses": list(admitted),
        "roles": [item.role for item in admitted.values()],
        "token_hashes": [token_hash(token_of(secret, invitation_id)) for invitation_id in ids],
    }
    made = {row.normalized_email: row for row in await tx.execute(INSERT, new)}
    for row in made.values():
        await openings.opened(tx, row.token_hash, row.expire_at)
        await enqueue(tx, MAIL, str(row.id))
    await daily_limits.note_mails(tx, workspace_id=workspace_id, user_id=str(inviter.user_id), addresses=admitted)
    ended = [Activity("invitation.revoked", "invitation", each, metadata={"way": "replaced"}) for each in replaced]
    begun = [
        Activity("invitation.created", "invitation", str(row.id), metadata={"after": {"role": row.invited_role}})
        for row in made.values()
    ]
    await activities.record(tx, workspace_id, [*ended, *begun])
    return made

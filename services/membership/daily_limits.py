"""How much one person may do in a day, in all workspaces together.

A workspace's own limits (limits.py) hold back nobody who makes ever new workspaces. Counted are uses, not rows of what
was made: that may be changed or deleted meanwhile.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import LimitReached

RETRY_AFTER_SECONDS = 3600.0
WORKSPACES, MAILS_OF_USER, MAILS_TO_ADDRESS, MAILS_OF_WORKSPACE = (
    "workspaces_a_day",
    "invitation_mails_of_user",
    "invitation_mails_to_address",
    "invitations_a_day",
)

# In one order, whoever asks, so that no two wait for each other.
TAKE_TURNS = text("""
    SELECT pg_advisory_xact_lock(hashtextextended(encode(subject, 'hex'), 0))
    FROM (SELECT DISTINCT subject FROM unnest(CAST(:subjects AS bytea[])) AS subject ORDER BY subject) ordered
""")
COUNT = text("""
    SELECT asked.subject, count(used.subject) AS present
    FROM (SELECT DISTINCT subject FROM unnest(CAST(:subjects AS bytea[])) AS subject) asked
    LEFT JOIN daily_uses used
        ON used.subject = asked.subject AND used.used_at > statement_timestamp() - interval '24 hours'
    GROUP BY asked.subject
""")
NOTE = text("""
    INSERT INTO daily_uses (id, subject) SELECT gen_random_uuid(), unnest(CAST(:subjects AS bytea[]))
""")
FORGET = text("""
    DELETE FROM daily_uses WHERE id IN (
        SELECT id FROM daily_uses WHERE used_at <= statement_timestamp() - interval '24 hours'
        ORDER BY used_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
""")


@dataclass(frozen=True, slots=True)
class DailyLimits:
    """How many within 24 h; the names are those of the refusals."""

    workspaces_a_day: int
    invitation_mails_of_user: int
    invitation_mails_to_address: int


@dataclass(slots=True)
class MailRoom:
    """How many mails of invitations may still go out today, by whom they are from and to whom."""

    limits: DailyLimits
    of_user: int
    to_address: dict[str, int]

    def find_refusal(self, address: str) -> LimitReached | None:
        """Why no mail may go to an address; if one may, it is counted."""
        for left, name in ((self.of_user, MAILS_OF_USER), (self.to_address[address], MAILS_TO_ADDRESS)):
            if left < 1:
                return _reached(name, self.limits)
        self.of_user -= 1
        self.to_address[address] -= 1
        return None


async def use_workspace(tx: AsyncConnection, limits: DailyLimits, *, user_id: str) -> None:
    """Counts a workspace that somebody makes. Errors: LimitReached."""
    subject = subject_of(WORKSPACES, user_id)
    if (await _count(tx, [subject]))[subject] >= limits.workspaces_a_day:
        raise _reached(WORKSPACES, limits)
    await tx.execute(NOTE, {"subjects": [subject]})


async def mail_room(tx: AsyncConnection, limits: DailyLimits, *, user_id: str, addresses: Sequence[str]) -> MailRoom:
    """What is left of today for a sender and normalised addresses; nobody else uses it until the transaction ends."""
    sender = subject_of(MAILS_OF_USER, user_id)
    recipients = {address: subject_of(MAILS_TO_ADDRESS, address) for address in addresses}
    present = await _count(tx, [sender, *recipients.values()])
    left = {address: limits.invitation_mails_to_address - present[subject] for address, subject in recipients.items()}
    return MailRoom(limits, limits.invitation_mails_of_user - present[sender], left)


async def note_mails(tx: AsyncConnection, *, workspace_id: str, user_id: str, addresses: Iterable[str]) -> None:
    """Counts a mail of an invitation to each address."""
    subjects = []
    for address in addresses:
        subjects += [
            subject_of(MAILS_OF_WORKSPACE, workspace_id),
            subject_of(MAILS_OF_USER, user_id),
            subject_of(MAILS_TO_ADDRESS, address),
        ]
    await tx.execute(NOTE, {"subjects": subjects})


async def forget_old(tx: AsyncConnection) -> int:
    """Forgets a batch of what no longer counts."""
    return (await tx.execute(FORGET)).rowcount


def subject_of(limit: str, of: str) -> bytes:
    """What is counted, for whom: hashed, so that no table says who was written to (limits.py makes the same in SQL)."""
    return hashlib.sha256(f"{limit} {of}".encode()).digest()


async def _count(tx: AsyncConnection, subjects: Sequence[bytes]) -> Mapping[bytes, int]:
    await tx.execute(TAKE_TURNS, {"subjects": list(subjects)})
    return {bytes(row.subject): row.present for row in await tx.execute(COUNT, {"subjects": list(subjects)})}


def _reached(name: str, limits: DailyLimits) -> LimitReached:
    return LimitReached(name, most=getattr(limits, name), retry_after_seconds=RETRY_AFTER_SECONDS)

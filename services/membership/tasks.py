"""What the worker does: the mail of an invitation, and what is to be done about what is past its time."""

from typing import Any

from sqlalchemy import Row

from services.chassis.database import Database
from services.chassis.mail import Mailer
from services.chassis.worker import Work, Worker
from services.membership import daily_limits, group_bans, handles, invitations


def invitation_mailer(worker: Worker) -> Work:
    """The work `mail.invitation`: sends the mail, unless the invitation has ended meanwhile."""
    mailer = Mailer("membership", worker.settings)

    async def mail_invitation(subject_id: str, row_id: str) -> None:
        async def find(tx: Any) -> Row[Any] | None:
            return await invitations.find_for_mail(tx, subject_id)

        row = await worker.database.read(find)
        if row is None:
            return
        token = invitations.token_of(worker.secret, str(row.id), row.rotation)
        parameters = {
            "workspace_name": row.workspace_name,
            "link": f"{worker.settings.public_url.rstrip('/')}/invitations/accept?token={token}",
            "token": token,
            "expire_at": row.expire_at,
        }
        await mailer.send("invitation", to=row.email, row_id=row_id, parameters=parameters)

    return mail_invitation


def group_ban_ender(worker: Worker) -> Work:
    """The work `group_ban.ended`: forgets a ban whose time is over."""

    async def end(subject_id: str, _row_id: str) -> None:
        await worker.database.transaction(lambda tx: group_bans.end(tx, subject_id))

    return end


async def forget(database: Database) -> None:
    """Forgets, a batch at a time, what is past its time: invitations' addresses, tombstones of handles, daily uses."""
    while await database.transaction(invitations.forget_addresses):
        pass
    while await database.transaction(handles.forget_old):
        pass
    while await database.transaction(daily_limits.forget_old):
        pass

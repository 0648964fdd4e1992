"""What the worker does: the mail of an invitation."""

from typing import Any

from sqlalchemy import Row

from services.chassis.emails import mailbox
from services.chassis.mail import compose, write_mail
from services.chassis.worker import Work, Worker
from services.membership import invitations

TEXT = """You are invited to join the workspace "{workspace}".

Open this link, signed in with the address that this mail was sent to:
{public_url}/invitations/accept?token={token}

Token: {token}

The invitation can be used once, until {until} UTC. If you did not expect it, do nothing.
"""


def invitation_mailer(worker: Worker) -> Work:
    """The work `mail.invitation`: writes the mail, unless the invitation has ended meanwhile."""

    async def mail_invitation(subject_id: str, row_id: str) -> None:
        async def find(tx: Any) -> Row[Any] | None:
            return await invitations.find_for_mail(tx, subject_id)

        row = await worker.database.read(find)
        if row is None:
            return
        # One line: a line break would be refused in the subject, and could imitate the lines below in the text.
        workspace = " ".join(row.workspace_name.split())
        text = TEXT.format(
            workspace=workspace,
            public_url=worker.settings.public_url.rstrip("/"),
            token=invitations.token_of(worker.secret, str(row.id)),
            until=f"{row.expire_at:%Y-%m-%d %H:%M}",
        )
        message = compose(to=mailbox(row.email), subject=f"You are invited to {workspace}", text=text)
        write_mail(worker.settings.mail_dir, row_id, message)

    return mail_invitation

"""The mails to guests and sponsors. Who they are is asked when a mail is written: no name or address waits anywhere."""

from services.chassis.database import Database
from services.chassis.mail import Mailer
from services.chassis.worker import Work
from services.guest import notices
from services.guest.peers import Identity, Membership


def notice_mailer(database: Database, mailer: Mailer, *, identity: Identity, membership: Membership) -> Work:
    """The work `mail.guest_notice`: one notice to one of the two, unless the guest's times have changed meanwhile.

    A repetition after a crash has the same row id, and so is the same mail.
    """

    async def mail_notice(notice_id: str, row_id: str) -> None:
        notice = await database.read(lambda tx: notices.find_to_send(tx, notice_id))
        if notice is None:
            return
        sponsor_id = notice.sponsor_member_id
        workspace = await membership.workspace(notice.workspace_id, member_ids=[sponsor_id])
        people = {"guest": notice.user_id, "sponsor": workspace.user_ids.get(sponsor_id, "")}
        addressees = await identity.addressees([user_id for user_id in people.values() if user_id])
        to, guest = addressees.get(people[notice.recipient]), addressees.get(notice.user_id)
        # Who is gone, or has no proven address, is told nothing; and of a deleted workspace there is nothing to tell.
        if to is not None and to.email and workspace.name:
            parameters = {
                "workspace_name": workspace.name,
                "guest_name": guest.name if guest is not None else "",
                "expire_at": notice.expire_at,
                "end_at": notice.end_at,
            }
            kind = f"guest_{notice.kind.partition('_')[0]}_{notice.recipient}"
            await mailer.send(kind, to=to.email, row_id=row_id, parameters=parameters)
        await database.transaction(lambda tx: notices.mark_sent(tx, notice_id))

    return mail_notice

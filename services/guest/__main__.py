"""`python -m services.guest serve|worker|migrate`: how the service is put together."""

from guildhall.guest.v1 import guest_access_service_pb2_grpc, guest_invite_service_pb2_grpc, guest_service_pb2_grpc

from services.chassis import command
from services.chassis.channel import open_channel
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.mail import Mailer
from services.chassis.metrics import watch_table
from services.chassis.settings import ServeSettings
from services.chassis.sweeps import Sweep
from services.chassis.worker import Work, Worker
from services.guest import mailings, metrics, notices, purges, redemptions, tasks
from services.guest.access import Access
from services.guest.guests import member_disabled, member_removed
from services.guest.peers import Identity, Membership, Messaging
from services.guest.servicers.calls import Changes
from services.guest.servicers.guest_access import GuestAccessService
from services.guest.servicers.guest_invites import GuestInviteService
from services.guest.servicers.guests import GuestService
from services.guest.sight import Losses
from services.guest.tables import METADATA
from services.guest.visibility import Visibility


def build(settings: ServeSettings) -> Frame:
    """The whole service, not yet started. To be called inside the running loop."""
    frame = Frame(
        "guest",
        settings,
        consumes={
            "guest_confirmed": Consumer({"membership"}, redemptions.apply_confirmed),
            "member_disabled": Consumer({"membership"}, member_disabled),
            "member_removed": Consumer({"membership"}, member_removed),
            "workspace_deleted": Consumer({"membership"}, purges.workspace_deleted),
        },
    )
    identity = Identity(frame.channels["identity"])
    membership = Membership(frame.channels["membership"])
    messaging = Messaging(frame.channels["messaging"])
    access, losses = Access(frame.database, membership), Losses(frame.database, membership)
    visibility = Visibility(frame.database, messaging)
    frame.background(Sweep("sight_losses", losses.settle_left).run())
    frame.background(watch_table(frame.database, metrics.DUE, metrics.OF_DUE))
    frame.add(
        guest_invite_service_pb2_grpc.add_GuestInviteServiceServicer_to_server,
        GuestInviteService(
            frame,
            identity=identity,
            membership=membership,
            messaging=messaging,
            access=access,
            losses=losses,
            visibility=visibility,
        ),
    )
    frame.add(
        guest_service_pb2_grpc.add_GuestServiceServicer_to_server,
        GuestService(
            frame,
            identity=identity,
            membership=membership,
            messaging=messaging,
            access=access,
            changes=Changes(frame, access=access, losses=losses),
            visibility=visibility,
        ),
    )
    frame.add(
        guest_access_service_pb2_grpc.add_GuestAccessServiceServicer_to_server,
        GuestAccessService(frame.database, visibility),
    )
    return frame


async def serve(settings: ServeSettings) -> None:
    """Serves until SIGTERM."""
    await build(settings).run()


def worker(settings: ServeSettings) -> None:
    """Works until SIGTERM. It asks other services whom to write to, so it needs what a server needs."""
    process = Worker("guest", settings)

    async def mailer() -> Work:
        # Inside the loop: channels belong to it.
        return mailings.notice_mailer(
            process.database,
            Mailer("guest", settings),
            identity=Identity(open_channel(settings, "identity")),
            membership=Membership(open_channel(settings, "membership")),
        )

    works = {**tasks.works(process.database), notices.MAIL: process.run(mailer())}
    process.serve(works, tasks.sweeps(process.database))


if __name__ == "__main__":
    command.run(
        "guest",
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=ServeSettings,
        worker_settings=ServeSettings,
    )

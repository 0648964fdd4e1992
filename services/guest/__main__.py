"""`python -m services.guest serve|worker|migrate`: how the service is put together."""

from guildhall.guest.v1 import guest_access_service_pb2_grpc, guest_invite_service_pb2_grpc, guest_service_pb2_grpc

from services.chassis import command
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.settings import ServeSettings, WorkerSettings
from services.chassis.worker import Worker
from services.guest import purges, tasks
from services.guest.guests import member_removed
from services.guest.peers import Identity, Membership, Messaging
from services.guest.servicer import GuestAccessServicer, GuestInviteServicer, GuestServicer
from services.guest.tables import METADATA


def build(settings: ServeSettings) -> Frame:
    """The whole service, not yet started. To be called inside the running loop."""
    frame = Frame(
        "guest",
        settings,
        consumes={
            "member_removed": Consumer({"membership"}, member_removed),
            "workspace_deleted": Consumer({"membership"}, purges.workspace_deleted),
        },
    )
    identity = Identity(frame.channels["identity"])
    membership = Membership(frame.channels["membership"])
    messaging = Messaging(frame.channels["messaging"])
    frame.add(
        guest_invite_service_pb2_grpc.add_GuestInviteServiceServicer_to_server,
        GuestInviteServicer(frame, identity=identity, membership=membership, messaging=messaging),
    )
    frame.add(guest_service_pb2_grpc.add_GuestServiceServicer_to_server, GuestServicer(frame, membership=membership))
    frame.add(
        guest_access_service_pb2_grpc.add_GuestAccessServiceServicer_to_server, GuestAccessServicer(frame.database)
    )
    return frame


async def serve(settings: ServeSettings) -> None:
    """Serves until SIGTERM."""
    await build(settings).run()


def worker(settings: WorkerSettings) -> None:
    """Works until SIGTERM."""
    process = Worker("guest", settings)
    process.serve(tasks.works(process.database), tasks.sweeps(process.database))


if __name__ == "__main__":
    command.run(
        "guest",
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=ServeSettings,
        worker_settings=WorkerSettings,
    )

"""membership's wiring diagram."""

from guildhall.membership.v1 import (
    access_service_pb2_grpc,
    invitation_service_pb2_grpc,
    member_service_pb2_grpc,
    workspace_service_pb2_grpc,
)

from services.chassis import command
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.settings import ServeSettings, WorkerSettings
from services.chassis.worker import Worker
from services.membership import departures, guest_members, invitations, tasks
from services.membership.peers import Identity
from services.membership.servicers.access import AccessService
from services.membership.servicers.invitations import InvitationService
from services.membership.servicers.members import MemberService
from services.membership.servicers.workspaces import WorkspaceService
from services.membership.tables import METADATA


def build(settings: ServeSettings) -> Frame:
    """The whole service, not yet started. To be called inside the running loop."""
    frame = Frame(
        "membership",
        settings,
        consumes={
            "guest_redeemed": Consumer({"guest"}, guest_members.apply_redeemed),
            "guest_redemption_abandoned": Consumer({"guest"}, guest_members.apply_abandoned),
            "user_deleted": Consumer({"identity"}, departures.apply_deleted),
        },
    )
    identity = Identity(frame.channels["identity"])
    database, secret = frame.database, frame.secret
    frame.add(
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server, WorkspaceService(database, secret, identity)
    )
    frame.add(member_service_pb2_grpc.add_MemberServiceServicer_to_server, MemberService(database, secret, identity))
    frame.add(
        invitation_service_pb2_grpc.add_InvitationServiceServicer_to_server,
        InvitationService(database, secret, identity),
    )
    frame.add(access_service_pb2_grpc.add_AccessServiceServicer_to_server, AccessService(database))
    return frame


async def serve(settings: ServeSettings) -> None:
    """Answers calls until SIGTERM."""
    await build(settings).run()


def worker(settings: WorkerSettings) -> None:
    """Writes the mails until SIGTERM."""
    process = Worker("membership", settings)
    process.serve({invitations.MAIL: tasks.invitation_mailer(process)})


if __name__ == "__main__":
    command.run(
        "membership",
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=ServeSettings,
        worker_settings=WorkerSettings,
    )

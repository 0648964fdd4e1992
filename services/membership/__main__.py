"""membership's wiring diagram."""

from guildhall.membership.v1 import (
    access_service_pb2_grpc,
    activity_service_pb2_grpc,
    group_ban_service_pb2_grpc,
    group_invite_service_pb2_grpc,
    group_member_service_pb2_grpc,
    group_service_pb2_grpc,
    invitation_service_pb2_grpc,
    member_service_pb2_grpc,
    role_scheme_service_pb2_grpc,
    user_group_service_pb2_grpc,
    workspace_service_pb2_grpc,
)

from services.chassis import command
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.settings import WorkerSettings
from services.chassis.worker import Worker
from services.membership import (
    activity_intake,
    erasures,
    group_bans,
    guest_members,
    invitations,
    purges,
    tasks,
    workspaces,
)
from services.membership.daily_limits import DailyLimits
from services.membership.guest_sight import Sight
from services.membership.peers import Guests, Identity
from services.membership.servicers.access import AccessService
from services.membership.servicers.activities import ActivityService
from services.membership.servicers.group_bans import GroupBanService
from services.membership.servicers.group_invites import GroupInviteService
from services.membership.servicers.group_members import GroupMemberService
from services.membership.servicers.groups import GroupService
from services.membership.servicers.invitations import InvitationService
from services.membership.servicers.members import MemberService
from services.membership.servicers.role_schemes import RoleSchemeService
from services.membership.servicers.user_groups import UserGroupService
from services.membership.servicers.workspaces import WorkspaceService
from services.membership.settings import MembershipSettings
from services.membership.tables import METADATA
from services.membership.watches import Watches


def build(settings: MembershipSettings) -> Frame:
    """The whole service, not yet started. To be called inside the running loop."""
    frame = Frame(
        "membership",
        settings,
        consumes={
            "guest_redeemed": Consumer({"guest"}, guest_members.apply_redeemed),
            "guest_redemption_abandoned": Consumer({"guest"}, guest_members.apply_abandoned),
            "guest_removed": Consumer({"guest"}, guest_members.apply_removed),
            "guest_promoted": Consumer({"guest"}, guest_members.apply_promoted),
            "user_deleted": Consumer({"identity"}, erasures.apply_deleted),
            "user_disabled": Consumer({"identity"}, erasures.apply_disabled),
            "user_enabled": Consumer({"identity"}, erasures.apply_enabled),
            "activity_recorded": Consumer({"identity", "guest", "messaging"}, activity_intake.apply_recorded),
        },
    )
    identity = Identity(frame.channels["identity"])
    sight = Sight(Guests(frame.channels["guest"]))
    database, secret = frame.database, frame.secret
    served = (
        (group_member_service_pb2_grpc.add_GroupMemberServiceServicer_to_server, GroupMemberService),
        (group_ban_service_pb2_grpc.add_GroupBanServiceServicer_to_server, GroupBanService),
    )
    for add_to_server, servicer in served:
        frame.add(add_to_server, servicer(database, secret, identity))
    frame.add(
        activity_service_pb2_grpc.add_ActivityServiceServicer_to_server,
        ActivityService(database, secret, identity, frame.sessions),
    )
    daily = DailyLimits(
        settings.workspaces_a_day, settings.invitation_mails_of_user, settings.invitation_mails_to_address
    )
    frame.add(
        invitation_service_pb2_grpc.add_InvitationServiceServicer_to_server,
        InvitationService(database, secret, identity, sight=sight, daily=daily),
    )
    served_with_sight = (
        (group_service_pb2_grpc.add_GroupServiceServicer_to_server, GroupService),
        (group_invite_service_pb2_grpc.add_GroupInviteServiceServicer_to_server, GroupInviteService),
        (role_scheme_service_pb2_grpc.add_RoleSchemeServiceServicer_to_server, RoleSchemeService),
        (user_group_service_pb2_grpc.add_UserGroupServiceServicer_to_server, UserGroupService),
        (member_service_pb2_grpc.add_MemberServiceServicer_to_server, MemberService),
    )
    for add, seeing in served_with_sight:
        frame.add(add, seeing(database, secret, identity, sight))
    frame.add(
        workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server,
        WorkspaceService(database, secret, identity, sight=sight, creation=settings.workspace_creation, daily=daily),
    )
    watches = Watches(database, frame.sessions)
    frame.background(watches.run())
    frame.on_drain(watches.drain)
    frame.add(access_service_pb2_grpc.add_AccessServiceServicer_to_server, AccessService(database, watches, sight))
    return frame


async def serve(settings: MembershipSettings) -> None:
    """Answers calls until SIGTERM."""
    await build(settings).run()


def worker(settings: WorkerSettings) -> None:
    """Writes the mails, and removes what deleted workspaces and people leave behind, until SIGTERM."""
    process = Worker("membership", settings)
    process.serve(
        {
            invitations.MAIL: tasks.invitation_mailer(process),
            group_bans.ENDED: tasks.group_ban_ender(process),
            workspaces.PURGE: purges.workspace_purger(process),
            **erasures.works(process),
        },
        sweeps={
            "forget": lambda: tasks.forget(process.database),
            "erase_late": lambda: erasures.sweep(process.database),
        },
    )


if __name__ == "__main__":
    command.run(
        "membership",
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=MembershipSettings,
        worker_settings=WorkerSettings,
    )

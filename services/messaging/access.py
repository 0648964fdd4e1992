"""Who sees what, in one predicate; and what membership and guest must have answered before anything is done."""

from dataclasses import dataclass, replace

from guildhall.guest.v1 import guest_access_service_pb2 as guests_pb
from guildhall.guest.v1 import guest_service_pb2
from guildhall.membership.v1 import access_service_pb2 as access_pb
from guildhall.membership.v1 import member_service_pb2

from services.chassis.call import Call
from services.chassis.errors import NotFound, PermissionDenied
from services.messaging.errors import GuestLocked
from services.messaging.peers import GuestChannels, Guests, Membership

READ = "workspace.read"
SEND = "messages.send"
CREATE = "conversations.create"
MODERATE = "messages.moderate"

VISIBLE = """(
    c.workspace_id = :workspace_id
    AND CASE WHEN CAST(:granted AS uuid[]) IS NOT NULL THEN c.id = ANY(CAST(:granted AS uuid[]))
        ELSE c.visibility = 'public' OR EXISTS (
            SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = :member_id
        ) END
)"""
"""Whether a viewer sees the conversation `c`. Takes what `Viewer.parameters` gives."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody in one workspace, as membership and guest have just described them."""

    workspace_id: str
    user_id: str
    member_id: str
    granted: frozenset[str] | None
    """The conversations granted to a guest; None for a full member."""
    allowed: bool = True
    """Whether they have the capability that was asked for. To be looked at once it is known that they see the thing."""

    @property
    def parameters(self) -> dict[str, object]:
        """What VISIBLE is about."""
        granted = None if self.granted is None else list(self.granted)
        return {"workspace_id": self.workspace_id, "member_id": self.member_id, "granted": granted}


class Access:
    """The questions behind every RPC of messaging, asked afresh each time. No answer is a refusal."""

    def __init__(self, membership: Membership, guests: Guests) -> None:
        self._membership = membership
        self._guests = guests

    async def require_creator(self, call: Call, *, workspace_id: str) -> Viewer:
        """Somebody who may open conversations. NOT_FOUND, PERMISSION_DENIED."""
        verdict = await self._verdict(call, workspace_id, CREATE)
        if is_guest(verdict):
            guest = await self._guests.check(
                workspace_id=workspace_id, member_id=verdict.member_id, deadline=call.deadline
            )
            if has_ended(guest):
                raise NotFound
            raise PermissionDenied
        if not verdict.allowed:
            raise PermissionDenied
        return _full(call, workspace_id, verdict)

    async def require_reader(self, call: Call, *, workspace_id: str, conversation_id: str) -> Viewer:
        """Somebody who reads in the workspace; a guest only with the conversation granted, locked or not. NOT_FOUND."""
        verdict = await self._verdict(call, workspace_id, READ)
        if not verdict.allowed:
            raise NotFound
        if not is_guest(verdict):
            return _full(call, workspace_id, verdict)
        guest = await self._guests.check(
            workspace_id=workspace_id,
            member_id=verdict.member_id,
            conversation_id=conversation_id,
            deadline=call.deadline,
        )
        if has_ended(guest) or not guest.granted:
            raise NotFound
        return Viewer(workspace_id, call.user_id, verdict.member_id, frozenset({conversation_id}))

    async def require_writer(
        self, call: Call, *, workspace_id: str, conversation_id: str, capability: str = SEND
    ) -> Viewer:
        """Somebody who wants to change something in a conversation. NOT_FOUND; GUEST_LOCKED for a guest.

        Whether they have the capability is in the answer: what they do not see comes first.
        """
        verdict = await self._verdict(call, workspace_id, capability)
        if not is_guest(verdict):
            return replace(_full(call, workspace_id, verdict), allowed=verdict.allowed)
        guest = await self._guests.check(
            workspace_id=workspace_id,
            member_id=verdict.member_id,
            conversation_id=conversation_id,
            deadline=call.deadline,
        )
        require_unlocked(guest)
        granted = frozenset({conversation_id})
        return Viewer(workspace_id, call.user_id, verdict.member_id, granted, allowed=verdict.allowed)

    async def is_moderator(self, call: Call, *, workspace_id: str) -> bool:
        """Whether somebody may delete what others brought. NOT_FOUND."""
        verdict = await self._verdict(call, workspace_id, MODERATE)
        return verdict.allowed and not is_guest(verdict)

    async def require_viewer(self, call: Call, *, workspace_id: str) -> Viewer:
        """Somebody who reads in the workspace, with all that is granted to them if they are a guest. NOT_FOUND."""
        return (await self.require_watcher(call, workspace_id=workspace_id))[0]

    async def require_watcher(self, call: Call, *, workspace_id: str) -> tuple[Viewer, int, GuestChannels | None]:
        """A viewer, the access revision that holds for, and for a guest how long guest's word holds. NOT_FOUND."""
        verdict = await self._verdict(call, workspace_id, READ)
        if not verdict.allowed:
            raise NotFound
        if not is_guest(verdict):
            return _full(call, workspace_id, verdict), verdict.access_revision, None
        channels = await self._guests.channels(workspace_id=workspace_id, member_id=verdict.member_id)
        if channels.ended:
            raise NotFound
        viewer = Viewer(workspace_id, call.user_id, verdict.member_id, channels.conversation_ids)
        return viewer, verdict.access_revision, channels

    async def _verdict(self, call: Call, workspace_id: str, capability: str) -> access_pb.AccessVerdict:
        verdict = await self._membership.check_access(
            workspace_id=workspace_id, user_id=call.user_id, capability=capability, deadline=call.deadline
        )
        if not verdict.member_id or verdict.reason == access_pb.ACCESS_REASON_NOT_A_MEMBER:
            raise NotFound
        return verdict


def is_guest(verdict: access_pb.AccessVerdict) -> bool:
    """Whoever is not known to be a full member is taken for a guest, who sees nothing without guest's word."""
    return verdict.kind != member_service_pb2.MEMBER_KIND_FULL


def has_ended(verdict: guests_pb.GuestVerdict) -> bool:
    """True unless guest says that they still may read."""
    return verdict.state not in (guest_service_pb2.GUEST_STATE_ACTIVE, guest_service_pb2.GUEST_STATE_LOCKED)


def require_unlocked(verdict: guests_pb.GuestVerdict) -> None:
    """NOT_FOUND for a guest who has ended or to whom it is not granted, GUEST_LOCKED for one whose time is over."""
    if has_ended(verdict) or not verdict.granted:
        raise NotFound
    if verdict.state == guest_service_pb2.GUEST_STATE_LOCKED:
        lock_time, grace_end_time = verdict.expire_time.ToJsonString(), verdict.grace_end_time.ToJsonString()
        raise GuestLocked(metadata={"lock_time": lock_time, "grace_end_time": grace_end_time})


def _full(call: Call, workspace_id: str, verdict: access_pb.AccessVerdict) -> Viewer:
    return Viewer(workspace_id, call.user_id, verdict.member_id, None)

"""What membership asks: of identity who people are, of guest whom its guests see and where they stand."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import grpc
from guildhall.guest.v1 import guest_access_service_pb2 as guests
from guildhall.guest.v1 import guest_access_service_pb2_grpc as guests_rpc
from guildhall.identity.v1 import user_service_pb2, user_service_pb2_grpc

from services.chassis.channel import ask
from services.chassis.errors import SessionEnded
from services.membership.invitations import Presenter


class Identity:
    """identity, as membership sees it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._users: user_service_pb2_grpc.UserServiceAsyncStub = user_service_pb2_grpc.UserServiceStub(channel)

    async def names(self, user_ids: Iterable[str]) -> Mapping[str, str]:
        """The names of up to 1 000 people by user id; who no longer exists is left out. Errors: PeerUnavailable."""
        return {user.user_id: user.name for user in await self._ask(user_ids)}

    async def presenter(self, user_id: str) -> tuple[Presenter, str]:
        """A caller with their verified address, and their name. Errors: PeerUnavailable; SessionEnded if deleted."""
        found = await self.find(user_id)
        if found is None:
            raise SessionEnded
        return found

    async def find(self, user_id: str) -> tuple[Presenter, str] | None:
        """Anybody with their verified address, and their name; None if nobody has the id. Errors: PeerUnavailable."""
        for user in await self._ask([user_id]):
            verified = user.normalized_email if user.HasField("email_verify_time") else None
            return Presenter(user_id, verified or None), user.name
        return None

    async def is_administrator(self, user_id: str, *, session_id: str) -> bool:
        """Whether a caller is a system administrator, which nobody is by an app's session. Errors: PeerUnavailable."""
        return any(user.system_admin for user in await self._ask([user_id], session_id=session_id))

    async def _ask(self, user_ids: Iterable[str], *, session_id: str = "") -> list[user_service_pb2.User]:
        distinct = list(dict.fromkeys(user_ids))
        if not distinct:
            return []
        request = user_service_pb2.BatchGetUsersRequest(user_ids=distinct, caller_session_id=session_id)
        return list((await ask(self._users.BatchGetUsers, request)).users)


class Guests:
    """guest, as membership sees it. It is asked about callers whose member kind is guest, and about nobody else."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: guests_rpc.GuestAccessServiceAsyncStub = guests_rpc.GuestAccessServiceStub(channel)

    async def check(self, stays: Sequence[tuple[str, str]]) -> Sequence[guests.GuestVerdict]:
        """Where up to 1 000 guests stand, each (workspace, member), in their order. Errors: PeerUnavailable."""
        if not stays:
            return []
        questions = [guests.GuestQuestion(workspace_id=workspace, member_id=member) for workspace, member in stays]
        request = guests.BatchCheckGuestsRequest(questions=questions)
        return (await ask(self._stub.BatchCheckGuests, request)).verdicts

    async def visible(self, workspace_id: str, member_id: str, *, among: Collection[str]) -> frozenset[str]:
        """Those of up to 1 000 member ids that a guest sees; none for one who has ended. Errors: PeerUnavailable."""
        request = guests.FilterVisibleUsersRequest(
            workspace_id=workspace_id, member_id=member_id, candidate_member_ids=sorted(among)
        )
        return frozenset(user.member_id for user in (await ask(self._stub.FilterVisibleUsers, request)).users)

    async def visible_page(self, workspace_id: str, member_id: str, *, after: str, size: int) -> list[str]:
        """The next `size` member ids that a guest sees, fewer only at the end. Errors: PeerUnavailable."""
        request = guests.ListVisibleUsersRequest(
            workspace_id=workspace_id, member_id=member_id, after_member_id=after, page_size=size
        )
        return [user.member_id for user in (await ask(self._stub.ListVisibleUsers, request)).users]

"""guildhall.guest.v1.GuestAccessService."""

from typing import Any

from guildhall.guest.v1 import guest_access_service_pb2 as pb
from guildhall.guest.v1 import guest_access_service_pb2_grpc as rpc
from guildhall.guest.v1 import guest_service_pb2

from services.chassis.database import Database
from services.guest import guests, wire
from services.guest.visibility import Seen, Visibility


class GuestAccessService(rpc.GuestAccessServiceServicer):
    """Decides for the other services. Asks nobody but, about whom a guest sees, one leaf of messaging."""

    def __init__(self, database: Database, visibility: Visibility) -> None:
        self._database = database
        self._visibility = visibility

    async def BatchCheckGuests(self, request: pb.BatchCheckGuestsRequest, context: Any) -> pb.BatchCheckGuestsResponse:
        """One statement for the batch."""
        questions = [(q.workspace_id, q.member_id, q.conversation_id or None) for q in request.questions]
        rows = await self._database.read(lambda tx: guests.check(tx, questions), hot=True)
        return pb.BatchCheckGuestsResponse(verdicts=map(wire.verdict, rows))

    async def ListGuestChannels(
        self, request: pb.ListGuestChannelsRequest, context: Any
    ) -> pb.ListGuestChannelsResponse:
        """Empty and ENDED for anybody who is no guest, or no longer."""
        row = await self._database.read(
            lambda tx: guests.find_seeing(tx, workspace_id=request.workspace_id, member_id=request.member_id)
        )
        if row is None:
            return pb.ListGuestChannelsResponse(state=guest_service_pb2.GUEST_STATE_ENDED)
        return pb.ListGuestChannelsResponse(
            conversation_ids=map(str, row.conversation_ids),
            state=wire.state(row.state),
            holds_for=wire.duration(row.holds_for),
            channels=wire.grants(row),
        )

    async def FilterVisibleUsers(
        self, request: pb.FilterVisibleUsersRequest, context: Any
    ) -> pb.FilterVisibleUsersResponse:
        """Nobody for anybody who is no guest, or no longer."""
        sight = await self._visibility.find_sight(workspace_id=request.workspace_id, member_id=request.member_id)
        if sight is None:
            return pb.FilterVisibleUsersResponse()
        seen = await self._visibility.among(sight, request.candidate_member_ids)
        return pb.FilterVisibleUsersResponse(users=map(_user, seen))

    async def ListVisibleUsers(self, request: pb.ListVisibleUsersRequest, context: Any) -> pb.ListVisibleUsersResponse:
        """Nobody for anybody who is no guest, or no longer."""
        sight = await self._visibility.find_sight(workspace_id=request.workspace_id, member_id=request.member_id)
        if sight is None:
            return pb.ListVisibleUsersResponse()
        seen = await self._visibility.after(
            sight,
            request.after_member_id,
            size=request.page_size,
            conversation_id=request.conversation_id.lower(),
        )
        return pb.ListVisibleUsersResponse(users=map(_user, seen))


def _user(seen: Seen) -> pb.VisibleUser:
    return pb.VisibleUser(member_id=seen.member_id, user_id=seen.user_id)

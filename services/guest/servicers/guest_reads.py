"""guildhall.guest.v1.GuestService: what is shown of guests."""

from typing import Any
from uuid import UUID

from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc

from services.chassis.errors import NotFound
from services.chassis.frame import Frame
from services.guest import guests, wire
from services.guest.access import Access, Standing
from services.guest.servicers.calls import Page
from services.guest.visibility import Visibility


class GuestReadRpcs(rpc.GuestServiceServicer):
    """Shows guests to those who manage them, to their sponsors, and to themselves."""

    def __init__(self, frame: Frame, *, access: Access, visibility: Visibility) -> None:
        self._frame = frame
        self._database = frame.database
        self._access = access
        self._visibility = visibility

    async def GetGuest(self, request: pb.GetGuestRequest, context: Any) -> pb.GetGuestResponse:
        """A guest who has ended too, but not to themselves.

        Asked after the row was read: nothing newer than the permission is shown.
        """
        row = await self._database.read(
            lambda tx: guests.find(tx, workspace_id=request.workspace_id, member_id=request.member_id)
        )
        standing = await self._access.find_standing(request.workspace_id)
        if row is None or standing is None:
            raise NotFound
        if not standing.may_change(str(row.sponsor_member_id)) and standing.member_id != str(row.member_id):
            raise NotFound
        guest = wire.guest(row)
        if standing.is_guest:
            if row.state == "ENDED":
                raise NotFound
            await self._visibility.reduce(guest)
        return pb.GetGuestResponse(guest=guest)

    async def ListGuests(self, request: pb.ListGuestsRequest, context: Any) -> pb.ListGuestsResponse:
        """All to those who manage guests, their own to others who may invite."""
        state = wire.state_name(request.state)
        sponsor = str(UUID(request.sponsor_member_id)) if request.sponsor_member_id else None
        page = Page(self._frame.secret, request, state or "", sponsor or "", str(request.orphaned))

        async def read(standing: Standing) -> Any:
            if not standing.manages and sponsor not in (None, standing.member_id):
                return []
            return await self._database.read(
                lambda tx: guests.list_page(
                    tx,
                    workspace_id=request.workspace_id,
                    state=state,
                    sponsor_member_id=sponsor if standing.manages else standing.member_id,
                    orphaned=request.orphaned,
                    after=page.after,
                    size=page.size + 1,
                )
            )

        rows, token = page.cut(await self._access.read_as_inviter(request.workspace_id, read), "member_id")
        return pb.ListGuestsResponse(guests=map(wire.guest, rows), next_page_token=token)

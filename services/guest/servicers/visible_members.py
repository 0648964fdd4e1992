"""guildhall.guest.v1.GuestService: whom guests see, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from sqlalchemy import Row

from services.chassis.errors import NotFound, PermissionDenied
from services.chassis.frame import Frame
from services.guest import guests
from services.guest.access import Access
from services.guest.peers import Identity
from services.guest.servicers.calls import Page
from services.guest.visibility import Seen, Visibility


class VisibleMemberRpcs(rpc.GuestServiceServicer):
    """Shows a guest the others; tells those who manage guests, and guests of themselves, how it comes about."""

    def __init__(self, frame: Frame, *, access: Access, identity: Identity, visibility: Visibility) -> None:
        self._frame = frame
        self._database = frame.database
        self._access = access
        self._identity = identity
        self._visibility = visibility

    async def ListVisibleMembers(
        self, request: pb.ListVisibleMembersRequest, context: Any
    ) -> pb.ListVisibleMembersResponse:
        """Read, named, then asked once more what is granted: nothing newer than that is shown."""
        page = Page(self._frame.secret, request)
        sight = await self._require_sight(request.workspace_id)
        while True:
            rows = await self._visibility.after(sight, page.after or "", size=page.size + 1)
            cut, token = page.cut(rows, "member_id")
            names = await self._identity.names([seen.user_id for seen in cut])
            present = await self._require_sight(request.workspace_id)
            if present.conversation_ids == sight.conversation_ids:
                return pb.ListVisibleMembersResponse(members=_named(cut, names), next_page_token=token)
            sight = present

    async def ExplainVisibility(
        self, request: pb.ExplainVisibilityRequest, context: Any
    ) -> pb.ExplainVisibilityResponse:
        """The rules in their order, up to the one that decides; what it tells was true before the caller was asked."""
        guest = {"workspace_id": request.workspace_id, "member_id": request.member_id}
        row = await self._database.read(lambda tx: guests.find(tx, **guest))
        explained = await self._explain(guest, request.subject_member_id.lower())
        # The guest learns as little of somebody hidden as of somebody unknown: the last rule says the same of both.
        standing = await self._access.find_standing(request.workspace_id)
        if row is None or standing is None:
            raise NotFound
        if standing.manages or (standing.member_id == str(row.member_id) and row.state != "ENDED"):
            return explained
        raise PermissionDenied if standing.may_change(str(row.sponsor_member_id)) else NotFound

    async def _explain(self, guest: dict[str, str], subject_id: str) -> pb.ExplainVisibilityResponse:
        sight = await self._visibility.find_sight(**guest)
        if sight is None:
            ended = _step(pb.VISIBILITY_RULE_STATE, "who has ended as a guest sees nobody", decides=True)
            return pb.ExplainVisibilityResponse(visible=False, steps=[ended])
        granted = list(map(str, sight.conversation_ids))
        steps = [_step(pb.VISIBILITY_RULE_STATE, f"the guest is {sight.state}, and so sees people")]
        if subject_id == str(sight.member_id):
            steps.append(_step(pb.VISIBILITY_RULE_THEMSELVES, "a guest sees themselves", decides=True))
            return pb.ExplainVisibilityResponse(visible=True, steps=steps)
        steps.append(_step(pb.VISIBILITY_RULE_THEMSELVES, "it is somebody else"))
        if not granted:
            steps.append(_step(pb.VISIBILITY_RULE_GRANTS, "no channel is granted at this instant", decides=True))
            return pb.ExplainVisibilityResponse(visible=False, steps=steps)
        steps.append(_step(pb.VISIBILITY_RULE_GRANTS, "these channels are granted at this instant", *granted))
        shared, takes_part = await self._visibility.shared_channels(sight, subject_id)
        if shared:
            what = "they are a guest to whom these of the channels are granted as well"
            steps.append(_step(pb.VISIBILITY_RULE_FELLOW_GUEST, what, *shared, decides=True))
            return pb.ExplainVisibilityResponse(visible=True, steps=steps)
        steps.append(_step(pb.VISIBILITY_RULE_FELLOW_GUEST, "they are no guest to whom one of them is granted"))
        what = "they take part in one of them" if takes_part else "they take part in none of them"
        steps.append(_step(pb.VISIBILITY_RULE_CO_PARTICIPANT, what, decides=True))
        return pb.ExplainVisibilityResponse(visible=takes_part, steps=steps)

    async def _require_sight(self, workspace_id: str) -> Row[Any]:
        standing = await self._access.require_standing(workspace_id)
        if not standing.is_guest:
            raise PermissionDenied
        sight = await self._visibility.find_sight(workspace_id=workspace_id, member_id=standing.member_id)
        if sight is None:
            raise NotFound
        return sight


def _step(
    rule: pb.VisibilityRule.ValueType, explanation: str, *conversation_ids: str, decides: bool = False
) -> pb.VisibilityStep:
    return pb.VisibilityStep(rule=rule, decides=decides, conversation_ids=conversation_ids, explanation=explanation)


def _named(people: Sequence[Seen], names: Mapping[str, str]) -> list[pb.VisibleMember]:
    return [
        pb.VisibleMember(member_id=seen.member_id, user_id=seen.user_id, name=names.get(seen.user_id, ""))
        for seen in people
    ]

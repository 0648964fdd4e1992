"""What messaging asks of membership and guest. Questions that wait at the same moment travel together."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from guildhall.guest.v1 import guest_access_service_pb2 as guests
from guildhall.guest.v1 import guest_access_service_pb2_grpc as guests_rpc
from guildhall.guest.v1 import guest_service_pb2
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc
from guildhall.membership.v1 import group_member_service_pb2 as group_members
from guildhall.membership.v1 import group_member_service_pb2_grpc as group_members_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.membership.v1 import user_group_service_pb2 as user_groups
from guildhall.membership.v1 import user_group_service_pb2_grpc as user_groups_rpc

from services.chassis.channel import ask
from services.chassis.coalesce import FLUSH_SECONDS, Coalescer

MOST_GROUP_QUESTIONS = 100_000
"""That may wait: one revision that rises has every stream of its workspace ask about each of its groups."""


class Membership:
    """May X do Y? And may it still?"""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: access_rpc.AccessServiceAsyncStub
        self._members: members_rpc.MemberServiceAsyncStub
        self._group_members: group_members_rpc.GroupMemberServiceAsyncStub
        self._user_groups: user_groups_rpc.UserGroupServiceAsyncStub
        self._stub = access_rpc.AccessServiceStub(channel)
        self._members = members_rpc.MemberServiceStub(channel)
        self._group_members = group_members_rpc.GroupMemberServiceStub(channel)
        self._user_groups = user_groups_rpc.UserGroupServiceStub(channel)
        self._questions: Coalescer[access.AccessQuestion, access.AccessVerdict] = Coalescer(self.decide, name="access")
        # Apart: a batch that holds a question about a group costs half as much again for each of the others.
        self._group_questions: Coalescer[access.AccessQuestion, access.AccessVerdict] = Coalescer(
            self.decide, name="access_in_groups", queue_limit=MOST_GROUP_QUESTIONS
        )
        self._workspaces: Coalescer[str, int] = Coalescer(self._read_revisions, name="access_revisions")

    async def check_access(
        self, *, workspace_id: str, user_id: str, capability: str, deadline: float
    ) -> access.AccessVerdict:
        """Whether a person may do something, with the access revision that the verdict holds for."""
        question = access.AccessQuestion(workspace_id=workspace_id, user_id=user_id, capability=capability)
        return await self._questions.ask(question, deadline=deadline)

    async def check_in_group(
        self, *, workspace_id: str, user_id: str, group_id: str, capability: str, deadline: float
    ) -> access.AccessVerdict:
        """The same in a group; it also says whether they are in the group itself."""
        question = access.AccessQuestion(
            workspace_id=workspace_id, user_id=user_id, group_id=group_id, capability=capability
        )
        return await self._group_questions.ask(question, deadline=deadline)

    async def find_members(self, member_ids: Collection[str], *, workspace_id: str) -> Sequence[members.Member]:
        """The members who exist, suspended ones and guests too, in no particular order."""
        request = members.BatchGetMembersRequest(workspace_id=workspace_id, member_ids=member_ids)
        return (await ask(self._members.BatchGetMembers, request)).members

    async def list_group(self, group_id: str, *, workspace_id: str) -> dict[str, str] | None:
        """The person behind each member of a group itself, without the suspended and banned; None without a group."""
        found: dict[str, str] = {}
        after = ""
        while True:
            request = group_members.BatchListGroupMembersRequest(
                workspace_id=workspace_id, group_ids=[group_id], after_member_id=after
            )
            (group,) = (await ask(self._group_members.BatchListGroupMembers, request)).groups
            if not group.exists:
                return None
            found |= {member.member_id: member.user_id for member in group.group_members}
            if not group.has_more:
                return found
            after = group.group_members[-1].member_id

    async def expand_handles(
        self, handles: Collection[str], *, workspace_id: str
    ) -> Sequence[user_groups.ExpandedHandle]:
        """Whom handles stand for, in their order; nobody for those that nobody has."""
        request = user_groups.ExpandHandlesRequest(workspace_id=workspace_id, handles=handles)
        return (await ask(self._user_groups.ExpandHandles, request)).expanded

    async def access_revision(self, workspace_id: str, *, deadline: float) -> int:
        """The workspace's access revision at this instant; 0 if there is no such workspace."""
        return await self._workspaces.ask(workspace_id, deadline=deadline)

    async def decide(
        self, questions: Sequence[access.AccessQuestion], timeout_seconds: float
    ) -> Sequence[access.AccessVerdict]:
        """The verdicts on a whole batch, in its order."""
        request = access.BatchCheckAccessRequest(questions=questions)
        return (await ask(self._stub.BatchCheckAccess, request, timeout_seconds=timeout_seconds)).verdicts

    async def _read_revisions(self, workspace_ids: Sequence[str], timeout_seconds: float) -> Sequence[int]:
        distinct = list(dict.fromkeys(workspace_ids))
        request = access.GetAccessRevisionsRequest(workspace_ids=distinct)
        answer = await ask(self._stub.GetAccessRevisions, request, timeout_seconds=timeout_seconds)
        revisions = dict(zip(distinct, answer.access_revisions, strict=True))
        return [revisions[workspace_id] for workspace_id in workspace_ids]


Grants = Mapping[str, datetime | None]
"""The channels granted to a guest, and from when on each is seen; None for the whole history."""

MOST_CANDIDATES = 1_000


@dataclass(frozen=True, slots=True)
class GuestChannels:
    """What a guest sees, and until when that is known without asking again."""

    grants: Grants
    ended: bool
    holds_until: float
    """On time.monotonic()'s clock, never later than the database's own."""
    until: datetime | None = None
    """When the first of the grants ends by itself."""


class Guests:
    """Where does a guest stand, and which channels are granted to them?"""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: guests_rpc.GuestAccessServiceAsyncStub
        self._stub = guests_rpc.GuestAccessServiceStub(channel)
        self._questions: Coalescer[guests.GuestQuestion, guests.GuestVerdict] = Coalescer(self.decide, name="guests")

    async def check(
        self, *, workspace_id: str, member_id: str, conversation_id: str = "", deadline: float
    ) -> guests.GuestVerdict:
        """A guest's state, and whether the channel is granted to them. Somebody unknown is ENDED."""
        question = guests.GuestQuestion(workspace_id=workspace_id, member_id=member_id, conversation_id=conversation_id)
        return await self._questions.ask(question, deadline=deadline)

    async def channels(
        self, *, workspace_id: str, member_id: str, timeout_seconds: float = FLUSH_SECONDS
    ) -> GuestChannels:
        """The channels granted to a guest; none once they have ended."""
        asked_at = time.monotonic()
        request = guests.ListGuestChannelsRequest(workspace_id=workspace_id, member_id=member_id)
        answer = await ask(self._stub.ListGuestChannels, request, timeout_seconds=timeout_seconds)
        ended = answer.state not in (guest_service_pb2.GUEST_STATE_ACTIVE, guest_service_pb2.GUEST_STATE_LOCKED)
        channels = [] if ended else answer.channels
        ends = [each.expire_time.ToDatetime(tzinfo=UTC) for each in channels if each.HasField("expire_time")]
        return GuestChannels(
            grants={each.conversation_id: history_start(each) for each in channels},
            ended=ended,
            holds_until=asked_at + answer.holds_for.ToTimedelta().total_seconds(),
            until=min(ends, default=None),
        )

    async def visible(self, member_ids: Collection[str], *, workspace_id: str, member_id: str) -> frozenset[str]:
        """Those of some members whom a guest sees at this instant, themselves too; nobody once they have ended."""
        asked = sorted(member_ids)
        found: set[str] = set()
        for start in range(0, len(asked), MOST_CANDIDATES):
            request = guests.FilterVisibleUsersRequest(
                workspace_id=workspace_id,
                member_id=member_id,
                candidate_member_ids=asked[start : start + MOST_CANDIDATES],
            )
            found |= {user.member_id for user in (await ask(self._stub.FilterVisibleUsers, request)).users}
        return frozenset(found)

    async def list_sharing(
        self, *, workspace_id: str, member_id: str, conversation_id: str, after: str, size: int
    ) -> Sequence[guests.VisibleUser]:
        """The next of those who share a channel with a guest, and themselves, by member id."""
        request = guests.ListVisibleUsersRequest(
            workspace_id=workspace_id,
            member_id=member_id,
            conversation_id=conversation_id,
            after_member_id=after,
            page_size=size,
        )
        return (await ask(self._stub.ListVisibleUsers, request)).users

    async def decide(
        self, questions: Sequence[guests.GuestQuestion], timeout_seconds: float
    ) -> Sequence[guests.GuestVerdict]:
        """Where the guests of a whole batch stand, in its order."""
        request = guests.BatchCheckGuestsRequest(questions=questions)
        return (await ask(self._stub.BatchCheckGuests, request, timeout_seconds=timeout_seconds)).verdicts


def history_start(granted: guest_service_pb2.GuestChannel | guests.GuestVerdict) -> datetime | None:
    """From when on a guest sees a channel; None for the whole history."""
    if not granted.HasField("history_start_time"):
        return None
    return granted.history_start_time.ToDatetime(tzinfo=UTC)

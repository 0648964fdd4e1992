"""The ways in which access to a conversation is lost, each by the RPC that a client would call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invites_rpc
from guildhall.guest.v1 import guest_service_pb2 as guests
from guildhall.guest.v1 import guest_service_pb2_grpc as guests_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import member_service_pb2_grpc as members_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc

from tests.faults.people import Person
from tests.faults.witnesses import Witness

EXPIRED, POLICY, SHARED_LEFT = "guest's grace ended", "guest policy tightened", "member left the shared channel"
PROMOTED, REPLACED = "guest promoted, then taken out", "guest's grace ended, then let in to another channel"
LOCK_GUESTS = """
    UPDATE guest.guests SET expire_at = created_at, grace_end_at = created_at + interval '24 hours'
    WHERE member_id = ANY(CAST(%s AS uuid[]))
"""
_SOON = timedelta(seconds=2)
_TOLD_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where access is taken away, and by whom. Repetitions have the same request id."""

    owner: Person
    workspace_id: str
    conversation_id: str
    channel_id: str
    request_id: str
    end_grace: Callable[[str], Awaitable[None]]
    """Has the clock end a guest."""
    other_link: str
    """Lets guests in to another channel."""

    async def ask(self, stub: Any, request: Any, *, by: Person | None = None) -> None:
        """The RPC of a request, in this workspace."""
        method = type(request).__name__.removesuffix("Request")
        # What names a time is another request each time.
        request.request_id = "" if method == "GrantChannel" else self.request_id
        await (by or self.owner).call(stub, method, request)


Take = Callable[[Place, Witness], Awaitable[float]]
"""Takes access away; returns how many seconds after the answer it is lost."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One way, of whom, and what it leaves them: see Witness."""

    name: str
    of: str
    keeps: str
    take: Take


def _of_member(request_class: Any) -> Take:
    async def take(place: Place, witness: Witness) -> float:
        request = request_class(workspace_id=place.workspace_id, member_id=witness.member_id)
        await place.ask(members_rpc.MemberServiceStub, request)
        return 0.0

    return take


async def _leave(place: Place, witness: Witness) -> float:
    request = conversations.LeaveConversationRequest(**_conversation(place))
    await place.ask(conversations_rpc.ConversationServiceStub, request, by=witness.person)
    return 0.0


async def _take_out(place: Place, witness: Witness) -> float:
    request = conversations.RemoveParticipantRequest(**_conversation(place), member_id=witness.member_id)
    await place.ask(conversations_rpc.ConversationServiceStub, request)
    return 0.0


async def _leave_shared(place: Place, _witness: Witness) -> float:
    request = conversations.LeaveConversationRequest(workspace_id=place.workspace_id, conversation_id=place.channel_id)
    await place.ask(conversations_rpc.ConversationServiceStub, request)
    return 0.0


async def _remove_guest(place: Place, witness: Witness) -> float:
    request = guests.RemoveGuestRequest(workspace_id=place.workspace_id, member_id=witness.member_id)
    await place.ask(guests_rpc.GuestServiceStub, request)
    return 0.0


async def _revoke(place: Place, witness: Witness) -> float:
    request = guests.RevokeChannelRequest(**_conversation(place), member_id=witness.member_id)
    await place.ask(guests_rpc.GuestServiceStub, request)
    return 0.0


async def _shorten_grant(place: Place, witness: Witness) -> float:
    request = guests.GrantChannelRequest(
        **_conversation(place), member_id=witness.member_id, expire_time=_from_now(_SOON)
    )
    await place.ask(guests_rpc.GuestServiceStub, request)
    # From before the call, so it is over by then.
    return _SOON.total_seconds()


async def _move_history(place: Place, witness: Witness) -> float:
    request = guests.GrantChannelRequest(
        **_conversation(place), member_id=witness.member_id, history_start_time=_from_now(timedelta(hours=1))
    )
    await place.ask(guests_rpc.GuestServiceStub, request)
    return 0.0


async def _promote(place: Place, witness: Witness) -> float:
    """As a full member they take part; from when they are taken out, nothing that was granted to them counts."""
    place_of_guest = {"workspace_id": place.workspace_id, "member_id": witness.member_id}
    request = guests.PromoteGuestRequest(**place_of_guest, role=guests.PROMOTED_ROLE_MEMBER)
    await place.ask(guests_rpc.GuestServiceStub, request)
    give_up = time.monotonic() + _TOLD_SECONDS
    while True:
        try:
            return await _take_out(place, witness)
        except grpc.aio.AioRpcError as error:
            # messaging is told of the promotion by an event.
            if error.code() != grpc.StatusCode.NOT_FOUND or time.monotonic() > give_up:
                raise
        await asyncio.sleep(0.05)


async def _replace(place: Place, witness: Witness) -> float:
    await place.end_grace(witness.member_id)
    request = invites.RedeemGuestInviteRequest(token=place.other_link)
    await place.ask(invites_rpc.GuestInviteServiceStub, request, by=witness.person)
    return 0.0


async def _tighten(place: Place, _witness: Witness) -> float:
    policy = guests.GuestPolicy(workspace_id=place.workspace_id, grace=Duration())
    request = guests.UpdateGuestPolicyRequest(policy=policy, update_mask=FieldMask(paths=["grace"]))
    await place.ask(guests_rpc.GuestServiceStub, request)
    return 0.0


async def _never(_place: Place, _witness: Witness) -> float:
    raise AssertionError("the clock alone ends it")


LOSSES = (
    Loss("member removed", "member", "", _of_member(members.RemoveMemberRequest)),
    Loss("member banned", "member", "", _of_member(members.BanMemberRequest)),
    Loss("member suspended", "member", "", _of_member(members.SuspendMemberRequest)),
    Loss("member left the private channel", "member", "workspace", _leave),
    Loss("member taken out of the private channel", "member", "workspace", _take_out),
    Loss("guest removed", "guest", "", _remove_guest),
    Loss("guest removed as a member", "guest", "", _of_member(members.RemoveMemberRequest)),
    Loss("channel revoked", "guest", "workspace", _revoke),
    Loss("channel's expiry shortened, and passed", "guest", "workspace", _shorten_grant),
    Loss("history start moved", "guest", "conversation", _move_history),
    Loss(POLICY, "guest", "", _tighten),
    Loss(EXPIRED, "guest", "", _never),
    Loss(PROMOTED, "guest", "workspace", _promote),
    Loss(REPLACED, "guest", "workspace", _replace),
    Loss(SHARED_LEFT, "direct", "workspace", _leave_shared),
)


def _conversation(place: Place) -> dict[str, str]:
    return {"workspace_id": place.workspace_id, "conversation_id": place.conversation_id}


def _from_now(span: timedelta) -> Timestamp:
    wired = Timestamp()
    wired.GetCurrentTime()
    wired.FromNanoseconds(wired.ToNanoseconds() + int(span.total_seconds() * 1e9))
    return wired

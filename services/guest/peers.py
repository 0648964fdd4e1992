"""What guest asks of identity, membership and messaging, in its own words."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import grpc
from guildhall.identity.v1 import user_service_pb2 as users
from guildhall.identity.v1 import user_service_pb2_grpc
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc, member_service_pb2_grpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc

from services.chassis.call import current_call
from services.chassis.channel import ask
from services.chassis.coalesce import Coalescer
from services.chassis.errors import LimitReached, NotFound, Unauthenticated, info_of


@dataclass(frozen=True, slots=True)
class Rights:
    """What somebody in a workspace may do, as far as guests go."""

    member_id: str
    is_guest: bool
    manages: bool
    invites: bool
    creates: bool
    """Conversations: what the policy may let them invite by."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace's name, and some of its active members: user ids by member id."""

    name: str
    user_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Addressee:
    """Somebody to be written to."""

    name: str
    email: str
    """As they wrote it; empty if it is not verified."""


class Identity:
    """identity: who people are."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._users: user_service_pb2_grpc.UserServiceAsyncStub
        self._users = user_service_pb2_grpc.UserServiceStub(channel)

    async def verified_email(self, user_id: str) -> str:
        """Somebody's verified address, normalised; empty if they have none."""
        answer = await ask(self._users.BatchGetUsers, users.BatchGetUsersRequest(user_ids=[user_id]))
        return next((user.normalized_email for user in answer.users if user.HasField("email_verify_time")), "")

    async def addressees(self, user_ids: Collection[str]) -> Mapping[str, Addressee]:
        """Up to 1 000 people by user id; who no longer exists is left out."""
        return {
            user.user_id: Addressee(user.name, user.email if user.HasField("email_verify_time") else "")
            for user in await self._ask(user_ids)
        }

    async def names(self, user_ids: Collection[str]) -> Mapping[str, str]:
        """The names of up to 1 000 people by user id; who no longer exists is left out."""
        return {user.user_id: user.name for user in await self._ask(user_ids)}

    async def _ask(self, user_ids: Collection[str]) -> Sequence[users.User]:
        if not user_ids:
            return []
        request = users.BatchGetUsersRequest(user_ids=list(dict.fromkeys(user_ids)))
        return (await ask(self._users.BatchGetUsers, request)).users


class Membership:
    """membership: may X do Y, and the member behind a guest."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._access: access_service_pb2_grpc.AccessServiceAsyncStub
        self._members: member_service_pb2_grpc.MemberServiceAsyncStub
        self._access = access_service_pb2_grpc.AccessServiceStub(channel)
        self._members = member_service_pb2_grpc.MemberServiceStub(channel)
        self._queue: Coalescer[access.AccessQuestion, access.AccessVerdict] = Coalescer(self._check, name="access")

    async def rights(self, workspace_id: str, *, user_id: str = "", member_id: str = "") -> Rights | None:
        """What a person, or somebody in one stay of theirs, may do; None for who is no active member."""
        subject = {"member_id": member_id} if member_id else {"user_id": user_id}
        manages, invites, creates = await asyncio.gather(
            *(
                self._ask(access.AccessQuestion(workspace_id=workspace_id, capability=capability, **subject))
                for capability in ("guests.manage", "guests.invite", "conversations.create")
            )
        )
        verdicts = (manages, invites, creates)
        if any(each.reason == access.ACCESS_REASON_NOT_A_MEMBER or not each.member_id for each in verdicts):
            return None
        # Whoever is not known to be a full member has the rights of a guest.
        is_guest = any(each.kind != members.MEMBER_KIND_FULL for each in verdicts)
        return Rights(
            member_id=manages.member_id,
            is_guest=is_guest,
            manages=manages.allowed and not is_guest,
            invites=invites.allowed and not is_guest,
            creates=creates.allowed and not is_guest,
        )

    async def is_disabled(self, *, workspace_id: str, member_id: str) -> bool:
        """Whether somebody is kept out by identity, so that the rights which are theirs still are of no use."""
        request = members.BatchGetMembersRequest(workspace_id=workspace_id, member_ids=[member_id])
        return bool((await ask(self._members.BatchGetMembers, request)).disabled_member_ids)

    async def is_active(self, *, workspace_id: str, member_id: str) -> bool:
        """Whether somebody is a member now, and not suspended."""
        question = access.AccessQuestion(workspace_id=workspace_id, member_id=member_id, capability="workspace.read")
        return (await self._ask(question)).allowed

    async def workspace(self, workspace_id: str, *, member_ids: Collection[str]) -> Workspace:
        """The name, and those of the members who are there, not suspended and not kept out by identity."""
        request = members.BatchGetMembersRequest(workspace_id=workspace_id, member_ids=member_ids)
        answer = await ask(self._members.BatchGetMembers, request)
        disabled = set(answer.disabled_member_ids)
        active = (
            member
            for member in answer.members
            if member.state == members.MEMBER_STATE_ACTIVE and member.member_id not in disabled
        )
        return Workspace(answer.workspace_name, {member.member_id: member.user_id for member in active})

    async def bump_access_revision(self, workspace_id: str, *, event_id: str) -> None:
        """Has every verdict about the workspace asked anew; once for each event. A deleted workspace needs none."""
        request = access.BumpAccessRevisionRequest(workspace_id=workspace_id, event_id=event_id)
        try:
            await ask(self._access.BumpAccessRevision, request)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise

    async def remove_guest_member(self, *, workspace_id: str, member_id: str, actor_user_id: str) -> None:
        """Ends a guest's membership; who is gone, or a full member, is left alone."""
        request = members.RemoveGuestMemberRequest(
            workspace_id=workspace_id, member_id=member_id, actor_user_id=actor_user_id
        )
        await ask(self._members.RemoveGuestMember, request)

    async def make_full_member(self, *, workspace_id: str, member_id: str, role: str, actor_user_id: str) -> None:
        """Makes a guest a full member; who is one already is left alone, and so is who is gone."""
        request = members.ChangeMemberKindRequest(
            workspace_id=workspace_id,
            member_id=member_id,
            kind=members.MEMBER_KIND_FULL,
            role=members.Role.Value(f"ROLE_{role.upper()}"),
            actor_user_id=actor_user_id,
        )
        try:
            await ask(self._members.ChangeMemberKind, request)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise

    async def add_guest_member(
        self, *, workspace_id: str, user_id: str, redemption_id: str, normalized_email: str
    ) -> members.Member:
        """The caller as a pending guest, or as the member they are already.

        NOT_FOUND if there is no such workspace, or it keeps them out; LIMIT_REACHED.
        """
        request = members.AddGuestMemberRequest(
            workspace_id=workspace_id,
            user_id=user_id,
            redemption_id=redemption_id,
            normalized_email=normalized_email,
        )
        try:
            return (await ask(self._members.AddGuestMember, request, for_user=True)).member
        except grpc.aio.AioRpcError as error:
            raise _refusal_to_add(error) from error

    async def confirm_guest_member(self, *, workspace_id: str, member_id: str) -> bool:
        """Makes a pending guest a member; False if they were taken away."""
        request = members.ConfirmGuestMemberRequest(workspace_id=workspace_id, member_id=member_id)
        try:
            await ask(self._members.ConfirmGuestMember, request)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _ask(self, question: access.AccessQuestion) -> access.AccessVerdict:
        return await self._queue.ask(question, deadline=current_call().deadline)

    async def _check(
        self, questions: Sequence[access.AccessQuestion], timeout_seconds: float
    ) -> Sequence[access.AccessVerdict]:
        request = access.BatchCheckAccessRequest(questions=questions)
        return (await ask(self._access.BatchCheckAccess, request, timeout_seconds=timeout_seconds)).verdicts


class Messaging:
    """messaging: which channels there are."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._conversations: conversation_service_pb2_grpc.ConversationServiceAsyncStub
        self._conversations = conversation_service_pb2_grpc.ConversationServiceStub(channel)

    async def sees_channels(self, conversation_ids: Collection[str], *, workspace_id: str, member_id: str) -> bool:
        """Whether every one of the channels is there and a full member sees it."""
        request = conversations.BatchGetConversationsRequest(
            workspace_id=workspace_id, conversation_ids=conversation_ids, member_id=member_id
        )
        answer = await ask(self._conversations.BatchGetConversations, request)
        return {found.conversation_id for found in answer.conversations} >= set(conversation_ids)

    async def co_participants(
        self,
        workspace_id: str,
        *,
        conversation_ids: Collection[str],
        among: Collection[str],
        after_member_id: str,
        size: int,
    ) -> Sequence[tuple[str, str]]:
        """Member and user ids of up to 1 000 who take part in one of up to 200 conversations, by member id.

        Only those among some members, if any are named.
        """
        request = conversations.ListCoParticipantsRequest(
            workspace_id=workspace_id,
            conversation_ids=conversation_ids,
            member_ids=among,
            after_member_id=after_member_id,
            page_size=size,
        )
        answer = await ask(self._conversations.ListCoParticipants, request)
        return [(found.member_id, found.user_id) for found in answer.participants]


def _refusal_to_add(error: grpc.aio.AioRpcError) -> Exception:
    """What membership's refusal to add a guest means here."""
    info = info_of(error)
    # Who is banned learns as little as from a link that is unknown.
    if error.code() == grpc.StatusCode.NOT_FOUND or info.reason == "BANNED":
        return NotFound()
    if info.reason == "LIMIT_REACHED":
        return LimitReached(info.metadata["limit"], most=int(info.metadata["most"]))
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        # The forwarded token ran out on the way.
        return Unauthenticated()
    return error

"""What guest asks of identity, membership and messaging, in its own words."""

from collections.abc import Collection, Sequence

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


class Identity:
    """identity: who people are."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._users: user_service_pb2_grpc.UserServiceAsyncStub
        self._users = user_service_pb2_grpc.UserServiceStub(channel)

    async def verified_email(self, user_id: str) -> str:
        """Somebody's verified address, normalised; empty if they have none."""
        answer = await ask(self._users.BatchGetUsers, users.BatchGetUsersRequest(user_ids=[user_id]))
        return next((user.normalized_email for user in answer.users if user.HasField("email_verify_time")), "")


class Membership:
    """membership: may X do Y, and the member behind a guest."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._access: access_service_pb2_grpc.AccessServiceAsyncStub
        self._members: member_service_pb2_grpc.MemberServiceAsyncStub
        self._access = access_service_pb2_grpc.AccessServiceStub(channel)
        self._members = member_service_pb2_grpc.MemberServiceStub(channel)
        self._queue: Coalescer[access.AccessQuestion, access.AccessVerdict] = Coalescer(self._check)

    async def may_user(self, capability: str, *, workspace_id: str, user_id: str) -> access.AccessVerdict:
        """Whether a person may do something."""
        return await self._ask(access.AccessQuestion(workspace_id=workspace_id, user_id=user_id, capability=capability))

    async def may_member(self, capability: str, *, workspace_id: str, member_id: str) -> bool:
        """Whether somebody may do something in one stay of theirs."""
        question = access.AccessQuestion(workspace_id=workspace_id, member_id=member_id, capability=capability)
        return (await self._ask(question)).allowed

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

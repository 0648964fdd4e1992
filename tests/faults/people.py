"""The people of the tests: they sign up, sign in, make workspaces and invite each other, all through the gateway."""

import asyncio
import email
import email.policy
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.guest.v1 import guest_invite_service_pb2 as invites
from guildhall.guest.v1 import guest_invite_service_pb2_grpc as invites_rpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc

from tests.faults.cluster import Cluster

PASSWORD = "a long enough password"
CALL_SECONDS = 10
_FRESH_SECONDS = 100
_TRIES = 20
_PAUSE_SECONDS = 0.5
_TOKEN = re.compile(r"Token: (\S+)")


@dataclass
class Person:
    """Somebody who is signed in, with a connection of their own to the gateway."""

    user_id: str
    email: str
    channel: grpc.aio.Channel
    session_token: str = field(repr=False)
    access_token: str = field(repr=False)
    signed_at: float = field(default_factory=time.monotonic)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What they send with each call."""
        return (("authorization", f"Bearer {self.access_token}"),)

    async def call(self, stub: Any, method: str, request: Any, *, seconds: float | None = CALL_SECONDS) -> Any:
        """One call, without a deadline if `seconds` is None; a refusal raises grpc.aio.AioRpcError."""
        return await getattr(stub(self.channel), method)(request, timeout=seconds, metadata=self.metadata)

    async def refresh(self) -> None:
        """Gets a new access token, unless the present one is young.

        For calm times only: an answer that is lost for more than ten seconds ends the session.
        """
        if time.monotonic() - self.signed_at < _FRESH_SECONDS:
            return
        stub = auth_rpc.AuthServiceStub(self.channel)
        answer = await stub.RefreshSession(
            auth.RefreshSessionRequest(session_token=self.session_token), timeout=CALL_SECONDS
        )
        self.session_token, self.access_token = answer.tokens.session_token, answer.tokens.access_token
        self.signed_at = time.monotonic()


class Mailbox:
    """The mails that the suite writes, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._tokens: dict[str, list[str]] = {}

    async def token(self, address: str, *, seconds: float = 60) -> str:
        """The oldest token mailed to an address that nobody has taken yet."""
        deadline = time.monotonic() + seconds
        while not self._tokens.get(address):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no mail with a token came to {address} in {seconds:.0f} s")
            self._read()
            await asyncio.sleep(0.02)
        return self._tokens[address].pop(0)

    def _read(self) -> None:
        for path in sorted(self._folder.glob("*.eml")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                body = message.get_body(("plain",))
                if body is not None and (found := _TOKEN.search(body.get_content())):
                    self._tokens.setdefault(str(message["To"]), []).append(found[1])


class People:
    """Everybody that the scenarios have needed so far; they are used again."""

    def __init__(self, cluster: Cluster) -> None:
        self.mailbox = Mailbox(cluster.settings.layout.mail)
        self._address = cluster.settings.gateway_address
        self._known: list[Person] = []

    async def take(self, count: int) -> Sequence[Person]:
        """So many people, with tokens that last."""
        while len(self._known) < count:
            wanted = min(6, count - len(self._known))
            self._known += await asyncio.gather(*(self._sign_up() for _ in range(wanted)))
        for person in self._known[:count]:
            await person.refresh()
        return self._known[:count]

    def open_channel(self) -> grpc.aio.Channel:
        """A connection of its own to the gateway."""
        return open_channel(self._address)

    async def close(self) -> None:
        """Closes every connection."""
        for person in self._known:
            await person.channel.close()

    async def _sign_up(self) -> Person:
        address, channel = f"p-{uuid.uuid4().hex}@example.com", self.open_channel()
        stub = auth_rpc.AuthServiceStub(channel)
        await _patiently(stub.SignUp, auth.SignUpRequest(email=address, password=PASSWORD, name="P"))
        token = await self.mailbox.token(address)
        await _patiently(stub.VerifyEmail, auth.VerifyEmailRequest(token=token))
        answer = await _patiently(stub.SignIn, auth.SignInRequest(email=address, password=PASSWORD))
        tokens = answer.tokens
        return Person(answer.user.user_id, address, channel, tokens.session_token, tokens.access_token)


async def _patiently(rpc: Any, request: Any) -> Any:
    """A call that is made again while the gateway says that there is too much to do: on a busy machine it may be."""
    for tries_left in range(_TRIES, -1, -1):
        try:
            return await rpc(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE) or not tries_left:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
    raise AssertionError("the last try returns or raises")


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel that shares its connection with no other, and is back soon after a break."""
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # for an attempt: on a busy machine it may take long
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    return grpc.aio.insecure_channel(address, options=options)


async def make_workspace(owner: Person) -> str:
    """A workspace; its id."""
    request = workspaces.CreateWorkspaceRequest(name="Faults", request_id=str(uuid.uuid4()))
    made = await owner.call(workspaces_rpc.WorkspaceServiceStub, "CreateWorkspace", request)
    return str(made.workspace.workspace_id)


async def make_channels(owner: Person, workspace_id: str, count: int) -> list[str]:
    """Public channels; their ids."""
    made = []
    for number in range(count):
        request = conversations.CreateChannelRequest(
            workspace_id=workspace_id,
            name=f"channel {number}",
            visibility=conversations.VISIBILITY_PUBLIC,
            request_id=str(uuid.uuid4()),
        )
        answer = await owner.call(conversations_rpc.ConversationServiceStub, "CreateChannel", request)
        made.append(str(answer.conversation.conversation_id))
    return made


async def join_by_mail(people: People, owner: Person, joining: Person, workspace_id: str) -> str:
    """Has somebody invited as a full member and accept; their member id."""
    request = invitations.CreateInvitationRequest(
        workspace_id=workspace_id, email=joining.email, role=members.ROLE_MEMBER, request_id=str(uuid.uuid4())
    )
    await owner.call(invitations_rpc.InvitationServiceStub, "CreateInvitation", request)
    token = await people.mailbox.token(joining.email)
    accept = invitations.AcceptInvitationRequest(token=token, request_id=str(uuid.uuid4()))
    joined = await joining.call(invitations_rpc.InvitationServiceStub, "AcceptInvitation", accept)
    return str(joined.member.member_id)


async def make_guest_link(owner: Person, workspace_id: str, conversation_id: str) -> str:
    """A link that makes any number of people guests of one channel for an hour; its token."""
    request = invites.CreateGuestInviteRequest(
        workspace_id=workspace_id, conversation_ids=[conversation_id], request_id=str(uuid.uuid4())
    )
    request.guest_ttl.FromTimedelta(timedelta(hours=1))
    answer = await owner.call(invites_rpc.GuestInviteServiceStub, "CreateGuestInvite", request)
    return str(answer.token)


async def join_by_link(joining: Person, token: str) -> str:
    """Makes somebody a guest; their member id."""
    redeem = invites.RedeemGuestInviteRequest(token=token, request_id=str(uuid.uuid4()))
    redeemed = await joining.call(invites_rpc.GuestInviteServiceStub, "RedeemGuestInvite", redeem)
    return str(redeemed.guest.member_id)


async def take_part(joining: Person, workspace_id: str, conversation_id: str) -> None:
    """Has a member join a channel."""
    place = {"workspace_id": workspace_id, "conversation_id": conversation_id}
    join = conversations.JoinConversationRequest(**place, request_id=str(uuid.uuid4()))
    await joining.call(conversations_rpc.ConversationServiceStub, "JoinConversation", join)


async def make_private(owner: Person, workspace_id: str, conversation_id: str) -> None:
    """Makes a channel private."""
    wanted = conversations.Conversation(
        workspace_id=workspace_id, conversation_id=conversation_id, visibility=conversations.VISIBILITY_PRIVATE
    )
    request = conversations.UpdateConversationRequest(
        conversation=wanted, update_mask=FieldMask(paths=["visibility"]), request_id=str(uuid.uuid4())
    )
    await owner.call(conversations_rpc.ConversationServiceStub, "UpdateConversation", request)


async def open_direct(owner: Person, workspace_id: str, *member_ids: str) -> str:
    """A direct conversation; its id."""
    request = conversations.OpenDirectConversationRequest(
        workspace_id=workspace_id, member_ids=member_ids, request_id=str(uuid.uuid4())
    )
    answer = await owner.call(conversations_rpc.ConversationServiceStub, "OpenDirectConversation", request)
    return str(answer.conversation.conversation_id)

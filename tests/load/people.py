"""The people who make the load: signed up through the gateway, invited by mail, members of one workspace."""

import asyncio
import email
import email.policy
import re
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import invitation_service_pb2 as invitations
from guildhall.membership.v1 import invitation_service_pb2_grpc as invitations_rpc
from guildhall.membership.v1 import member_service_pb2 as members
from guildhall.membership.v1 import workspace_service_pb2 as workspaces
from guildhall.membership.v1 import workspace_service_pb2_grpc as workspaces_rpc
from guildhall.messaging.v1 import conversation_service_pb2 as conversations
from guildhall.messaging.v1 import conversation_service_pb2_grpc as conversations_rpc

from tests.load.system import System
from tests.load.wire import bearer, open_channels

CHANNELS = 50
_AT_ONCE = 8
_CALL_SECONDS = 15
_MAIL_SECONDS = 60
_FRESH_SECONDS = 45
"""Tokens last five minutes, and the longest job four."""
PASSWORD = "a password for one run"
_TOKEN = re.compile(r"Token: (\S+)")


@dataclass
class Person:
    """A member of the crowd, signed in."""

    email: str
    user_id: str
    member_id: str = ""
    access_token: str = ""
    session_token: str = ""
    refreshed_at: float = 0.0

    def take(self, tokens: auth.SessionTokens) -> None:
        """Use these tokens from now on."""
        self.access_token, self.session_token = tokens.access_token, tokens.session_token
        self.refreshed_at = time.monotonic()


class Mailbox:
    """The suite's mail folder. Each mail is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[str] = set()
        self._tokens: dict[str, list[str]] = {}

    async def token(self, address: str, number: int) -> str:
        """The token in the nth mail to an address that has one, from 1."""
        over = time.monotonic() + _MAIL_SECONDS
        while len(self._tokens.get(address, ())) < number:
            if time.monotonic() > over:
                raise TimeoutError(f"mail {number} to {address} has not come into {self._folder}")
            await asyncio.sleep(0.05)
            self._look()
        return self._tokens[address][number - 1]

    def _look(self) -> None:
        for path in sorted(self._folder.glob("*.eml"), key=lambda found: found.stat().st_mtime_ns):
            if path.name in self._read:
                continue
            self._read.add(path.name)
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_body(("plain",))
            if body is not None and (found := _TOKEN.search(body.get_content())):
                self._tokens.setdefault(str(mail["To"]).casefold(), []).append(found[1])


@dataclass
class Crowd:
    """The people, their workspace and its public channels. The first person is its admin."""

    workspace_id: str
    people: list[Person]
    conversation_ids: list[str] = field(default_factory=list)

    async def tokens(self, system: System, count: int | None = None) -> list[str]:
        """Access tokens, one per person, that last long enough for a job."""
        chosen = self.people[:count]
        due = [person for person in chosen if time.monotonic() - person.refreshed_at > _FRESH_SECONDS]
        if due:
            async with open_channels(system.target)[0] as channel:
                stub: Any = auth_rpc.AuthServiceStub(channel)
                for person in due:
                    request = auth.RefreshSessionRequest(session_token=person.session_token)
                    person.take((await stub.RefreshSession(request, timeout=_CALL_SECONDS)).tokens)
        return [person.access_token for person in chosen]


async def gather(system: System, people: int) -> Crowd:
    """Sign people up, have them join one workspace, and make its channels."""
    async with open_channels(system.target)[0] as channel:
        mailbox = Mailbox(system.mail)
        turnstile = asyncio.Semaphore(_AT_ONCE)
        run = uuid.uuid4().hex[:8]

        async def sign_up(number: int) -> Person:
            async with turnstile:
                return await _sign_up(channel, mailbox, f"load-{run}-{number}@example.com")

        signed_in = await asyncio.gather(*map(sign_up, range(people)))
        admin, others = signed_in[0], signed_in[1:]
        stub: Any = workspaces_rpc.WorkspaceServiceStub(channel)
        made = await _call(stub.CreateWorkspace, workspaces.CreateWorkspaceRequest(name="Load"), admin)
        admin.member_id = made.member.member_id
        crowd = Crowd(made.workspace.workspace_id, signed_in)

        async def join(person: Person) -> None:
            async with turnstile:
                person.member_id = await _join(channel, mailbox, crowd, person)

        await asyncio.gather(*map(join, others))
        for number in range(CHANNELS):
            crowd.conversation_ids.append(await make_channel(channel, crowd, f"channel {number}"))
    return crowd


async def make_channel(channel: grpc.aio.Channel, crowd: Crowd, name: str) -> str:
    """A public channel of the crowd's workspace; returns its id."""
    stub: Any = conversations_rpc.ConversationServiceStub(channel)
    request = conversations.CreateChannelRequest(
        workspace_id=crowd.workspace_id, name=name, visibility=conversations.VISIBILITY_PUBLIC
    )
    answer = await _call(stub.CreateChannel, request, crowd.people[0])
    return str(answer.conversation.conversation_id)


async def _sign_up(channel: grpc.aio.Channel, mailbox: Mailbox, address: str) -> Person:
    stub: Any = auth_rpc.AuthServiceStub(channel)
    await stub.SignUp(auth.SignUpRequest(email=address, password=PASSWORD, name="Load"), timeout=_CALL_SECONDS)
    token = await mailbox.token(address, 1)
    await stub.VerifyEmail(auth.VerifyEmailRequest(token=token), timeout=_CALL_SECONDS)
    answer = await sign_in(channel, address)
    person = Person(address, answer.user.user_id)
    person.take(answer.tokens)
    return person


async def sign_in(channel: grpc.aio.Channel, address: str) -> auth.SignInResponse:
    """Another session of somebody who has signed up here."""
    stub: Any = auth_rpc.AuthServiceStub(channel)
    request = auth.SignInRequest(email=address, password=PASSWORD)
    answer: auth.SignInResponse = await stub.SignIn(request, timeout=_CALL_SECONDS)
    return answer


async def _join(channel: grpc.aio.Channel, mailbox: Mailbox, crowd: Crowd, person: Person) -> str:
    stub: Any = invitations_rpc.InvitationServiceStub(channel)
    invitation = invitations.CreateInvitationRequest(
        workspace_id=crowd.workspace_id, email=person.email, role=members.ROLE_MEMBER
    )
    await _call(stub.CreateInvitation, invitation, crowd.people[0])
    token = await mailbox.token(person.email, 2)
    answer = await _call(stub.AcceptInvitation, invitations.AcceptInvitationRequest(token=token), person)
    return str(answer.member.member_id)


async def _call(rpc: Any, request: Any, person: Person) -> Any:
    return await rpc(request, metadata=bearer(person.access_token), timeout=_CALL_SECONDS)
